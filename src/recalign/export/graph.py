"""A policy as one graph of plain operations: histories in, the best items out.

The graph has dynamic numbers of histories B, events L, hidden items S and items V. Whatever has one row an item is an
input of it (`Part.tables`), so items can be added without an exporter. Row 0 of a table is the padding item; its logit
is always -inf, so that 0 may stand wherever there is no item.

Shape suffixes: B histories, L events, S hidden items, V items, N = V + 1 rows of a table, D width, H heads, C width of
a head, Q queries, K items of an answer, M members on a trunk, R item factors and a constant, T = B targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recalign.errors import InputError
from recalign.evaluation.baselines import ItemScores, LowerBound, Rerank, Scores
from recalign.nn import HSTU, Encoder, Window, unit
from recalign.nn.encoder import valid_rows
from recalign.nn.hstu import EPS, HSTULayer, gather, layer_norm, time_buckets
from recalign.posttrain.conditioned import ConditionedPolicy
from recalign.recommender import CodePolicy, Policy, SequencePolicy
from recalign.recommender.onerec_policy import CodeState
from recalign.reward import RewardEnsemble, member_deviation
from recalign.reward.heads import MeanHead
from recalign.reward.net import RewardNet


@dataclass(frozen=True)
class Histories:
    """B histories, padded at the end, one of which may be empty.

    Attributes:
        item_BL: int64, 0 is padding.
        time_BL, request_time_BL: int64, seconds, as in `recalign.sequences.Batch`.
        length_B: int64.
        reward_BL: NaN where there is none.
    """

    item_BL: Tensor
    time_BL: Tensor
    request_time_BL: Tensor
    length_B: Tensor
    reward_BL: Tensor

    @property
    def newest_B(self) -> Tensor:
        """Place of the newest event, 0 where there is none. Shape: int64 (B,)."""
        return (self.length_B - 1).clamp(min=0)


@singledispatch
def newest(encoder: Encoder, x_BLD: Tensor, h: Histories) -> Tensor:
    """What an encoder says after the newest event. Shape: (B, L, D) -> (B, D)."""
    state_BLD = encoder(x_BLD, h.length_B, h.time_BL, h.request_time_BL)
    return at(state_BLD, h.newest_B)


@newest.register
def _(encoder: HSTU, x_BLD: Tensor, h: Histories) -> Tensor:
    """HSTU without tiles; the last layer has one query, the newest event."""
    rows = x_BLD.shape[1]
    x_BLD = torch.add(encoder.position[:rows], x_BLD, alpha=encoder.dim**0.5)
    x_BLD = x_BLD.masked_fill(~valid_rows(h.length_B, rows), 0)
    index_L = torch.arange(rows, device=x_BLD.device)
    layers: list[HSTULayer] = [*encoder.layers]
    last = layers.pop()
    if layers:
        offset_LL, bucket_BLL = index_L - index_L[:, None], time_buckets(h.request_time_BL, h.time_BL)
        for layer in layers:
            x_BLD = dense(layer, x_BLD, x_BLD, offset_LL, bucket_BLL)
    offset_B1L = index_L - h.newest_B[:, None, None]
    request_B1 = h.request_time_BL.gather(1, h.newest_B[:, None])
    query_B1D = at(x_BLD, h.newest_B)[:, None]
    return dense(last, query_B1D, x_BLD, offset_B1L, time_buckets(request_B1, h.time_BL))[:, 0]


def dense(layer: HSTULayer, query_BQD: Tensor, x_BLD: Tensor, offset_QL: Tensor, bucket_BQL: Tensor) -> Tensor:
    """`HSTULayer` for some queries, in one product. Shape: offset (Q, L) or (B, Q, L) -> (B, Q, D)."""
    u, v, q, k = layer.uvqk.weight.chunk(4)
    u_BQE, q_BQE = F.silu(F.linear(layer_norm(query_BQD), torch.cat([u, q]))).chunk(2, dim=-1)
    v_BLE, k_BLE = F.silu(F.linear(layer_norm(x_BLD), torch.cat([v, k]))).chunk(2, dim=-1)
    v_BHLC, q_BHQC, k_BHLC = (e.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for e in (v_BLE, q_BQE, k_BLE))
    bias_BQL = layer.masked_position_bias(offset_QL)
    if layer.time_bias is not None:
        bias_BQL = bias_BQL + gather(layer.time_bias, bucket_BQL)
    weight_BHQL = F.silu(q_BHQC @ k_BHLC.transpose(2, 3) + bias_BQL.unsqueeze(-3))
    mixed_BQE = (weight_BHQL @ v_BHLC).transpose(1, 2).flatten(2)
    return query_BQD + layer.output(u_BQE * layer_norm(mixed_BQE, EPS * layer.max_length**2))


def at(x_BLD: Tensor, place_B: Tensor) -> Tensor:
    """One row of each. Shape: (B, L, D), (B,) -> (B, D)."""
    return x_BLD.gather(1, place_B[:, None, None].expand(-1, 1, x_BLD.shape[2]))[:, 0]


class Part(nn.Module):
    """What computes a score for every item from histories and tables."""

    needs: frozenset[str] = frozenset()
    """Inputs beyond items, times and lengths: ``reward``, ``strength``."""

    fixed: bool = False
    """Whether the number of items is a constant of the graph."""

    def tables(self) -> dict[str, Tensor]:
        """What has a row an item, the padding item first, by the name of the graph's input. Shape: (N, ...) each."""
        return {}

    def forward(self, h: Histories, given: Mapping[str, Tensor]) -> Tensor:
        """Shape: -> (B, N)."""
        raise NotImplementedError


