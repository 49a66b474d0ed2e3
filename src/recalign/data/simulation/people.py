"""The latent variables of a world: tastes, habits, item qualities and popularity over time.

All are in standard deviations of the true satisfaction, so the sizes in `World` are plain factors.
The constants were set once to match the moments of ML-100K (docs/simulation.md), and are frozen.

Shape legend: U users, I items, D latent dimensions, T slices of time.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

DIMENSIONS = 8  # latent dimensions of tastes, habits and items
GENRES = 20  # items of a genre have similar positions
GENRE_SHARE = 0.8  # share of an item's position that its genre explains
QUALITY_SHARE = 0.65  # share of the satisfaction's variance due to item quality; the rest is the match with the taste
DRIFT = 0.03  # share of the variance of log-popularity that comes and goes; the rest is constant over time
POPULARITY_QUALITY_SHARE = 0.25  # share of the variance of constant log-popularity due to quality
POPULARITY_SHAPE = 1.5  # shape of a gamma distribution: the smaller, the longer the tail of rare items
SLICES = 64  # time slices; fashion is constant within one
RISE, FALL = 0.04, 0.15  # standard deviations of a popularity peak before and after its top, as shares of the span


@dataclass(frozen=True)
class People:
    """The latent variables of a world. All but habit and position have mean 0 and standard deviation 1.

    Attributes:
        satisfaction_UI: true satisfaction; every user has the same mean.
        habit_UD: latent direction of the items that a user chooses by habit; independent of taste.
        position_ID: latent position of an item; the mean squared length is 1.
        fashion_TI: log-popularity over time: a constant part, correlated with quality, and one peak per item.
        affinity_I: how strongly an item is tied to the circumstance; independent of its quality and popularity.
        generosity_U: user bias, the mean level of a user's rewards.
    """

    satisfaction_UI: Floats
    habit_UD: Floats
    position_ID: Floats
    fashion_TI: Floats
    affinity_I: Floats
    generosity_U: Floats


def draw_people(rng: np.random.Generator, users: int, items: int, drift: float = DRIFT) -> People:
    """Draw the latent variables of a world; ``drift`` is the share of log-popularity that comes and goes."""
    position_ID = _draw_positions(rng, items)
    taste_UD = rng.normal(size=(users, DIMENSIONS))
    taste_UD -= taste_UD.mean(axis=0)  # as for positions: then the mean match of every user and item is 0
    match_UI = _standardise((taste_UD @ position_ID.T).astype(np.float32))
    quality_I = _standardise(rng.normal(size=items))
    return People(
        satisfaction_UI=_standardise(mix(quality_I, match_UI, QUALITY_SHARE)),
        habit_UD=rng.standard_normal((users, DIMENSIONS), dtype=np.float32),
        position_ID=position_ID.astype(np.float32),
        fashion_TI=_draw_fashion(rng, quality_I, drift),
        affinity_I=_standardise(rng.normal(size=items)),
        generosity_U=_standardise(rng.normal(size=users)),
    )


def mix(left: Floats, right: Floats, share: float) -> Floats:
    """Mix two independent variables of variance 1 into one of variance 1, of which `left` contributes `share`."""
    return np.float32(np.sqrt(share)) * left + np.float32(np.sqrt(1 - share)) * right


def _standardise(values: NDArray[np.floating]) -> Floats:
    centred = values - values.mean()
    return (centred / centred.std()).astype(np.float32)


def _draw_positions(rng: np.random.Generator, items: int) -> NDArray[np.float64]:
    genre_ID = rng.normal(size=(GENRES, DIMENSIONS))[rng.integers(GENRES, size=items)]
    position_ID = np.sqrt(GENRE_SHARE) * genre_ID + np.sqrt(1 - GENRE_SHARE) * rng.normal(size=(items, DIMENSIONS))
    position_ID -= position_ID.mean(axis=0)
    return position_ID / np.sqrt((position_ID**2).sum(axis=1).mean())


def _draw_fashion(rng: np.random.Generator, quality_I: Floats, drift: float) -> Floats:
    """Draw constant popularity, and one peak per item at a random time. A peak rises quickly and falls slowly."""
    luck_I = _standardise(np.log(rng.gamma(POPULARITY_SHAPE, size=len(quality_I))))
    constant_I = _standardise(mix(quality_I, luck_I, POPULARITY_QUALITY_SHARE))
    time_T1 = (np.arange(SLICES)[:, None] + 0.5) / SLICES
    since_TI = time_T1 - rng.uniform(-FALL, 1 + RISE, size=len(quality_I))
    peak_TI = np.exp(-0.5 * (since_TI / np.where(since_TI < 0, RISE, FALL)) ** 2)
    return _standardise(mix(constant_I, _standardise(peak_TI), 1 - drift))
