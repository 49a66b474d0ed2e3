"""A log of clear tastes whose items have features, and new items that nobody chose in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import small

from recalign.data.events import Feature, ItemTable, LogMapping
from recalign.data.sequences import EventDataModule, LeaveLast
from recalign.recommender import RecommenderData

WARM, COLD = 36, 6
"""Items 1..36 are in training; 37..40 are chosen at the end by users who like their half; 41 and 42 by nobody."""
FEATURES = {"half": "half", "size": Feature("size", bins=3), "words": Feature("words", separator="|")}


def write(folder: Path, users: int = 120) -> Path:
    """A data root with ``new.csv`` and ``items.csv``: user u likes the items of its own parity."""
    random, rows = np.random.default_rng(0), []
    for user in range(1, users + 1):
        own, other = np.arange(2 - user % 2, WARM + 1, 2), np.arange(1 + user % 2, WARM + 1, 2)
        chosen = [*random.choice(own, 14, replace=False), *random.choice(other, 4, replace=False)]
        for step, item in enumerate(random.permutation(chosen)):
            rows.append((user, int(item), 5 if item % 2 == user % 2 else 2, 1000 + 60 * step + user))
        rows.append((user, int(random.choice([37, 39])) + 1 - user % 2, 5, 10**6 + user))
    pl.DataFrame(rows, schema=["user", "item", "rating", "timestamp"], orient="row").write_csv(folder / "new.csv")
    item = np.arange(1, WARM + COLD + 1)
    pl.DataFrame(
        {
            "item": item,
            "title": [f"film {n}" for n in item],
            "half": np.where(item % 2, "odd", "even"),
            "size": item % 3,
            "words": [f"a|w{n % 4}" for n in item],
        }
    ).write_csv(folder / "items.csv")
    return folder


def data_of(
    root: Path, features: Any = FEATURES, kind: type[EventDataModule] = RecommenderData, **settings: Any
) -> Any:
    log = LogMapping("new", ["new.csv"], items=ItemTable("items.csv", features=features))
    observed = small.OBSERVED if kind.__name__ == "PostTrainingData" else {}
    given = {"split": LeaveLast(test=1, validation=2), "users": "all", **observed} | settings
    return kind(log=log, root=str(root), **{**small.SETTINGS, **given})
