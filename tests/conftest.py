"""What several rooms' tests share: a small log that is made, not read."""

from __future__ import annotations

import os

os.environ.setdefault("WANDB_MODE", "disabled")

import numpy as np
import polars as pl
import pytest
import torch

torch.set_num_threads(1)


def small_log(users: int = 30, items: int = 40, events: int = 20, seed: int = 0) -> pl.DataFrame:
    """A log of ``users * events`` ratings in which tastes are clear: user u likes the items of its own half."""
    random = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        liked = np.arange(user % 2, items, 2)
        other = np.arange(1 - user % 2, items, 2)
        chosen = np.concatenate(
            [random.choice(liked, events * 3 // 4, replace=False), random.choice(other, events // 4, replace=False)]
        )
        for step, item in enumerate(random.permutation(chosen)):
            good = item % 2 == user % 2
            rows.append((user + 1, int(item) + 1, 4 + int(random.random() < 0.5) if good else 2, 1000 + 60 * step + user))
    frame = pl.DataFrame(rows, schema=["user", "item", "rating", "timestamp"], orient="row")
    return frame.sample(fraction=1.0, shuffle=True, seed=seed)


@pytest.fixture(scope="session")
def log_root(tmp_path_factory: pytest.TempPathFactory):
    """A data root with ``small.csv``."""
    root = tmp_path_factory.mktemp("data")
    small_log().write_csv(root / "small.csv")
    return root