class ItemPart(Part):
    """A `SequencePolicy`: cosines over the temperature, and the item prior.

    The rows of its table are kept as unit vectors and lengths: histories need the first times the second.
    """

    def __init__(self, policy: SequencePolicy, condition: ConditionedPolicy | None = None) -> None:
        super().__init__()
        self.policy, self.condition = policy, condition
        self.needs = frozenset({"reward"} if policy.past_rewards is not None else ())

    def tables(self) -> dict[str, Tensor]:
        table_ND = self.policy.item_table().float()
        bias_V = self.policy.prior_strength * self.policy.prior.log_count_V
        bias_N = F.pad(bias_V, (1, 0), value=-torch.inf)
        found = {"unit": unit(table_ND), "norm": torch.linalg.vector_norm(table_ND, dim=1), "bias": bias_N}
        if not self.policy.prior_strength:  # without a history all items would be tied
            found["popular"] = F.pad(self.policy.prior.log_count_V, (1, 0), value=-torch.inf)
        return found

    def forward(self, h: Histories, given: Mapping[str, Tensor]) -> Tensor:
        x_BLD = F.embedding(h.item_BL, given["unit"]) * F.embedding(h.item_BL, given["norm"][:, None])
        if self.policy.past_rewards is not None:
            x_BLD = x_BLD + self.policy.past_rewards(h.reward_BL)
        state_BD = newest(self.policy.encoder, x_BLD, h)
        if self.condition is not None:
            asked_B1 = self.condition.asked.expand(state_BD.shape[0], 1)
            state_BD = state_BD + self.condition.condition(torch.cat([state_BD, asked_B1], dim=1))
        state_BD = state_BD * (h.length_B > 0)[:, None]  # without a history the item prior answers alone
        length_B1 = torch.linalg.vector_norm(state_BD, dim=1, keepdim=True).clamp(min=1e-12)
        logit_BN = (state_BD / length_B1) @ given["unit"].T / self.policy.temperature + given["bias"]
        if "popular" in given:
            logit_BN = torch.where((h.length_B > 0)[:, None], logit_BN, given["popular"])
        return logit_BN


class OnePerRow(Window):
    """The context of one target a row, which no grid has to lay out."""

    @property
    def grid(self) -> tuple[Tensor, int, Tensor]:
        return self.row_T, 1, self.row_T

    def lay(self, x_T: Tensor) -> Tensor:
        return x_T[:, None]

    def pick(self, x_UM: Tensor) -> Tensor:
        return x_UM[:, 0]


class CodePart(Part):
    """A `CodePolicy`: a walk over all prefixes of codes. Its trie is in the graph, so its items are fixed."""

    fixed = True

    def __init__(self, policy: CodePolicy) -> None:
        super().__init__()
        self.policy = policy
        self.needs = frozenset({"reward"} if policy.past_rewards is not None else ())

    def forward(self, h: Histories, given: Mapping[str, Tensor]) -> Tensor:
        policy, row_B = self.policy, torch.arange(h.length_B.shape[0])
        x_BLD = policy.item_embedding(h.item_BL)
        if policy.past_rewards is not None:
            x_BLD = x_BLD + policy.past_rewards(h.reward_BL)
        x_BLD = policy.encoder(x_BLD, h.length_B, h.time_BL, h.request_time_BL)
        keys, values = policy.decoder.keys_and_values(x_BLD)
        window = OnePerRow(keys, values, h.time_BL, h.request_time_BL, row_B, h.newest_B)
        first_BD = policy.start.expand(row_B.shape[0], -1)
        if policy.newest is not None:
            first_BD = first_BD + policy.newest(at(x_BLD, h.newest_B))
        h_B1D, past = policy.decoder(first_BD[:, None], window, None)
        logp_BV = policy._walk(CodeState(window, past, h_B1D[:, 0]))
        popular_V = (policy.count_V + 0.5).log()  # for who has no history, which no decoder was trained on
        return F.pad(logp_BV.where((h.length_B > 0)[:, None], popular_V), (1, 0), value=-torch.inf)


