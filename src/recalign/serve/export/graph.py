"""A policy as one graph of plain operations: histories in, the best items out.

Dimensions B (histories), L (events), S (hidden items) and V (items) are dynamic. `Part` objects compute the scores
(`recalign.serve.export.parts`, `recalign.serve.export.score_parts`).

Shape suffixes: B histories, L events, S hidden items, V items, N = V + 1 rows of a table, K items of an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatch

import torch
from torch import Tensor, nn

from recalign.errors import InputError
from recalign.evaluation.reranking import ItemScores, Rerank
from recalign.recommender import CodePolicy, Policy, SequencePolicy
from recalign.serve.export.histories import GraphInputs
from recalign.serve.export.parts import CodePart, ItemPart, Part
from recalign.serve.export.score_parts import RewardPart, ScorePart


class RerankPart(Part):
    """`Rerank`: a policy's logits plus strength times scores; the strength is an input of each request."""

    def __init__(self, rerank: Rerank) -> None:
        super().__init__()
        self.policy = part_of(rerank.policy)
        self.scores = ScorePart(rerank.reward) if isinstance(rerank.reward, ItemScores) else RewardPart(rerank.reward)
        self.needs = self.policy.needs | self.scores.needs | {"strength"}

    def tables(self) -> dict[str, Tensor]:
        return self.policy.tables() | self.scores.tables()

    def forward(self, h: GraphInputs, given: Mapping[str, Tensor]) -> Tensor:
        return self.policy(h, given) + given["strength"][:, None] * self.scores(h, given)


@singledispatch
def part_of(policy: Policy) -> Part:
    """The part that computes a policy's log-probabilities up to a constant.

    Raises:
        InputError: no part is registered for this class of policy.
    """
    remedy = "export a policy over item ids or semantic ids, or a reranked one"
    raise InputError(f"a policy of class {type(policy).__name__} cannot be exported", remedy=remedy)


part_of.register(SequencePolicy, ItemPart)
part_of.register(CodePolicy, CodePart)
part_of.register(Rerank, RerankPart)


class Graph(nn.Module):
    """What is exported: the best ``k`` items that are not hidden, and the scores of all.

    Args:
        part: computes the scores.
        k: number of items returned, K.
        known: whether the request time is an input (``request_time: known``); else the newest event's time is used.
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
        reward_BL = given.get("reward", given["time"])  # a placeholder that is not read
        h = GraphInputs(given["item"], given["time"], request_time_BL, given["length"], reward_BL)
        score_BN = self.part(h, given)
        left_BN = score_BN.scatter(1, given["hidden"], -torch.inf)
        score_BK, item_BK = left_BN.topk(self.k, dim=1)
        return item_BK.masked_fill(score_BK == -torch.inf, 0), score_BK, score_BN
