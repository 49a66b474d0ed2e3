"""What users do: how much, when, and what they choose next.

The constants were set once, against the moments of ML-100K (docs/simulation.md), and are frozen.

Shape legend: U users, B users of one block, I items, D latent dimensions, T slices of time,
N events, those of one user after those of the other.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from recalign.simulation.people import SLICES, Floats, People, mix

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

SPAN = 215 * 86_400  # seconds that the log covers, as ML-100K does
IDLE = 0.19  # least activity of a user, relative to the mean: 20 of 106 in ML-100K
SPREAD = 0.6  # shape of the gamma distribution of the activity above that
LATEST = 0.5  # users arrive uniformly in this first part of the span, and stay
SITTING = 5  # mean events of one sitting
PAUSE = 60  # mean seconds between two events of one sitting
OCCASIONS = 0.3  # share of the sittings that are under the circumstance
CHOICE = 0.8  # log-odds that one standard deviation of satisfaction adds to a choice
LASTING = 0.3  # share of a habit's variance that never changes; the rest drifts
MEMORY = 0.93  # correlation of the drifting part between one event and the next
BLOCK = 256  # users at once: the weights of a block stay in the processor's cache


def draw_activity(rng: np.random.Generator, users: int, events: int, most: int) -> Ints:
    """Draw how many events each user has: skewed like ML-100K's, from 1 to `most`, `events` in all."""
    share_U = IDLE + (1 - IDLE) * rng.gamma(SPREAD, 1 / SPREAD, size=users)
    low, high = 0.0, most / IDLE  # events of a share of 1; others get what users at `most` cannot
    for _ in range(60):
        middle = (low + high) / 2
        enough = np.clip(middle * share_U, 1, most).sum() >= events
        low, high = (low, middle) if enough else (middle, high)
    wanted_U = np.clip(high * share_U, 1, most)
    count_U = np.floor(wanted_U).astype(np.int64)
    count_U[np.argsort(count_U - wanted_U, kind="stable")[: events - count_U.sum()]] += 1
    return count_U


def draw_clock(rng: np.random.Generator, count_U: Ints) -> tuple[Ints, Bools]:
    """Draw when events happen: after the user's arrival, in sittings spread over the rest of the span.

    Returns:
        second_N: seconds since the start, strictly rising within a user.
        occasion_N: whether the event's sitting is under the circumstance.
    """
    total = int(count_U.sum())
    start_U = np.cumsum(count_U) - count_U
    opens_N = rng.random(total) < 1 / SITTING
    opens_N[start_U] = True
    occasion_N = (rng.random(total) < OCCASIONS)[np.flatnonzero(opens_N)[np.cumsum(opens_N) - 1]]

    # Exponential gaps before each sitting and after the last, stretched to fill the time from arrival to the end.
    arrival_U = rng.uniform(0, LATEST * SPAN, size=len(count_U))
    gap_N = np.where(opens_N, rng.exponential(size=total), 0.0)
    after_U = rng.exponential(size=len(count_U))
    stretch_U = (SPAN - arrival_U) / (np.add.reduceat(gap_N, start_U) + after_U)
    sitting_N = np.repeat(arrival_U, count_U) + np.repeat(stretch_U, count_U) * _running_sum(gap_N, count_U)
    pause_N = rng.geometric(1 / PAUSE, size=total)  # at least a second, so that a user's events are never tied
    return np.floor(sitting_N).astype(np.int64) + _running_sum(pause_N, count_U), occasion_N


def _running_sum(values_N: NDArray[Any], count_U: Ints) -> NDArray[Any]:
    """Cumulative sum that starts again at every user."""
    sum_N = np.cumsum(values_N)
    before_U = (sum_N - values_N)[np.cumsum(count_U) - count_U]
    return sum_N - np.repeat(before_U, count_U)


def centre(occasion_N: Bools) -> Floats:
    """The circumstance with expected mean 0 and standard deviation 1, so that the truth is the mean over it."""
    return ((occasion_N - OCCASIONS) / np.sqrt(OCCASIONS * (1 - OCCASIONS))).astype(np.float32)


def slice_of(second_N: Ints) -> Ints:
    """The time slice of each second."""
    return np.minimum(second_N * SLICES // SPAN, SLICES - 1)


def choose(
    rng: np.random.Generator,
    people: People,
    count_U: Ints,
    slice_N: Ints,
    circumstance_N: Floats,
    *,
    habit: float,
    fashion: float,
    confounding: float,
    random_N: Bools | None = None,
) -> Ints:
    """Draw the item of each event by the logging policy, no item twice for a user.

    Items that the user has not had are drawn from softmax(CHOICE * (satisfaction + habit * h + fashion * f +
    confounding * c * o)): h is the user's present habit for the item, f the item's fashion at the time, c the
    circumstance, o how far the item belongs to it. Habits drift, so recent choices predict the next one better than
    old ones. Where `random_N` is true, all these items are equally likely.
    """
    item_N = np.empty(len(slice_N), dtype=np.int64)
    start_U = np.cumsum(count_U) - count_U
    fashion_TI = np.float32(CHOICE * fashion) * people.fashion_TI
    habit_DI = np.float32(CHOICE * habit) * people.position_ID.T
    occasion_I = np.float32(CHOICE * confounding) * people.occasion_I
    busiest_U = np.argsort(-count_U, kind="stable")  # so that users with events left are the first rows of a block
    console = Console(stderr=True)
    blocks = range(0, len(count_U), BLOCK)
    for first in track(blocks, "simulating", console=console, transient=True, disable=not console.is_terminal):
        user_B = busiest_U[first : first + BLOCK]
        open_BI = np.float32(CHOICE) * people.satisfaction_UI[user_B]  # minus infinity once the user has had the item
        drift_BD = rng.standard_normal((len(user_B), habit_DI.shape[0]), dtype=np.float32)
        for step in range(count_U[user_B[0]]):
            user_B = user_B[count_U[user_B] > step]
            event_B = start_U[user_B] + step
            drift_BD = drift_BD[: len(user_B)]
            logit_BI = mix(people.habit_UD[user_B], drift_BD, LASTING) @ habit_DI
            logit_BI += open_BI[: len(user_B)]
            logit_BI += fashion_TI[slice_N[event_B]]
            logit_BI += circumstance_N[event_B, None] * occasion_I
            if random_N is not None:
                logit_BI[random_N[event_B, None] & (logit_BI > -np.inf)] = 0
            item_N[event_B] = _draw(rng, logit_BI)
            open_BI[np.arange(len(user_B)), item_N[event_B]] = -np.inf
            drift_BD = mix(drift_BD, rng.standard_normal(drift_BD.shape, dtype=np.float32), MEMORY**2)
    return item_N


def _draw(rng: np.random.Generator, logit_BI: Floats) -> Ints:
    """Draw from the softmax of each row, by inverting the cumulative weights. Overwrites `logit_BI`."""
    logit_BI -= logit_BI.max(axis=1, keepdims=True)
    np.exp(logit_BI, out=logit_BI)
    cumulative_BI = np.cumsum(logit_BI, axis=1, out=logit_BI)
    # 1 - u is in (0, 1]: the mark never exceeds the total, and an item of weight 0 never reaches it first.
    mark_B = (1 - rng.random(len(logit_BI), dtype=np.float32)) * cumulative_BI[:, -1]
    return (cumulative_BI >= mark_B[:, None]).argmax(axis=1)