class ScorePart(Part):
    """`ItemScores`: one score an item, for everybody."""

    def __init__(self, scores: ItemScores) -> None:
        super().__init__()
        self.scores = scores

    def tables(self) -> dict[str, Tensor]:
        return {"item_score": F.pad(self.scores.score_V, (1, 0))}

    def forward(self, h: Histories, given: Mapping[str, Tensor]) -> Tensor:
        return given["item_score"].expand(h.length_B.shape[0], -1)


class NetPart(nn.Module):
    """One network of a reward ensemble; the names of its tables begin with ``reward<n>_``."""

    def __init__(self, net: RewardNet, number: int, average: bool) -> None:
        super().__init__()
        self.net, self.name = net, f"reward{number}_"
        self.average = average and isinstance(net.head, MeanHead)  # linear: one product does for all members

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
        if net.head.wide:
            found["width"] = net.item_width[..., 0]
        return {self.name + name: table.detach() for name, table in found.items()}

    def forward(self, h: Histories, given: Mapping[str, Tensor]) -> Tensor:
        """Each member's prediction, or, where it may, their mean. Shape: -> (M or 1, B, N)."""
        net, own = self.net, {name: given[self.name + name] for name in ("embedding", "key", "bias")}
        x_BLD = F.embedding(h.item_BL, own["embedding"]) + net.trunk.past_rewards(h.reward_BL)  # type: ignore[misc]
        state_BD = newest(net.trunk.encoder, x_BLD, h) * (h.length_B > 0)[:, None]
        folded_MBR = self._fold_in(h, given)
        summary_BD = torch.cat([state_BD, folded_MBR[..., 1:].mean(dim=0)], dim=1)
        user_MBS, bias_MN = net.user_side((summary_BD, folded_MBR)), own["bias"].T
        if self.average:
            user_MBS, bias_MN = user_MBS.mean(dim=0, keepdim=True), bias_MN.mean(dim=0, keepdim=True)
        score_MBN = user_MBS[..., : net.dim] @ own["key"].T + user_MBS[..., net.dim, None] + bias_MN[:, None]
        width_MBN = None
        if net.head.wide:
            width_MBN = user_MBS[..., net.dim + 1, None] + given[self.name + "width"].T[:, None]
        return net.mean + net.scale * net.head.expected(score_MBN, width_MBN)

    def _fold_in(self, h: Histories, given: Mapping[str, Tensor]) -> Tensor:
        """`RewardNet._fold_in` after the newest event. Shape: -> (M, B, R)."""
        net = self.net
        z_BL1 = ((h.reward_BL - net.mean) / net.scale)[..., None]
        known_BL1 = ~z_BL1.isnan()
        bias_BLM, factor_BLR, variance_BLF = (
            F.embedding(h.item_BL, given[self.name + name]) for name in ("bias", "factor", "variance")
        )
        residual_BLM = torch.where(known_BL1, z_BL1 - bias_BLM, 0.0)
        x_BLR = torch.cat([known_BL1.float(), known_BL1 * factor_BLR], dim=2)
        ridge_R = net.log_ridge.exp()
        variance_BF = (known_BL1 * variance_BLF).sum(dim=1)
        diagonal_BR = ridge_R + F.pad(variance_BF, (0, ridge_R.shape[0] - variance_BF.shape[1]))
        gram_BRR = x_BLR.transpose(1, 2) @ x_BLR + torch.eye(ridge_R.shape[0]) * diagonal_BR[:, None]
        return solved(gram_BRR, x_BLR.transpose(1, 2) @ residual_BLM).permute(2, 0, 1)


