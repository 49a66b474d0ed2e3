"""A fixed sample of the users to evaluate."""

from __future__ import annotations

import numpy as np

from recalign.data.sequences.store import PARTS, Part, Sequences
from recalign.data.sequences.windows import has_past


def with_events(sequences: Sequences, part: Part = "test") -> np.ndarray:
    """Who has events of a part that `evaluation_windows` does not leave out. Shape: bool (U,)."""
    number = PARTS[part]
    has = np.zeros(sequences.num_users, bool)
    has[sequences.frame["user"].filter(sequences.frame["split"] == number).unique().to_numpy()] = True
    return has & has_past(sequences, number)


def sample_users(sequences: Sequences, users: np.ndarray, number: int, part: Part = "test") -> np.ndarray:
    """Draw users among those with events of a part; all of these if they are no more. Shape: bool (U,) -> bool (U,).

    The log's catalogue seeds the draw, so every run takes the same users. A smaller sample is part of a larger one.
    """
    order = np.random.default_rng(int(sequences.catalogue, 16)).permutation(sequences.num_users)
    drawn = np.zeros(sequences.num_users, bool)
    drawn[order[(users & with_events(sequences, part))[order]][:number]] = True
    return drawn
