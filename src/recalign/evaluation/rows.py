"""The registry of rows: what a row of a table is, by its name."""

from __future__ import annotations

from dataclasses import replace

import torch

from recalign.evaluation.counted_rows import NON_PERSONALISED, TableRow, log_counts
from recalign.evaluation.reranking import ItemScores, RerankedRow, Scores
from recalign.evaluation.roles import WITHOUT_MEMORY, reranked_method
from recalign.recommender.item_knn import ItemKNN, transitions
from recalign.reward import RewardData, RewardEnsemble
from recalign.reward.placebo import as_placebo


def _by_reward(reward: RewardEnsemble, data: RewardData) -> tuple[Scores, float]:
    return reward, data.reward_moments().sd


def _by_item_mean(data: RewardData, rewards: RewardData) -> tuple[Scores, float]:
    return ItemScores(torch.from_numpy(rewards.reward_moments().item_mean_V)), data.reward_moments().sd


RERANKED = {
    "popularity_tilt": RerankedRow(scores=lambda _, data: (ItemScores(log_counts(data.sequences)), 1.0)),
    "rerank": RerankedRow(scores=_by_reward),
    "rerank_item_mean": RerankedRow(scores=lambda _, data: _by_item_mean(data, data)),
    "rerank_permuted": RerankedRow(scores=_by_reward, trained=True),
    "rerank_item_mean_permuted": RerankedRow(
        scores=lambda _, data: _by_item_mean(data, as_placebo(data)), permuted=True
    ),
}
ROWS: dict[str, TableRow] = {
    **NON_PERSONALISED,
    "item_knn": TableRow(lambda data: ItemKNN.of(data.sequences)),
    "transitions": TableRow(lambda data: transitions(data.sequences)),
    "start": TableRow(),
    WITHOUT_MEMORY: TableRow(),
    **RERANKED,
}
UNTRAINED = tuple(name for name, row in ROWS.items() if not row.trained)
"""Rows that take no training of their own."""


def row_of(method: str, strength: float = 1.0, keep: float | None = None) -> TableRow:
    """Look up a row by name: in `ROWS`, as a reranked row (``rerank``, ``<method>_rerank``), else as a trained policy.

    ``strength`` and ``keep`` are set on a `RerankedRow`, and ignored for others.
    """
    if reranked_method(method):
        return replace(RERANKED["rerank"], base=reranked_method(method), strength=strength, keep=keep)
    if method in RERANKED:
        return replace(RERANKED[method], strength=strength, keep=keep)
    return ROWS.get(method, TableRow(trained=True))


def is_post_trained(method: str) -> bool:
    """Whether a row is a post-trained policy, with settings to search and an interpolation path."""
    row = row_of(method)
    return row.trained and not isinstance(row, RerankedRow)
