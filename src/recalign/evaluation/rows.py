"""The rows of a table of methods: a registry of those that are no policies trained for the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from recalign.evaluation.baselines import ItemScores, SameForAll, Scores, log_counts
from recalign.evaluation.item_knn import ItemKNN
from recalign.recommender.policy import Policy
from recalign.reward import RewardData, RewardEnsemble
from recalign.reward.placebo import as_placebo

READS_REWARD_MODEL = "reads/reward_model"
"""Metric of a row: 1 where it follows the reward model, in training or at serving, else 0."""


@dataclass(frozen=True)
class Row:
    """What a row is.

    Attributes:
        policy: makes the policy of a row that is counted from the log; it has no interpolation path, and no budget.
        scores: of a row that reranks: the scores by which it does so, and their unit.
        base: the trained method whose policy it reranks; None: the start.
        trained: whether it has a training of its own: of a policy or, where it reranks, of a reward model.
        permuted: whether it reads permuted rewards without any training.
    """

    policy: Callable[[RewardData], Policy] | None = None
    scores: Callable[[RewardEnsemble, RewardData], tuple[Scores, float]] | None = None
    base: str | None = None
    trained: bool = False
    permuted: bool = False

    @property
    def reranked(self) -> bool:
        """Whether it reranks a policy at serving, and so has a strength."""
        return self.scores is not None

    @property
    def post_trained(self) -> bool:
        """Whether it is a policy that is trained for it, with settings to search and a path of weights."""
        return self.trained and not self.reranked


def _by_reward(reward: RewardEnsemble, data: RewardData) -> tuple[Scores, float]:
    return reward, data.moments()[1]


def _by_item_mean(data: RewardData, of: RewardData) -> tuple[Scores, float]:
    return ItemScores(torch.from_numpy(of.moments()[2])), data.moments()[1]


ROWS: dict[str, Row] = {
    "popularity": Row(lambda data: SameForAll(log_counts(data.sequences))),
    "popularity_high": Row(lambda data: SameForAll(log_counts(data.sequences, high_only=True))),
    "item_mean": Row(lambda data: SameForAll(torch.from_numpy(data.moments()[2]) / data.moments()[1])),
    "item_knn": Row(lambda data: ItemKNN.of(data.sequences)),
    "start": Row(),
    "popularity_tilt": Row(scores=lambda _, data: (ItemScores(log_counts(data.sequences)), 1.0)),
    "rerank": Row(scores=_by_reward),
    "rerank_item_mean": Row(scores=lambda _, data: _by_item_mean(data, data)),
    "rerank_permuted": Row(scores=_by_reward, trained=True),
    "rerank_item_mean_permuted": Row(scores=lambda _, data: _by_item_mean(data, as_placebo(data)), permuted=True),
}
"""By name; `item_mean` are shrunk means, in standard deviations. All other rows are as `row_of` says."""

UNTRAINED = tuple(name for name, row in ROWS.items() if not row.trained)
"""Rows that take no training of their own."""


def row_of(method: str) -> Row:
    """What a row is: as in `ROWS`; ``<method>_rerank``, as ``rerank``, of a trained policy; else a trained policy."""
    if method not in ROWS and method.endswith("_rerank"):
        return replace(ROWS["rerank"], base=method.removesuffix("_rerank"))
    return ROWS.get(method, Row(trained=True))
