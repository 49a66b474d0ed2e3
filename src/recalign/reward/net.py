"""The reward network: history + candidate item -> expected reward.

A shallow head on a sequence encoder, arranged so that the whole catalogue is scored by one matrix product:

    r(s, v) = mean + scale * (g(s) + b_v + q(s) . c_v)

b_v is the item's quality, q(s) . c_v the taste that the encoder reads from the history, g(s) the rater's generosity:
a linear reading of the encoder's state plus the shrunk mean of the user's earlier residuals,

    sum_{i <= s} (r_i - b_{a_i}) / (n_s + k),

without which a network cannot know how a rater uses the scale. Rewards of earlier events are seen, the event's own
never.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recalign.nn import Encoder, Recorded
from recalign.recommender.checkpoint import build, recipe
from recalign.recommender.feedback import Feedback
from recalign.recommender.policy import check_length
from recalign.sequences import Batch


class RewardNet(nn.Module):
    """One reward model.

    Args:
        encoder: turns embedded histories, with their rewards, into states.
        num_items: V.
    """

    def __init__(self, encoder: Encoder, num_items: int) -> None:
        super().__init__()
        self.num_items = num_items
        dim = encoder.dim
        self.item_embedding = nn.Embedding(num_items + 1, dim, padding_idx=0)
        nn.init.trunc_normal_(self.item_embedding.weight[1:], std=0.02)
        self.encoder = encoder
        self.past_rewards = Feedback(dim)
        self.quality = nn.Embedding(num_items + 1, 1, padding_idx=0)
        nn.init.zeros_(self.quality.weight)
        self.generosity = nn.Linear(dim, 1, bias=False)
        self.shrinkage = nn.Parameter(torch.tensor(5.0).log())  # log of k
        self.taste, self.trait = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        for layer in (self.generosity, self.taste):  # a new head says nothing, so training starts from the means
            nn.init.zeros_(layer.weight)
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def calibrate(self, mean: float, scale: float, item_mean_V: Tensor) -> None:
        """Start from averages of the training rewards.

        Args:
            mean, scale: mean and standard deviation of the rewards.
            item_mean_V: each item's shrunk mean reward.
        """
        with torch.no_grad():
            self.mean.fill_(mean)
            self.scale.fill_(scale)
            self.quality.weight[1:, 0] = (item_mean_V - mean) / scale

    def state(self, batch: Batch) -> Tensor:
        """What is known before each target. Shape: (T, D + 2)."""
        check_length(batch, self.encoder)
        r_BL = (batch.reward_BL - self.mean) / self.scale
        x_BLD = self.item_embedding(batch.item_BL) + self.past_rewards(r_BL)
        h_BLD = self.encoder(x_BLD, batch.length_B, batch.time_BL, batch.request_time_BL)
        h_TD = h_BLD[batch.row_T, batch.column_T]
        past_T = self._past_residual(r_BL, batch.item_BL)[batch.row_T, batch.column_T]
        generosity_T = self.generosity(h_TD)[:, 0] + past_T
        return torch.cat([self.taste(h_TD), generosity_T[:, None], torch.ones_like(generosity_T)[:, None]], dim=1)

    def items(self) -> Tensor:
        """What is known of each item. Shape: (V, D + 2)."""
        trait_VD = self.trait(self.item_embedding.weight[1:])
        quality_V1 = self.quality.weight[1:]
        return torch.cat([trait_VD, torch.ones_like(quality_V1), quality_V1], dim=1)

    def predict(self, state: Tensor, item: Tensor | None = None) -> Tensor:
        """Expected reward, in the log's own unit.

        Shape: state (T, D + 2); item int64 (T,) or (T, C) of 1..V -> the same shape; None -> (T, V) over the catalogue.
        """
        items = self.items()
        if item is None:
            score = state @ items.T
        else:
            chosen = items[item - 1]
            score = (state.view(len(state), *[1] * (item.ndim - 1), state.shape[-1]) * chosen).sum(dim=-1)
        return self.mean + self.scale * score

    def _past_residual(self, r_BL: Tensor, item_BL: Tensor) -> Tensor:
        known_BL = ~r_BL.isnan()
        residual_BL = torch.where(known_BL, r_BL - self.quality(item_BL)[..., 0], 0.0)
        return residual_BL.cumsum(dim=1) / (known_BL.cumsum(dim=1) + self.shrinkage.exp())


class RewardEnsemble(Recorded, nn.Module):
    """K reward networks; their mean is the prediction, their spread its uncertainty.

    Args:
        encoder: the architecture of each member; every member has its own weights.
        num_items: V.
        members: K.
    """

    def __init__(self, encoder: Encoder, num_items: int, members: int = 1) -> None:
        super().__init__()
        self.num_items, self.members = num_items, members
        encoders = [encoder, *(build(recipe(encoder)) for _ in range(members - 1))]
        self.nets = nn.ModuleList(RewardNet(e, num_items) for e in encoders)

    def states(self, batch: Batch) -> Tensor:
        """What each member knows before each target. Shape: (K, T, D + 2)."""
        return torch.stack([net.state(batch) for net in self.nets])  # type: ignore[operator]

    def predictions(self, states: Tensor, item: Tensor | None = None) -> Tensor:
        """Each member's expected reward. Shape: `RewardNet.predict`'s behind K."""
        return torch.stack([net.predict(s, item) for net, s in zip(self.nets, states, strict=True)])  # type: ignore[operator]

    def predict(self, states: Tensor, item: Tensor | None = None) -> Tensor:
        """The members' mean. Shape: states (K, T, D + 2); item (T,) or (T, C) -> the same; None -> (T, V)."""
        return self.predictions(states, item).mean(dim=0)
