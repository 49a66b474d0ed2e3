"""Bootstrap intervals over users and seeds, and Holm's correction for multiple comparisons.

A metric is the mean over seeds of a ratio of sums over users: sum_u total[s, u] / sum_u count[s, u]. A draw resamples
users, with all their events and the same weight in every seed, and seeds, with all their users (Owen 2007, "The
pigeonhole bootstrap"). For a paired difference, total sums the event-wise differences of a seed and user.

A plain bootstrap of S seeds underestimates their variance by the factor (S - 1) / S. The seed part of every draw is
therefore scaled by sqrt(S / (S - 1)) (Rao & Wu 1988). In simulations, 95 % intervals cover the truth in 92 to 97 % of
the worlds where users contribute at least as much noise as seeds. Where nearly all noise is between seeds, coverage is
91 % with 5 seeds and 84 % with 3 (plain bootstrap: 89 % and 75 %). With one seed the interval is over users only.

Suffixes: D draws, U users, S seeds, R rows (any number of ratios), C columns to sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

CHUNK = 64 * 2**20  # bytes of user weights converted to float64 at a time
MAX_STORED = 2**30  # bytes of user weights to keep for all metrics; larger ones are drawn again for each


@dataclass(frozen=True)
class Estimate:
    """A metric and its bootstrap draws (D,). Draws without events are nan; intervals ignore them."""

    value: float
    draws_D: np.ndarray

    def __sub__(self, other: Estimate) -> Estimate:
        """The paired difference, draw by draw."""
        with np.errstate(invalid="ignore"):
            return Estimate(self.value - other.value, self.draws_D - other.draws_D)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Percentile interval: the k-th smallest and k-th largest draw, k = (D + 1) * (1 - level) / 2.

        nan where the metric is nan; infinite where the draws are too few for the level.
        """
        draws = self._sorted()
        if len(draws) == 0:
            return float("nan"), float("nan")
        k = int((len(draws) + 1) * (1 - level) / 2 + 1e-9)  # rounding must not floor an exact k one too low
        return (float(draws[k - 1]), float(draws[-k])) if k > 0 else (-float("inf"), float("inf"))

    def p_value(self) -> float:
        """Two-sided p-value of "the metric is 0": the smallest 1 - level whose interval excludes 0; 1 if it is nan."""
        draws = self._sorted()
        rarer = min(np.sum(draws <= 0), np.sum(draws >= 0))
        return float(min(1.0, 2 * (1 + rarer) / (1 + len(draws))))

    def _sorted(self) -> np.ndarray:
        return np.sort(self.draws_D[~np.isnan(self.draws_D)]) if not np.isnan(self.value) else np.empty(0)


class CrossedBootstrap:
    """Bootstrap draws of users and seeds, shared by all metrics. Column u is the same user in every array."""

    def __init__(self, users: int, draws: int = 2000, seed: int = 0) -> None:
        self.users, self.draws, self.seed = users, draws, seed
        self._stored = list(self._weights()) if draws * users <= MAX_STORED else None

    def _weights(self) -> Iterator[np.ndarray]:
        """How often each draw has each user, a chunk of draws at a time; the same in every call."""
        rng, step = np.random.default_rng(self.seed), max(1, CHUNK // (8 * self.users))
        for start in range(0, self.draws, step):
            weight_DU = np.empty((min(step, self.draws - start), self.users), dtype=np.uint8)  # far below 255
            for weight_U in weight_DU:
                weight_U[:] = np.bincount(rng.integers(self.users, size=self.users), minlength=self.users)
            yield weight_DU

    def ratios(self, total_RU: np.ndarray, count_RU: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ratios of sums over users: on the data, (R,), and in each draw, (D, R). 0 / 0 is nan."""
        # Methods share their events, so most count rows are equal: sum each distinct row once.
        distinct = list({row.tobytes(): row for row in count_RU}.values())
        place = {row.tobytes(): len(total_RU) + i for i, row in enumerate(distinct)}
        count_R = [place[row.tobytes()] for row in count_RU]
        sum_CU = np.concatenate([total_RU, distinct])
        weights = self._weights() if self._stored is None else self._stored
        drawn_DC = np.concatenate([weight_DU.astype(float) @ sum_CU.T for weight_DU in weights])
        with np.errstate(invalid="ignore"):
            return total_RU.sum(1) / count_RU.sum(1), drawn_DC[:, : len(total_RU)] / drawn_DC[:, count_R]

    def over_seeds(self, value_S: np.ndarray, drawn_DS: np.ndarray) -> Estimate:
        """Mean over seeds of the result of `ratios`, resampling seeds too."""
        seeds = len(value_S)
        mean_D = drawn_DS.mean(1)
        if seeds > 1:
            rng = np.random.default_rng([self.seed, seeds])
            weight_DS = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=self.draws)
            mean_D += np.sqrt(seeds / (seeds - 1)) * ((weight_DS * drawn_DS).mean(1) - mean_D)
        return Estimate(float(value_S.mean()), mean_D)

    def mean(self, total_SU: np.ndarray, count_SU: np.ndarray) -> Estimate:
        """Mean over seeds of sum(total) / sum(count), given each user's total and event count in each seed."""
        return self.over_seeds(*self.ratios(total_SU, count_SU))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's adjusted p-values (1979): the i-th smallest of m times m - i + 1, made non-decreasing, at most 1."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def holm_intervals(estimates: Sequence[Estimate], level: float = 0.95) -> list[tuple[float, float]]:
    """Intervals that exclude 0 only where Holm's procedure rejects.

    The i-th smallest p-value of m gets the level 1 - alpha / (m - i + 1). After the first one that is not rejected, all
    others get its level.
    """
    intervals = [(-np.inf, np.inf)] * len(estimates)
    divisor, rejecting = len(estimates), True
    for index in np.argsort([estimate.p_value() for estimate in estimates], kind="stable"):
        low, high = intervals[index] = estimates[index].interval(1 - (1 - level) / divisor)
        rejecting = rejecting and (low > 0 or high < 0)
        if rejecting:
            divisor -= 1
    return intervals
