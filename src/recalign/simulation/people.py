"""The hidden state of a world: tastes, habits, qualities and fashions.

All sizes are in standard deviations of the true satisfaction, so those of a `World` are plain factors.
The constants were set once, against the moments of ML-100K (docs/simulation.md), and are frozen.

Shape legend: U users, I items, D latent dimensions, T slices of time.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

DIMENSIONS = 8  # of tastes, habits and items
GENRES = 20  # items of one genre lie close together
GENRE = 0.8  # share of an item's position that its genre explains
QUALITY = 0.65  # share of the satisfaction's variance that is the item's quality; the rest is its match with a taste
FAME = 0.97  # share of the variance of log-popularity that is constant; the rest rises and falls
RENOWN = 0.25  # share of the variance of fame that is the item's quality
OBSCURITY = 1.5  # shape of the gamma distribution of fame: the smaller, the more items that few users know
SLICES = 64  # of the span; fashion is constant within each
RISE, FALL = 0.04, 0.15  # how fast a vogue comes and goes, in spans


@dataclass(frozen=True)
class People:
    """The hidden state of a world. Except habit and position, all have mean 0 and standard deviation 1.

    Attributes:
        satisfaction_UI: true satisfaction, with equal means of all users.
        habit_UD: direction of what a user keeps choosing whatever its worth; independent of taste.
        position_ID: latent position of an item; the mean squared length is 1.
        fashion_TI: log-popularity over time: fame, which grows with quality, and one vogue per item.
        occasion_I: how far an item belongs to the circumstance; independent of its quality and fame.
        generosity_U: mean level of a user's rewards.
    """

    satisfaction_UI: Floats
    habit_UD: Floats
    position_ID: Floats
    fashion_TI: Floats
    occasion_I: Floats
    generosity_U: Floats


def draw_people(rng: np.random.Generator, users: int, items: int) -> People:
    """Draw the hidden state of a world."""
    position_ID = _draw_positions(rng, items)
    taste_UD = rng.normal(size=(users, DIMENSIONS))
    taste_UD -= taste_UD.mean(axis=0)  # like positions, so that the mean match of every user and item is 0
    match_UI = _standardise((taste_UD @ position_ID.T).astype(np.float32))
    quality_I = _standardise(rng.normal(size=items))
    return People(
        satisfaction_UI=_standardise(mix(quality_I, match_UI, QUALITY)),
        habit_UD=rng.standard_normal((users, DIMENSIONS), dtype=np.float32),
        position_ID=position_ID.astype(np.float32),
        fashion_TI=_draw_fashion(rng, quality_I),
        occasion_I=_standardise(rng.normal(size=items)),
        generosity_U=_standardise(rng.normal(size=users)),
    )


def mix(left: Floats, right: Floats, share: float) -> Floats:
    """Mix two independent quantities of variance 1 to one of variance 1; `left` is the given share of it."""
    return np.float32(np.sqrt(share)) * left + np.float32(np.sqrt(1 - share)) * right


def _standardise(values: NDArray[np.floating]) -> Floats:
    """Make mean and standard deviation exactly 0 and 1, so that sizes are exact in every world, however small."""
    centred = values - values.mean()
    return (centred / centred.std()).astype(np.float32)


def _draw_positions(rng: np.random.Generator, items: int) -> NDArray[np.float64]:
    genre_ID = rng.normal(size=(GENRES, DIMENSIONS))[rng.integers(GENRES, size=items)]
    position_ID = np.sqrt(GENRE) * genre_ID + np.sqrt(1 - GENRE) * rng.normal(size=(items, DIMENSIONS))
    position_ID -= position_ID.mean(axis=0)
    return position_ID / np.sqrt((position_ID**2).sum(axis=1).mean())


def _draw_fashion(rng: np.random.Generator, quality_I: Floats) -> Floats:
    """Constant fame, and for each item one vogue at a random time, which rises quickly and falls slowly."""
    luck_I = _standardise(np.log(rng.gamma(OBSCURITY, size=len(quality_I))))
    fame_I = _standardise(mix(quality_I, luck_I, RENOWN))
    time_T1 = (np.arange(SLICES)[:, None] + 0.5) / SLICES
    since_TI = time_T1 - rng.uniform(-FALL, 1 + RISE, size=len(quality_I))
    vogue_TI = np.exp(-0.5 * (since_TI / np.where(since_TI < 0, RISE, FALL)) ** 2)
    return _standardise(mix(fame_I, _standardise(vogue_TI), FAME))
