"""Parts of the exported graph that compute scores for reranking: one per item, or a reward ensemble's.

Shape suffixes: B histories, L events, V items, N = V + 1 rows of a table, D width, M members on a trunk, S width of the
user side, R a constant and item factors, F those with a variance, X = R + M columns of an augmented matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recalign.evaluation.reranking import ItemScores
from recalign.reward import RewardEnsemble
from recalign.reward.heads import MeanHead
from recalign.reward.net import RewardNet
from recalign.serve.export.histories import GraphInputs, last_hidden
from recalign.serve.export.parts import Part


class ScorePart(Part):
    """`ItemScores`: one score per item, the same for all users."""

    def __init__(self, scores: ItemScores) -> None:
        super().__init__()
        self.scores = scores

    def tables(self) -> dict[str, Tensor]:
        return {"item_score": F.pad(self.scores.score_V, (1, 0))}

    def forward(self, h: GraphInputs, given: Mapping[str, Tensor]) -> Tensor:
        return given["item_score"].expand(h.length_B.shape[0], -1)


class NetPart(nn.Module):
    """One network of a reward ensemble. Names of its tables begin with ``reward<n>_``."""

    def __init__(self, net: RewardNet, number: int) -> None:
        super().__init__()
        self.net, self.name = net, f"reward{number}_"
        self.average = isinstance(net.head, MeanHead)  # linear: members can be averaged before the product

    def tables(self) -> dict[str, Tensor]:
        net = self.net
        table_ND = torch.cat([net.trunk.item_embedding.weight, net.item_factors.weight], dim=1)
        found = {
            "embedding": net.trunk.item_embedding.weight,
            "key": net.item_projection(table_ND),
            "bias": net.item_bias[..., 0],
            "factor": net.item_factors.weight,
            "variance": net.factor_variance_VF,
        }
        return {self.name + name: table.detach() for name, table in found.items()}

    def forward(self, h: GraphInputs, given: Mapping[str, Tensor]) -> Tensor:
        """Each member's prediction, or their mean if the head is linear. Shape: -> (M or 1, B, N)."""
        net, own = self.net, {name: given[self.name + name] for name in ("embedding", "key", "bias")}
        x_BLD = F.embedding(h.item_BL, own["embedding"]) + net.trunk.past_rewards(h.reward_BL)  # type: ignore[misc]
        state_BD = last_hidden(net.trunk.encoder, x_BLD, h) * (h.length_B > 0)[:, None]
        user_MBS, bias_MN = net.user_side(state_BD, self._fold_in(h, given)), own["bias"].T
        if self.average:
            user_MBS, bias_MN = user_MBS.mean(dim=0, keepdim=True), bias_MN.mean(dim=0, keepdim=True)
        score_MBN = user_MBS[..., : net.dim] @ own["key"].T + user_MBS[..., net.dim, None] + bias_MN[:, None]
        return net.mean + net.scale * net.head.expected(score_MBN)

    def _fold_in(self, h: GraphInputs, given: Mapping[str, Tensor]) -> Tensor:
        net = self.net
        z_BL1 = ((h.reward_BL - net.mean) / net.scale)[..., None]
        known_BL1 = ~z_BL1.isnan()
        bias_BLM, factor_BLF, variance_BLF = (
            F.embedding(h.item_BL, given[self.name + name]) for name in ("bias", "factor", "variance")
        )
        residual_BLM = torch.where(known_BL1, z_BL1 - bias_BLM, 0.0)
        x_BLR = torch.cat([known_BL1.float(), known_BL1 * factor_BLF], dim=2)
        ridge_R = net.log_ridge.exp()
        variance_BF = (known_BL1 * variance_BLF).sum(dim=1)
        diagonal_BR = ridge_R + F.pad(variance_BF, (0, ridge_R.shape[0] - variance_BF.shape[1]))
        gram_BRR = x_BLR.transpose(1, 2) @ x_BLR + torch.eye(ridge_R.shape[0]) * diagonal_BR[:, None]
        return solved(gram_BRR, x_BLR.transpose(1, 2) @ residual_BLM).permute(2, 0, 1)


def solved(gram_BRR: Tensor, right_BRM: Tensor) -> Tensor:
    """Solve positive definite systems by Gauss-Jordan elimination without pivoting: ONNX has no Cholesky operator.

    Shape: (B, R, R), (B, R, M) -> (B, R, M).
    """
    size = right_BRM.shape[1]
    both_BRX, one_RR = torch.cat([gram_BRR, right_BRM], dim=2), torch.eye(size)
    for row in range(size):
        pivot_B1X = both_BRX[:, row : row + 1] / both_BRX[:, row : row + 1, row : row + 1]
        both_BRX = both_BRX - (both_BRX[:, :, row : row + 1] - one_RR[:, row : row + 1]) * pivot_B1X
    return both_BRX[:, :, size:]


class RewardPart(Part):
    """A reward ensemble: the mean over members."""

    needs = frozenset({"reward"})

    def __init__(self, reward: RewardEnsemble) -> None:
        super().__init__()
        self.nets: Sequence[NetPart] = nn.ModuleList(  # type: ignore[assignment]
            NetPart(net, number) for number, net in enumerate(reward.nets)
        )

    def tables(self) -> dict[str, Tensor]:
        return {name: table for net in self.nets for name, table in net.tables().items()}

    def forward(self, h: GraphInputs, given: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([net(h, given) for net in self.nets]).mean(dim=0)
