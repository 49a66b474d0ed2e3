"""Requests of many users as one frame of events, and their answers as one frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from recalign.errors import InputError
from recalign.serve.server.answer import Answer


def requests_of(events: pl.DataFrame, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A request a user, in the order in which they come; arguments as of `Bundle.recommend`.

    Raises:
        InputError: a column is missing.
    """
    if lacking := [name for name in ("user", "item", "timestamp") if name not in events.columns]:
        remedy = "give the columns user, item, timestamp and, where rewards are read, reward"
        raise InputError(f"the frame has no column {lacking[0]!r}", where="requests", remedy=remedy)
    histories = events.group_by("user", maintain_order=True).agg(pl.exclude("user"))
    return [
        {"items": row["item"], "times": row["timestamp"], "rewards": row.get("reward"), **settings}
        for row in histories.iter_rows(named=True)
    ]


def as_frame(user: pl.Series, answers: Sequence[Answer], item: pl.DataType) -> pl.DataFrame:
    """The answers to `requests_of`: ``user, rank, item, title, score``.

    Args:
        user: of each event.
        answers: one a user.
        item: type of raw ids.
    """
    places = [n for n, answer in enumerate(answers) for _ in answer.items]
    shown = [one for answer in answers for one in answer.items]
    return pl.DataFrame(
        {
            "user": user.unique(maintain_order=True).gather(places),
            "rank": [rank for answer in answers for rank in range(1, len(answer.items) + 1)],
            "item": pl.Series([one.item for one in shown], dtype=item),
            "title": pl.Series([one.title for one in shown], dtype=pl.String),
            "score": pl.Series([one.score for one in shown], dtype=pl.Float64),
        }
    )
