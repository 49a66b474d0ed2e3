"""How many of the newest events a request is answered from, chosen on validation.

Short histories are answered faster, and often no worse: NDCG@10 of the bundle is measured on the validation events, as
requests, for a few caps, and the smallest is taken that is within one standard error of the best. The error is that of
the difference, each user's events together: two caps answer the same requests, so most of their noise is the same.

Source of the rule: Breiman, Friedman, Olshen & Stone, Classification and Regression Trees (1984), section 3.4.3.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from recalign.data.sequences import EventDataModule
from recalign.serve.export.verify import as_requests, windows_of
from recalign.serve.server.bundle import Bundle

CAPS = (20, 50, 100, 200, 500, 1000, 2000, 5000)


@dataclass(frozen=True)
class Cap:
    """What a cap is worth.

    Attributes:
        newest: events that are read.
        ndcg: NDCG@10 on validation, as requests.
        behind: how much more the best cap has.
        error: one standard error of that difference, over users.
        chosen: whether it is taken.
    """

    newest: int
    ndcg: float
    behind: float
    error: float
    chosen: bool = False


def caps(data: EventDataModule, bundle: Bundle) -> list[Cap]:
    """What each cap is worth, the smallest first; one of them is chosen.

    Raises:
        InputError: there are no validation events to choose on.
    """
    windows, most = windows_of(data, "validation", "newest"), bundle.about.max_length
    gains: dict[int, np.ndarray] = {}
    for newest in tried(most):
        gains[newest], user_T, *_ = as_requests(windows, data, capped(bundle, newest))
    return chosen(gains, user_T)


def tried(most: int) -> list[int]:
    """The caps for a policy that reads at most so many events."""
    return [*(one for one in CAPS if one < most), most]


def chosen(gains: Mapping[int, np.ndarray], user_T: np.ndarray) -> list[Cap]:
    """Compare the gains of each cap on the same events, and choose. Shape: (T,) each."""
    best_T = max(gains.values(), key=lambda gain_T: float(gain_T.mean()))
    found = []
    for newest, gain_T in sorted(gains.items()):
        behind, error = paired(best_T - gain_T, user_T)
        found.append(Cap(newest, float(gain_T.mean()), behind, error))
    taken = next(place for place, one in enumerate(found) if one.behind <= one.error)
    return [replace(one, chosen=place == taken) for place, one in enumerate(found)]


def paired(difference_T: np.ndarray, user_T: np.ndarray) -> tuple[float, float]:
    """A mean difference and its standard error, that of a ratio of sums over users."""
    _, user = np.unique(user_T, return_inverse=True)
    mean, count_U = float(difference_T.mean()), np.bincount(user)
    residual_U = np.bincount(user, difference_T) - mean * count_U
    users = len(count_U)
    error = np.sqrt((residual_U**2).sum() * users / max(users - 1, 1)) / len(difference_T)
    return mean, float(error)


def capped(bundle: Bundle, newest: int) -> Bundle:
    """The same bundle, which reads fewer events of a request."""
    found, catalogue = copy.copy(bundle), copy.copy(bundle.catalogue)
    found.about = catalogue.about = replace(bundle.about, max_length=newest)
    found.catalogue = catalogue
    return found
