"""A fixed sample of the users to evaluate."""

from __future__ import annotations

import numpy as np

from recalign.data.sequences.store import SPLITS, Sequences, SplitName
from recalign.data.sequences.windows import has_past


def with_events(sequences: Sequences, split: SplitName = "test") -> np.ndarray:
    """Which users have events of a split that `evaluation_windows` keeps. Shape: bool (U,)."""
    number = SPLITS[split]
    has = np.zeros(sequences.num_users, bool)
    has[sequences.frame["user"].filter(sequences.frame["split"] == number).unique().to_numpy()] = True
    return has & has_past(sequences, number)


def sample_users(sequences: Sequences, users: np.ndarray, number: int, split: SplitName = "test") -> np.ndarray:
    """Draw ``number`` users from those with events of a split, or all if fewer. Shape: bool (U,) -> bool (U,).

    `Sequences.catalogue` seeds the draw: every run takes the same users. A smaller sample is a subset of a larger one.
    """
    order = np.random.default_rng(int(sequences.catalogue, 16)).permutation(sequences.num_users)
    drawn = np.zeros(sequences.num_users, bool)
    drawn[order[(users & with_events(sequences, split))[order]][:number]] = True
    return drawn
