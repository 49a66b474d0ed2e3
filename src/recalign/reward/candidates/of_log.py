"""Candidate rewards of a log as its YAML describes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from recalign.data.sequences import EventDataModule
from recalign.reward.candidates.comparison import compare_rewards
from recalign.reward.candidates.values import Candidate, with_own
from recalign.reward.trust.verdict import repeated_share


def compare_log_rewards(data: EventDataModule, rewards: Mapping[str, Any], against: str | None = None) -> pl.DataFrame:
    """`compare_rewards` of a log's events and of its own reward, which is a candidate too.

    Args:
        data: the log; its ``users`` are those whose events are compared, and among whom rewards are ranked.
        rewards: the candidates by name: an expression, a `Candidate`, or its settings.
        against: a numeric column; None: the one that a candidate is relative to, else ``data.high.within``, else none.

    Raises:
        InputError: as `compare_rewards` and `recalign.reward.candidates.values.with_own`.
    """
    own = None if data.reward is None else Candidate(data.reward, data.relative_to)
    candidates = with_own(rewards, own)
    columns = [one.relative_to.column for one in candidates.values() if one.relative_to]
    within = data.high.within if data.high else None
    sequences = data.sequences
    frame = sequences.frame.filter(pl.Series(sequences.users_in(data.users)).gather(sequences.frame["user"]))
    cold = pl.col("item_id") > sequences.num_warm  # known by their features, and no training event says how they are
    frame = frame.with_columns(item_id=pl.when(~cold).then("item_id").otherwise(0))
    repeated = repeated_share(sequences.frame, sequences.report.repeats)
    return compare_rewards(frame, candidates, against or next(iter(columns), within), repeated=repeated)
