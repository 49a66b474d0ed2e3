"""Compare candidate rewards of a log, before anything is trained on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from recalign.reward.candidates import compare_log_rewards
from recalign.run.api.fit import recommender_data
from recalign.run.api.log import Log


def compare_rewards(log: Log, rewards: Mapping[str, Any] | None = None, *, against: str | None = None) -> pl.DataFrame:
    """Compare candidate rewards on training and validation events, as `recalign rewards` does (docs/rewards.md).

    Args:
        log: the log; its own reward is a candidate too.
        rewards: the candidates by name, each an expression over the log's columns, or its settings:
            ``{"reward": "seconds", "relative_to": {"column": "length"}}``.
        against: a numeric column that each is correlated with, such as a video's duration; None: the one that a
            candidate is relative to, else that of ``high``, else none.

    Returns:
        A row a figure: ``reward``, ``figure``, ``other`` (the judge, the second of a correlation, or the column),
        ``value``, and ``ci_low`` and ``ci_high`` where it was drawn.

    Raises:
        InputError: there is no candidate, or one cannot be used.
    """
    return compare_log_rewards(recommender_data(log), rewards or {}, against)
