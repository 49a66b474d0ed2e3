"""Explain the rows that an answer names, in a few words each."""

from __future__ import annotations

import re

from recalign.evaluation.comparison_table import ComparisonTable
from recalign.evaluation.roles import START, WITHOUT_MEMORY, Roles, reranked_method

KNOWN = {
    START: "the recommender before alignment: it imitates the log",
    WITHOUT_MEMORY: "start without its memory of which items are chosen together",
    "bc": "start, trained for as long as the methods, but in the same way as before",
    "popularity": "the most chosen items, the same for everybody",
    "popularity_high": "the items with the most high rewards, the same for everybody",
    "item_mean": "the items with the best mean reward, the same for everybody",
    "item_knn": "items that are chosen together with those of the history, counted",
    "transitions": "items that follow those of the history most often, counted",
    "popularity_tilt": "start, with popular items raised; it reads no reward",
    "rerank": "start, with its items reordered by the reward model while it serves",
    "rerank_item_mean": "start, with its items reordered by their mean rewards while it serves",
}


def explained(row: str, roles: Roles) -> str:
    """Explain what a row is."""
    if copied := roles.placebos.get(row):
        return f"a placebo: {copied}, with rewards or weights that say nothing. It must gain nothing"
    if method := reranked_method(row):
        return f"{method}, with its items reordered by the reward model while it serves"
    return KNOWN.get(row, f"{START}, trained on towards higher rewards")


def names(text: str, test: ComparisonTable) -> dict[str, str]:
    """The rows that a text names, in its order, then rows named in their explanations; each with its explanation."""
    found: dict[str, str] = {}
    rows = sorted((place, row) for row in test.methods if (place := _place(row, text)) is not None)
    while new := [row for _, row in rows if row not in found]:
        found |= {row: explained(row, test.roles) for row in new}
        rows = [(0, row) for row in test.methods if any(_place(row, found[one]) is not None for one in new)]
    return found


def _place(row: str, text: str) -> int | None:
    found = re.search(rf"(?<!\w){re.escape(row)}\b", text)
    return found.start() if found else None
