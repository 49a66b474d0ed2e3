"""The reward network: history + candidate item -> expected reward.

A shallow head on a sequence encoder, arranged so that the whole catalogue is scored by one matrix product:

    r(s, v) = mean + scale * E(g(s) + b_v + q(s) . c_v)

b_v is the item's quality, q(s) . c_v the taste, g(s) the rater's generosity: linear readings of the encoder's state,
and beside them what the user's earlier rewards say by themselves, the ridge regression of their residuals on 1 and on
vectors u of their items, folded in anew at every event:

    (g, p)(s) = (sum_{i <= s} (x_i x_i' + diag(0, d_{a_i})) + diag(k))^-1 sum_{i <= s} x_i (r_i - b_{a_i}),
    x_i = (1, u_{a_i}).

u are an item's factors: those of its rewards, and its co-occurrence embedding (`recalign.factorization.cooccurrence`).
b, u, the variances d of u, and k are those of a variational matrix factorisation of the training rewards
(`recalign.factorization.variational`), so that an untrained network is that factorisation for users whom it has not
met; what is learned is what the trunk reads beside it. A training event has moved the figures
of its own item towards its own reward, as no later event will have: what it did is taken off again where it is the
target. E is the head's (`recalign.reward.heads`): the identity for a mean. Rewards of earlier events are seen, the
event's own never.

The members of an ensemble share the trunk's forward pass, and each has a reading of its own (g and q; the traits c and
what comes of the factorisation are common), all of them in one product; or they share nothing.

Shape suffixes: K members, M members on one trunk, S what a state holds, R numbers of the kin; B, L, T, C, V, D as
everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recalign.factorization.variational import VariationalMF
from recalign.nn import Encoder, Recorded
from recalign.recommender.checkpoint import build, recipe
from recalign.recommender.policy import SequencePolicy
from recalign.reward.heads import Head, MeanHead
from recalign.reward.scorer import Scorer
from recalign.sequences import Batch


class RewardNet(Scorer):
    """A trunk and the readings of M members.

    The trunk is a policy that sees earlier rewards; a reward model asks it for states alone, unless it is trained
    jointly with it.

    Args:
        encoder: turns embedded histories, with their rewards, into states.
        num_items: V.
        members: M.
        head: of the main reward.
        temperature: of the trunk as a policy.
        num_factors: numbers that say of an item which others it is like in what people think of it.
        cooccurrence_dim: numbers that say which others it is chosen together with; both together are R.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_items: int,
        members: int = 1,
        head: Head | None = None,
        temperature: float = 0.05,
        num_factors: int = 8,
        cooccurrence_dim: int = 0,
    ) -> None:
        kin, self.num_factors = num_factors + cooccurrence_dim, num_factors
        super().__init__(encoder.dim + kin, num_items, members, head or MeanHead())
        self.trunk = SequencePolicy(encoder, num_items, temperature, feedback=True)
        self.item_factors = nn.Embedding(num_items + 1, kin, padding_idx=0)
        self.shrinkage = nn.Parameter(torch.tensor([5.0] + [10.0] * kin).log())  # log of k
        for known in (self.quality, self.item_factors.weight, self.shrinkage):
            known.requires_grad_(False)
        self.factor_variance_VR: Tensor
        self.register_buffer(
            "factor_variance_VR", torch.zeros(num_items + 1, 1 + num_factors)
        )  # of what is known there is no doubt
        nn.init.zeros_(self.item_factors.weight)
        with torch.no_grad():  # what is thought of an item's kin is thought of the item
            self.trait.weight[encoder.dim :, : encoder.dim] = 0
            self.trait.weight[encoder.dim :, encoder.dim :] = torch.eye(kin)
        self.auxiliary: Mapping[str, Scorer] = nn.ModuleDict()  # type: ignore[assignment]

    def calibrate(self, reward_N: np.ndarray, item_mean_V: np.ndarray) -> None:
        super().calibrate(reward_N, item_mean_V)
        self.trunk.past_rewards.calibrate(float(self.mean), float(self.scale))  # type: ignore[union-attr]

    def start(self, factorization: VariationalMF) -> None:
        """Know of items what a factorisation of the training rewards believes."""
        mean_VF = torch.from_numpy(factorization.items.mean_RF[1:]).float()
        variance_VF = torch.from_numpy(factorization.items.variance_RF[1:]).float()
        known_VK, ridge_F = (
            torch.from_numpy(factorization.known_RK[1:]).float(),
            torch.from_numpy(factorization.ridge_F).float(),
        )
        figures, known = mean_VF.shape[1], known_VK.shape[1]  # which may be fewer than there is room for
        behind = slice(self.num_factors, self.num_factors + known)
        with torch.no_grad():
            self.quality[1:] = (factorization.mean - self.mean + mean_VF[:, :1, None]) / self.scale
            self.item_factors.weight[1:, : figures - 1] = mean_VF[:, 1:]
            self.item_factors.weight[1:, behind] = known_VK
            self.factor_variance_VR[1:, 1:figures] = variance_VF[:, 1:]
            self.shrinkage[:figures], self.shrinkage[1:][behind] = ridge_F.log().tensor_split([figures])

    def self_influence(self, state_MTS: Tensor, moved_TF: Tensor) -> Tensor:
        """What training events have added to their own scores.

        Args:
            state_MTS: what each member knows before each event.
            moved_TF: how far the event moved its item's level and traits (`VariationalMF.self_influence`), in the
                log's own unit.

        Shape: (M, T).
        """
        level_T, kin_TR = moved_TF[:, 0] / self.scale, moved_TF[:, 1:]
        first = self.dim - self.item_factors.embedding_dim
        trait_TD = kin_TR @ self.trait.weight[:, first : first + self.num_factors].T
        return level_T + (state_MTS[..., : self.dim] * trait_TD).sum(dim=-1)

    def add(self, names: Sequence[str]) -> None:
        """Add readings of further rewards, under squared error."""
        made = {name: Scorer(self.dim, self.num_items, self.members, MeanHead()) for name in names}
        self.auxiliary = nn.ModuleDict(made)  # type: ignore[assignment]

    @property
    def table_VD(self) -> Tensor:
        """What is known of the items: the trunk's embeddings, and their kin. Shape: (V, D + R)."""
        return torch.cat([self.trunk.item_embedding.weight[1:], self.item_factors.weight[1:]], dim=1)

    def encode(self, batch: Batch) -> Tensor:
        """The trunk's states. Shape: (T, D)."""
        return self.trunk.encode(batch)

    def recall(self, batch: Batch, h_TD: Tensor) -> tuple[Tensor, Tensor]:
        """What is known of a history before each target: the trunk's states beside the members' mean opinion of an
        item's kin, and each member's opinions. Shape: (T, D + R), (M, T, 1 + R).
        """
        opinion_MTR = self._opinions(batch)
        return torch.cat([h_TD, opinion_MTR[..., 1:].mean(dim=0)], dim=1), opinion_MTR

    def state(self, known: tuple[Tensor, Tensor]) -> Tensor:
        """What each member knows before each target, from what `recall` gives. Shape: (M, T, S)."""
        x_TD, opinion_MTR = known
        taste, level, *width = self.read(x_TD).split([self.dim, 1] + [1] * self.head.wide, dim=2)
        other, kin = taste.split([self.dim - self.item_factors.embedding_dim, self.item_factors.embedding_dim], dim=2)
        level, kin = level + opinion_MTR[..., :1], kin + opinion_MTR[..., 1:]
        return torch.cat([other, kin, level, *width], dim=2)

    @torch.no_grad()
    def _opinions(self, batch: Batch) -> Tensor:
        """Ridge regression of the user's earlier residuals on 1 and on their items' kin. Shape: (M, T, 1 + R)."""
        z_BL1 = ((batch.reward_BL - self.mean) / self.scale)[..., None]
        known_BL1 = ~z_BL1.isnan()
        quality_BLM = F.embedding(batch.item_BL, self.quality[..., 0], padding_idx=0)
        residual_BLM = torch.where(known_BL1, z_BL1 - quality_BLM, 0.0)
        u_BLR = torch.cat([known_BL1.float(), known_BL1 * self.item_factors(batch.item_BL)], dim=2)
        length, figures = u_BLR.shape[1:]
        f_P, g_P = torch.tril_indices(figures, figures, device=u_BLR.device)  # a Gram matrix is its own transpose
        gram_BLP = u_BLR.index_select(2, f_P) * u_BLR.index_select(2, g_P)
        factor_variance_BLR = known_BL1 * F.embedding(batch.item_BL, self.factor_variance_VR)
        diagonal_R = torch.arange(factor_variance_BLR.shape[2], device=u_BLR.device)
        gram_BLP.index_add_(2, diagonal_R * (diagonal_R + 3) // 2, factor_variance_BLR)
        right_BLS = (u_BLR[..., None] * residual_BLM[..., None, :]).flatten(2)
        past = torch.cat([gram_BLP, right_BLS], dim=2).cumsum(dim=1).flatten(0, 1)
        past = past.index_select(0, batch.row_T * length + batch.column_T)
        gram_TP, right_TS = past.split([len(f_P), right_BLS.shape[2]], dim=1)
        gram_TRR = gram_TP.new_empty(len(past), figures, figures)
        gram_TRR[:, f_P, g_P] = gram_TRR[:, g_P, f_P] = gram_TP
        factor_TRR = torch.linalg.cholesky_ex(gram_TRR + self.shrinkage.exp().diag())[0]
        return torch.cholesky_solve(right_TS.view(-1, figures, self.members), factor_TRR).permute(2, 0, 1)


class RewardEnsemble(Recorded, nn.Module):
    """K reward models; their mean is the prediction, their spread its uncertainty.

    Args:
        encoder: of the trunk.
        num_items: V.
        members: K.
        share: whether the members share the ``trunk``, so that K cost little more than one, or ``nothing``: K networks
            with weights of their own, K times the cost, and a spread that also knows how far encoders differ.
        head: of the main reward; none: `MeanHead`.
        auxiliary: names of further rewards.
        temperature: of the trunk as a policy, for joint training.
        num_factors: numbers an item that say which others it is like in what people think of it.
        cooccurrence_dim: numbers an item that say which others it is chosen together with.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_items: int,
        members: int = 1,
        share: Literal["trunk", "nothing"] = "trunk",
        head: Head | None = None,
        auxiliary: list[str] | None = None,
        temperature: float = 0.05,
        num_factors: int = 8,
        cooccurrence_dim: int = 0,
    ) -> None:
        super().__init__()
        self.num_items, self.members = num_items, members
        self.made_with["head"] = head = head or MeanHead()  # the net's own, which training may size to its rewards
        heads, encoders, on_one = [head], [encoder], members
        if share == "nothing":
            heads += [build(recipe(head)) for _ in range(members - 1)]
            encoders += [build(recipe(encoder)) for _ in range(members - 1)]
            on_one = 1
        self.nets: Sequence[RewardNet] = nn.ModuleList(  # type: ignore[assignment]
            RewardNet(e, num_items, on_one, h, temperature, num_factors, cooccurrence_dim)
            for e, h in zip(encoders, heads, strict=True)
        )
        self.add(auxiliary or [])

    def add(self, auxiliary: list[str]) -> None:
        """Add readings of further rewards, which only the data know of."""
        self.made_with["auxiliary"] = auxiliary
        for net in self.nets:
            net.add(auxiliary)

    def auxiliary_predictions(self, batch: Batch, name: str) -> Tensor:
        """Each member's expectation of a further reward of the targets. Shape: (K, T)."""
        parts = []
        for net in self.nets:
            readings, (x_TD, _) = net.auxiliary[name], net.recall(batch, net.encode(batch))
            parts.append(readings.predictions(readings.read(x_TD), net.table_VD, batch.target_T))
        return torch.cat(parts)

    def states(self, batch: Batch) -> Tensor:
        """What each member knows before each target; `predictions` and `predict` read it. Shape: (K, T, S)."""
        return torch.cat([net.state(net.recall(batch, net.encode(batch))) for net in self.nets])

    def predictions(self, states: Tensor, item: Tensor | None = None) -> Tensor:
        """Each member's expected reward, in the log's own unit.

        Shape: states (K, T, S); item int64 (T,) or (T, C) of 1..V -> (K, T) or (K, T, C); None -> (K, T, V).
        """
        parts = states.split(self.members // len(self.nets))
        return torch.cat([n.predictions(s, n.table_VD, item) for n, s in zip(self.nets, parts, strict=True)])

    def predict_trained(self, states: Tensor, item_T: Tensor, moved_TF: Tensor) -> Tensor:
        """The members' mean for training events, without what each event did itself to the figures of its item.

        Shape: (K, T, S), int64 (T,), (T, F) as of `RewardNet.self_influence` -> (T,).
        """
        parts = zip(self.nets, states.split(self.members // len(self.nets)), strict=True)
        return torch.cat([n.predictions(s, n.table_VD, item_T, n.self_influence(s, moved_TF)) for n, s in parts]).mean(
            dim=0
        )

    def predict(self, states: Tensor, item: Tensor | None = None) -> Tensor:
        """The members' mean. Shape: `predictions`' without K."""
        return self.predictions(states, item).mean(dim=0)
