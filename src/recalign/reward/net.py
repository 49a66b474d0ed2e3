"""The reward network: (history, candidate item) -> expected reward.

A shallow head on a sequence encoder. One matrix product scores the whole catalogue:

    r(s, v) = mean + scale * E(b(s) + b_v + (W s) . (P e_v))

b_v and b(s) are the biases of item and user, W and P project the state s and the item's features e_v, E is the head
(`recalign.reward.heads`; the identity for `MeanHead`). e_v concatenates the trunk's item embedding and the item factors
u_v: latent factors of the rewards and a co-occurrence embedding (`recalign.recommender.cooccurrence`).

b(s) and W s also contain folded-in user parameters (g, p): a ridge regression of the residuals of the user's earlier
rewards on 1 and the item factors, solved again at every event,

    (g, p)(s) = (sum_{i <= s} (x_i x_i' + diag(0, d_{a_i})) + diag(k))^-1 sum_{i <= s} x_i (r_i - b_{a_i}),
    x_i = (1, u_{a_i}).

b_v, u_v, the variances d of u_v and the ridges k come from a variational matrix factorisation of the training rewards
(`recalign.reward.initial_factors`). An untrained network therefore equals that factorisation for new users, and
training adds what the trunk contributes. The factorisation was fitted to the training events, so each event has pulled
its item's parameters towards its own reward. When that event is the target, this effect is subtracted (a leave-one-out
correction, `self_influence`). The network sees the rewards of earlier events, never the target's.

Shape suffixes: K members, M members on one trunk, S width of the user side of a score, R item factors, F parameters
of a factorised item (bias and latent factors), N training rewards; B, L, T, C, V, D as everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recalign.data.sequences import Batch
from recalign.nn import Encoder, Rebuildable
from recalign.recommender.checkpoint import build_net, recipe
from recalign.recommender.sequence_policy import SequencePolicy
from recalign.reward.heads import Head, MeanHead


class RewardNet(nn.Module):
    """M ensemble members on one trunk, a policy that also reads earlier rewards. Members differ in b(s) and W.

    Args: as in `RewardEnsemble`; members is M, and R is the sum of num_factors and cooccurrence_dim.
    """

    mean: Tensor
    scale: Tensor
    factor_variance_VF: Tensor

    def __init__(
        self, encoder: Encoder, num_items: int, members: int, head: Head, num_factors: int, cooccurrence_dim: int
    ) -> None:
        super().__init__()
        factors, self.num_factors, self.members, self.head = num_factors + cooccurrence_dim, num_factors, members, head
        self.dim = dim = encoder.dim + factors
        self.item_bias = nn.Parameter(torch.zeros(num_items + 1, members, 1))  # a trailing 1: no weight decay
        self.user_bias = nn.Linear(dim, members, bias=False)
        self.user_projection = nn.Linear(dim, members * dim, bias=False)
        self.item_projection = nn.Linear(dim, dim, bias=False)
        for layer in (self.user_bias, self.user_projection):
            nn.init.zeros_(layer.weight)  # training starts from the factorisation
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))
        self.trunk = SequencePolicy(encoder, num_items, feedback=True)
        self.item_factors = nn.Embedding(num_items + 1, factors, padding_idx=0)
        self.log_ridge = nn.Parameter(torch.tensor([5.0] + [10.0] * factors).log())  # log of k
        for fixed in (self.item_bias, self.item_factors.weight, self.log_ridge):
            fixed.requires_grad_(False)
        # d; 0 for the bias. The co-occurrence embedding has no variance.
        self.register_buffer("factor_variance_VF", torch.zeros(num_items + 1, 1 + num_factors))
        nn.init.zeros_(self.item_factors.weight)
        with torch.no_grad():  # P starts as the identity on item factors, to match the folded-in p
            self.item_projection.weight[encoder.dim :, : encoder.dim] = 0
            self.item_projection.weight[encoder.dim :, encoder.dim :] = torch.eye(factors)

    def calibrate(self, reward_N: np.ndarray, item_mean_V: np.ndarray) -> None:
        """Initialise from the training rewards and each item's shrunk mean.

        Raises:
            InputError: the head cannot model these rewards.
        """
        mean, scale = float(reward_N.mean()), float(reward_N.std(ddof=1))
        self.head.calibrate(reward_N, mean, scale)
        with torch.no_grad():
            self.mean.fill_(mean)
            self.scale.fill_(scale)
            self.item_bias[1:] = torch.from_numpy((item_mean_V - mean) / scale).float()[:, None, None]
        self.trunk.past_rewards.calibrate(float(self.mean), float(self.scale))  # type: ignore[union-attr]

    def states(self, batch: Batch) -> Tensor:
        """The user side of the scores before each target. Shape: (M, T, S)."""
        return self.user_side(self.trunk.encode(batch), self.fold_in(batch))

    def user_side(self, h_TD: Tensor, folded_MTR: Tensor) -> Tensor:
        """W s + p and b(s) + g. W and b read the trunk's states and the mean of the members' factors (`fold_in`).

        Shape: (M, T, S).
        """
        factors = self.item_factors.embedding_dim
        x_TD = torch.cat([h_TD, folded_MTR[..., 1:].mean(dim=0)], dim=1)
        projected_MTD = self.user_projection(x_TD).unflatten(1, (self.members, self.dim)).transpose(0, 1)
        embedding, factor = projected_MTD.split([self.dim - factors, factors], dim=2)
        bias = self.user_bias(x_TD).T[..., None] + folded_MTR[..., :1]
        return torch.cat([embedding, factor + folded_MTR[..., 1:], bias], dim=2)

    def scores(self, states_MTS: Tensor, item: Tensor | None = None) -> Tensor:
        """b(s) + b_v + (W s) . (P e_v).

        Shape: item int64 (T,) or (T, C) of 1..V -> (M, T) or (M, T, C); None -> (M, T, V) over the catalogue.
        """
        query_MTD, user_bias = states_MTS[..., : self.dim], states_MTS[..., self.dim]
        table_VD = torch.cat([self.trunk.item_embedding.weight[1:], self.item_factors.weight[1:]], dim=1)  # e
        if item is None:
            match, item_bias = query_MTD @ self.item_projection(table_VD).T, self.item_bias[1:, :, 0].T[:, None]
            return match + user_bias[..., None] + item_bias
        if item.numel() < len(table_VD):  # project the smaller set
            key = self.item_projection(F.embedding(item - 1, table_VD))
        else:
            key = F.embedding(item - 1, self.item_projection(table_VD))
        item_bias = F.embedding(item, self.item_bias[..., 0], padding_idx=0).movedim(-1, 0)
        if item.ndim == 1:
            return (query_MTD * key).sum(dim=-1) + user_bias + item_bias
        return (key @ query_MTD.permute(1, 2, 0)).permute(2, 0, 1) + user_bias[..., None] + item_bias

    def self_influence(self, states_MTS: Tensor, influence_TF: Tensor) -> Tensor:
        """How much each training event added to its own score, through its item's parameters. Shape: (M, T).

        ``influence_TF``: its leave-one-out effect on the item's bias and latent factors, in the unit of the log.
        """
        first = self.dim - self.item_factors.embedding_dim
        key_TD = influence_TF[:, 1:] @ self.item_projection.weight[:, first : first + self.num_factors].T
        return influence_TF[:, 0] / self.scale + (states_MTS[..., : self.dim] * key_TD).sum(dim=-1)

    @torch.no_grad()
    def fold_in(self, batch: Batch) -> Tensor:
        """Ridge regression of the user's earlier residuals on 1 and the item factors. Shape: (M, T, 1 + R).

        Cumulative sums over the history give the normal equations before every target.
        """
        z_BL1 = ((batch.reward_BL - self.mean) / self.scale)[..., None]
        known_BL1 = ~z_BL1.isnan()
        bias_BLM = F.embedding(batch.item_BL, self.item_bias[..., 0], padding_idx=0)
        residual_BLM = torch.where(known_BL1, z_BL1 - bias_BLM, 0.0)
        x_BLR = torch.cat([known_BL1.float(), known_BL1 * self.item_factors(batch.item_BL)], dim=2)
        size = x_BLR.shape[2]
        f_P, g_P = torch.tril_indices(size, size, device=x_BLR.device)  # the Gram matrices are symmetric
        gram_BLP = x_BLR.index_select(2, f_P) * x_BLR.index_select(2, g_P)
        variance_BLF = known_BL1 * F.embedding(batch.item_BL, self.factor_variance_VF)
        diagonal_F = torch.arange(variance_BLF.shape[2], device=x_BLR.device)
        gram_BLP.index_add_(2, diagonal_F * (diagonal_F + 3) // 2, variance_BLF)
        right_BLX = (x_BLR[..., None] * residual_BLM[..., None, :]).flatten(2)
        past = batch.newest(torch.cat([gram_BLP, right_BLX], dim=2).cumsum(dim=1))
        gram_TP, right_TX = past.split([len(f_P), right_BLX.shape[2]], dim=1)
        gram_TRR = gram_TP.new_empty(len(past), size, size)
        gram_TRR[:, f_P, g_P] = gram_TRR[:, g_P, f_P] = gram_TP
        factor_TRR = torch.linalg.cholesky_ex(gram_TRR + self.log_ridge.exp().diag())[0]
        return torch.cholesky_solve(right_TX.view(-1, size, self.members), factor_TRR).permute(2, 0, 1)


class RewardEnsemble(Rebuildable, nn.Module):
    """An ensemble of K reward models, which predicts their mean.

    Args:
        encoder: encoder of the trunk.
        num_items: V.
        members: K.
        share: ``trunk``: members share the trunk, so K cost little more than one; ``nothing``: K separate networks,
            at K times the cost. Their spread includes the differences between encoders.
        head: output head of the reward; None: `MeanHead`.
        num_factors: latent factors of an item.
        cooccurrence_dim: dimensions of an item's co-occurrence embedding.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_items: int,
        members: int = 1,
        share: Literal["trunk", "nothing"] = "trunk",
        head: Head | None = None,
        num_factors: int = 8,
        cooccurrence_dim: int = 0,
    ) -> None:
        super().__init__()
        self.num_items, self.members = num_items, members
        self.init_args["head"] = head = head or MeanHead()  # the first network's head: calibration may resize it
        copies = members - 1 if share == "nothing" else 0
        heads = [head, *(build_net(recipe(head)) for _ in range(copies))]
        encoders = [encoder, *(build_net(recipe(encoder)) for _ in range(copies))]
        each = members // len(heads)
        self.nets: Sequence[RewardNet] = nn.ModuleList(  # type: ignore[assignment]
            RewardNet(e, num_items, each, h, num_factors, cooccurrence_dim)
            for e, h in zip(encoders, heads, strict=True)
        )

    def states(self, batch: Batch) -> Tensor:
        """The user side of each member's scores before each target, the input of `predict`. Shape: (K, T, S)."""
        return torch.cat([net.states(batch) for net in self.nets])

    def predictions(self, states: Tensor, item: Tensor | None = None, influence_TF: Tensor | None = None) -> Tensor:
        """Each member's expected reward, in the unit of the log.

        Args:
            states: what `states` returned. Shape: (K, T, S).
            item: int64 items of 1..V; None: the whole catalogue. Shape: (T,) or (T, C) -> (K, T) or (K, T, C).
            influence_TF: for training events: their effect on their own score to subtract (`RewardNet.self_influence`).
        """
        predicted = []
        for net, own in zip(self.nets, states.split(self.members // len(self.nets)), strict=True):
            score = net.scores(own, item)
            if influence_TF is not None:
                score = score - net.self_influence(own, influence_TF)
            predicted.append(net.mean + net.scale * net.head.expected(score))
        return torch.cat(predicted)

    def predict(self, states: Tensor, item: Tensor | None = None, influence_TF: Tensor | None = None) -> Tensor:
        """Mean prediction over members. Arguments and shapes as in `predictions`, without K."""
        return self.predictions(states, item, influence_TF).mean(dim=0)