def solved(gram_BRR: Tensor, right_BRM: Tensor) -> Tensor:
    """Solve positive definite systems by Gauss and Jordan, without pivots: a Cholesky factor has no ONNX form.

    Shape: (B, R, R), (B, R, M) -> (B, R, M).
    """
    size = right_BRM.shape[1]
    both_BRX, one_RR = torch.cat([gram_BRR, right_BRM], dim=2), torch.eye(size)
    for row in range(size):
        pivot_B1X = both_BRX[:, row : row + 1] / both_BRX[:, row : row + 1, row : row + 1]
        both_BRX = both_BRX - (both_BRX[:, :, row : row + 1] - one_RR[:, row : row + 1]) * pivot_B1X
    return both_BRX[:, :, size:]


class RewardPart(Part):
    """A reward ensemble: the mean over members, less ``spread`` standard deviations of them."""

    needs = frozenset({"reward"})

    def __init__(self, reward: RewardEnsemble, spread: float = 0.0) -> None:
        super().__init__()
        self.nets: Sequence[NetPart] = nn.ModuleList(  # type: ignore[assignment]
            NetPart(net, number, not spread) for number, net in enumerate(reward.nets)
        )
        self.spread = spread

    def tables(self) -> dict[str, Tensor]:
        return {name: table for net in self.nets for name, table in net.tables().items()}

    def forward(self, h: Histories, given: Mapping[str, Tensor]) -> Tensor:
        predicted_MBN = torch.cat([net(h, given) for net in self.nets])
        mean_BN = predicted_MBN.mean(dim=0)
        return mean_BN - self.spread * member_deviation(predicted_MBN) if self.spread else mean_BN


class RerankPart(Part):
    """`Rerank`: a policy's logits and a strength times scores; each request names its strength."""

    def __init__(self, rerank: Rerank) -> None:
        super().__init__()
        self.policy, self.scores = part_of(rerank.policy), scores_of(rerank.reward)
        self.needs, self.fixed = self.policy.needs | self.scores.needs | {"strength"}, self.policy.fixed

    def tables(self) -> dict[str, Tensor]:
        return self.policy.tables() | self.scores.tables()

    def forward(self, h: Histories, given: Mapping[str, Tensor]) -> Tensor:
        return self.policy(h, given) + given["strength"][:, None] * self.scores(h, given)


def scores_of(scores: Scores) -> Part:
    """The part that reranks by some scores."""
    if isinstance(scores, ItemScores):
        return ScorePart(scores)
    return RewardPart(scores.reward, scores.spread) if isinstance(scores, LowerBound) else RewardPart(scores)


@singledispatch
def part_of(policy: Policy) -> Part:
    """The part that computes a policy's log-probabilities up to a constant.

    Raises:
        InputError: the policy has no graph.
    """
    remedy = "export a policy over item ids or semantic ids, or a reranked one"
    raise InputError(f"{type(policy).__name__} has no graph", remedy=remedy)


part_of.register(SequencePolicy, ItemPart)
part_of.register(CodePolicy, CodePart)
part_of.register(Rerank, RerankPart)


@part_of.register
def _(policy: ConditionedPolicy) -> Part:
    if not isinstance(policy.base, SequencePolicy):
        what = f"a return-conditioned {type(policy.base).__name__} has no graph"
        raise InputError(what, remedy="export one over item ids")
    return ItemPart(policy.base, policy)


class Graph(nn.Module):
    """What is exported: the best ``k`` items that are not hidden, and the scores of all.

    Args:
        part: computes the scores.
        k: K.
        known: whether a request's own time is an input (``request_time: known``); else it is the newest event's.
    """

    def __init__(self, part: Part, k: int, known: bool) -> None:
        super().__init__()
        self.part, self.k, self.known = part, k, known
        self.inputs = ["item", "time", "length", "hidden", *sorted(part.needs), *(["request_time"] if known else [])]

    def forward(self, given: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """From the inputs by name to an answer.

        Shape:
            item, time, request_time: int64 (B, L); length: int64 (B,); hidden: int64 (B, S), 0 for none.
            reward: float32 (B, L), NaN for none; strength: float32 (B,).
            returns: int64 (B, K) items, 0 where fewer are left; their scores; (B, N) scores of all, log-probabilities
                up to a constant, without regard to ``hidden``.
        """
        request_time_BL = given["request_time"] if self.known else given["time"]
        reward_BL = given.get("reward", given["time"])  # where nothing reads it
        h = Histories(given["item"], given["time"], request_time_BL, given["length"], reward_BL)
        score_BN = self.part(h, given)
        left_BN = score_BN.scatter(1, given["hidden"], -torch.inf)
        score_BK, item_BK = left_BN.topk(self.k, dim=1)
        return item_BK.masked_fill(score_BK == -torch.inf, 0), score_BK, score_BN
