"""A few users for the report: their last events, and the first items that a method shows them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from recalign.data.events import data_root, read_titles
from recalign.data.sequences import EventDataModule

FILE = "examples.json"
USERS, HISTORY_EVENTS, SHOWN_ITEMS = 5, 5, 5  # of a user: the last events, and the first items shown


def of_methods(nets: Any, policies: Any, events: Mapping[str, pl.DataFrame]) -> dict[str, Any]:
    """The examples of each method (`methods.Measure`)."""
    return {method: ({}, {FILE: examples(frame, nets.data)}) for method, frame in events.items()}


def examples(frame: pl.DataFrame, data: EventDataModule) -> list[dict[str, Any]]:
    """The first users with a test event, each at their first one, from a method's frame by `value.evaluate_policies`.

    Returns:
        For each: ``user``, the raw id as text; ``history``, the last events before it, each with ``title`` and
        ``reward`` (None if unknown); ``shown``, the titles of the first items shown.
    """
    sequences, found = data.sequences, []
    titles = read_titles(data.log_, data_root(data.root), sequences.items)[0].to_list()
    first = frame.sort("event").unique("user", keep="first", maintain_order=True).sort("user").head(USERS)
    for user, event, shown in first.select("user", "event", "shown").iter_rows():
        begin = int(sequences.offset[user])
        end = begin + int(sequences.frame["known_before"][event])
        history = [
            {"title": titles[sequences.item[at] - 1], "reward": None if math.isnan(reward) else round(reward, 4)}
            for at in range(max(begin, end - HISTORY_EVENTS), end)
            for reward in [float(sequences.reward[at])]
        ]
        own = [titles[item - 1] for item in shown[:SHOWN_ITEMS] if item]
        found.append({"user": str(sequences.users[user]), "history": history, "shown": own})
    return found
