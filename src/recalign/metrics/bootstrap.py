"""Bootstrap intervals crossed over users and seeds, and Holm's correction for several comparisons.

A figure is the mean over seeds of a ratio of sums over users: sum_u total[s, u] / sum_u count[s, u]. Draws resample
users, with all their events and the same weight in every seed, and seeds, with all their users (Owen 2007, "The
pigeonhole bootstrap"). The totals of a paired difference are sums of event-wise differences within seed and user.

A plain bootstrap of S seeds has only (S - 1) / S of their variance, so the seeds' part of every draw is stretched by
sqrt(S / (S - 1)) (Rao & Wu 1988). Simulated, 95 % intervals cover the truth in 92 to 97 % of the worlds where users
make as much of the noise as seeds or more; where nearly all of it is between seeds, in 91 % with 5 seeds and in 84 %
with 3 (a plain bootstrap: 89 % and 75 %). With one seed the interval is over users only.

Suffixes: D draws, U users, S seeds, R rows (any number of ratios), C columns to sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CHUNK = 64 * 2**20  # bytes of user weights that are held as float64 at a time


@dataclass(frozen=True)
class Estimate:
    """A figure, and the same in each draw, (D,): nan, and left out of intervals, in a draw without such events."""

    value: float
    draws_D: np.ndarray

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Percentile interval: the k-th smallest and k-th largest draw, k = (D + 1) * (1 - level) / 2.

        nan where the figure is nan; infinite where the draws are too few for the level.
        """
        draws = self._sorted()
        if len(draws) == 0:
            return float("nan"), float("nan")
        k = int((len(draws) + 1) * (1 - level) / 2 + 1e-9)  # an exact k must not be floored one too low
        return (float(draws[k - 1]), float(draws[-k])) if k > 0 else (-float("inf"), float("inf"))

    def p_value(self) -> float:
        """Two-sided p of "the figure is 0": the smallest 1 - level whose interval excludes 0; 1 where it is nan."""
        draws = self._sorted()
        rarer = min(np.sum(draws <= 0), np.sum(draws >= 0))
        return float(min(1.0, 2 * (1 + rarer) / (1 + len(draws))))

    def _sorted(self) -> np.ndarray:
        return np.sort(self.draws_D[~np.isnan(self.draws_D)]) if not np.isnan(self.value) else np.empty(0)


class CrossedBootstrap:
    """Draws of users and seeds, the same for all figures. A user has the same column in all that is measured."""

    def __init__(self, users: int, draws: int = 2000, seed: int = 0) -> None:
        self.draws, self.seed = draws, seed
        rng = np.random.default_rng(seed)
        self.weight_DU = np.empty((draws, users), dtype=np.uint8)  # multinomial counts; 255 is out of reach
        for weight_U in self.weight_DU:
            weight_U[:] = np.bincount(rng.integers(users, size=users), minlength=users)

    def ratios(self, total_RU: np.ndarray, count_RU: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ratios of sums over users: as they are, (R,), and in each draw, (D, R). 0 / 0 is nan."""
        # Methods are measured on the same events, so most counts are the same row: each is summed once.
        distinct = list({row.tobytes(): row for row in count_RU}.values())
        place = {row.tobytes(): len(total_RU) + i for i, row in enumerate(distinct)}
        count_R = [place[row.tobytes()] for row in count_RU]
        drawn_DC = self._draw(np.concatenate([total_RU, distinct]))
        with np.errstate(invalid="ignore"):
            return total_RU.sum(1) / count_RU.sum(1), drawn_DC[:, : len(total_RU)] / drawn_DC[:, count_R]

    def _draw(self, sum_CU: np.ndarray) -> np.ndarray:
        """(C, U) -> (D, C): the sums over the users of each draw."""
        step = max(1, CHUNK // (8 * sum_CU.shape[1]))
        parts = (self.weight_DU[start : start + step].astype(float) for start in range(0, self.draws, step))
        return np.concatenate([weight_DU @ sum_CU.T for weight_DU in parts])

    def over_seeds(self, value_S: np.ndarray, drawn_DS: np.ndarray) -> Estimate:
        """The mean over seeds of what `ratios` gives, seeds drawn too."""
        seeds = len(value_S)
        mean_D = drawn_DS.mean(1)
        if seeds > 1:
            rng = np.random.default_rng([self.seed, seeds])
            weight_DS = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=self.draws)
            mean_D += np.sqrt(seeds / (seeds - 1)) * ((weight_DS * drawn_DS).mean(1) - mean_D)
        return Estimate(float(value_S.mean()), mean_D)

    def mean(self, total_SU: np.ndarray, count_SU: np.ndarray) -> Estimate:
        """The mean over seeds of sum(total) / sum(count), from each user's sum and number of events in each seed."""
        return self.over_seeds(*self.ratios(total_SU, count_SU))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's step-down p-values (1979): the i-th smallest of m times m - i + 1, never falling, at most 1."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def holm_intervals(estimates: Sequence[Estimate], level: float = 0.95) -> list[tuple[float, float]]:
    """Intervals that exclude 0 only where Holm's procedure rejects.

    The i-th smallest p of m gets the level 1 - alpha / (m - i + 1); all after the first that Holm does not reject get
    that one's level.
    """
    intervals = [(-np.inf, np.inf)] * len(estimates)
    divisor, rejecting = len(estimates), True
    for index in np.argsort([estimate.p_value() for estimate in estimates], kind="stable"):
        low, high = intervals[index] = estimates[index].interval(1 - (1 - level) / divisor)
        rejecting = rejecting and (low > 0 or high < 0)
        divisor -= rejecting
    return intervals
