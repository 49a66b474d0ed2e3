"""Simulate what users do: how many events, when, and on which items.

The constants were set once to match the moments of ML-100K (docs/simulation.md), and are frozen.

Shape legend: U users, B users of one block, I items, D latent dimensions, T slices of time,
N events, sorted by user.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from recalign.data.simulation.people import SLICES, Floats, People, mix

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

SPAN = 215 * 86_400  # seconds that the log covers, as ML-100K does
MIN_ACTIVITY = 0.19  # relative to the mean activity: 20 of 106 events in ML-100K
ACTIVITY_SHAPE = 0.6  # shape of the gamma distribution of the activity above that
LATEST_ARRIVAL = 0.5  # users arrive uniformly in this first part of the span, and stay to its end
SESSION_EVENTS = 5  # mean events of a session
SESSION_PAUSE = 60  # mean seconds between two events of a session
CIRCUMSTANCE_SHARE = 0.3  # share of the sessions that are under the circumstance, a confounder
CHOICE_LOG_ODDS = 0.8  # log-odds that one standard deviation of satisfaction adds to a choice
STABLE_HABIT_SHARE = 0.3  # share of a habit's variance that is constant; the rest drifts
HABIT_CORRELATION = 0.93  # of the drifting part between consecutive events
BLOCK = 256  # users per block, so that its weights fit in the CPU cache


def draw_activity(rng: np.random.Generator, users: int, events: int, most: int) -> Ints:
    """Draw the number of events of each user: skewed as in ML-100K, 1 to `most` each, `events` in total."""
    share_U = MIN_ACTIVITY + (1 - MIN_ACTIVITY) * rng.gamma(ACTIVITY_SHAPE, 1 / ACTIVITY_SHAPE, size=users)
    low, high = 0.0, most / MIN_ACTIVITY  # bisect for the events of a user with share 1, given the cap `most`
    for _ in range(60):
        middle = (low + high) / 2
        enough = np.clip(middle * share_U, 1, most).sum() >= events
        low, high = (low, middle) if enough else (middle, high)
    wanted_U = np.clip(high * share_U, 1, most)
    count_U = np.floor(wanted_U).astype(np.int64)
    count_U[np.argsort(count_U - wanted_U, kind="stable")[: events - count_U.sum()]] += 1
    return count_U


def draw_times(rng: np.random.Generator, count_U: Ints) -> tuple[Ints, Bools]:
    """Draw the times of events: in sessions, spread from the user's arrival to the end of the span.

    Returns:
        second_N: seconds since the start, strictly increasing within a user.
        under_N: whether the event's session is under the circumstance.
    """
    total = int(count_U.sum())
    start_U = np.cumsum(count_U) - count_U
    opens_N = rng.random(total) < 1 / SESSION_EVENTS
    opens_N[start_U] = True
    under_N = (rng.random(total) < CIRCUMSTANCE_SHARE)[np.flatnonzero(opens_N)[np.cumsum(opens_N) - 1]]

    # Exponential gaps before each session and after the last, scaled to fill the time from arrival to the end.
    arrival_U = rng.uniform(0, LATEST_ARRIVAL * SPAN, size=len(count_U))
    gap_N = np.where(opens_N, rng.exponential(size=total), 0.0)
    after_U = rng.exponential(size=len(count_U))
    stretch_U = (SPAN - arrival_U) / (np.add.reduceat(gap_N, start_U) + after_U)
    session_N = np.repeat(arrival_U, count_U) + np.repeat(stretch_U, count_U) * _running_sum(gap_N, count_U)
    pause_N = rng.geometric(1 / SESSION_PAUSE, size=total)  # at least one second: a user's events are never tied
    return np.floor(session_N).astype(np.int64) + _running_sum(pause_N, count_U), under_N


def _running_sum(values_N: NDArray[Any], count_U: Ints) -> NDArray[Any]:
    sum_N = np.cumsum(values_N)
    before_U = (sum_N - values_N)[np.cumsum(count_U) - count_U]
    return sum_N - np.repeat(before_U, count_U)


def time_slice(second_N: Ints) -> Ints:
    """The slice of time that each second is in, for `People.fashion_TI`."""
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
    shown: int = 0,
    seed: int = 0,
) -> tuple[Ints, Ints]:
    """Draw the item of each event by the logging policy, without repeats within a user.

    The policy is a softmax over the items that the user has not had, with logits

        CHOICE_LOG_ODDS * (satisfaction + habit * h + fashion * f + confounding * c * o)

    h is the user's current habit for the item, f the item's fashion at the time, c the circumstance, and o the item's
    affinity to it. Habits drift, so recent choices predict the next one better than old ones. Where `random_N` is true,
    the draw is uniform over the same items. With ``shown`` S above 0, S of these items are drawn first, by fashion's
    part of the logits and without replacement, and the user chooses one of them by the other parts.

    Returns:
        The chosen items, and the items shown for each choice, sorted by id. Shape: (N,), (N, S).
    """
    shown_NS, draws = np.empty((len(slice_N), shown), dtype=np.int64), np.random.default_rng([seed, 2])
    item_N = np.empty(len(slice_N), dtype=np.int64)
    start_U = np.cumsum(count_U) - count_U
    fashion_TI = np.float32(CHOICE_LOG_ODDS * fashion) * people.fashion_TI
    habit_DI = np.float32(CHOICE_LOG_ODDS * habit) * people.position_ID.T
    affinity_I = np.float32(CHOICE_LOG_ODDS * confounding) * people.affinity_I
    busiest_U = np.argsort(-count_U, kind="stable")  # users with events left come first in a block
    console, blocks = Console(stderr=True), range(0, len(count_U), BLOCK)
    for first in track(blocks, "simulating", console=console, transient=True, disable=not console.is_terminal):
        user_B = busiest_U[first : first + BLOCK]
        open_BI = np.float32(CHOICE_LOG_ODDS) * people.satisfaction_UI[user_B]  # -inf once the user has had it
        drift_BD = rng.standard_normal((len(user_B), habit_DI.shape[0]), dtype=np.float32)
        for step in range(count_U[user_B[0]]):
            user_B = user_B[count_U[user_B] > step]
            event_B = start_U[user_B] + step
            drift_BD = drift_BD[: len(user_B)]
            logit_BI = mix(people.habit_UD[user_B], drift_BD, STABLE_HABIT_SHARE) @ habit_DI
            logit_BI += open_BI[: len(user_B)]
            if shown:
                exposed_BI = fashion_TI[slice_N[event_B]] + draws.gumbel(size=logit_BI.shape)  # Gumbel top-S
                exposed_BI[logit_BI == -np.inf] = -np.inf
                shown_NS[event_B] = np.sort(np.argpartition(-exposed_BI, shown - 1)[:, :shown])
                not_shown_BI = np.ones(logit_BI.shape, dtype=bool)
                np.put_along_axis(not_shown_BI, shown_NS[event_B], False, axis=1)
                logit_BI[not_shown_BI] = -np.inf
            else:
                logit_BI += fashion_TI[slice_N[event_B]]
            logit_BI += circumstance_N[event_B, None] * affinity_I
            if random_N is not None:
                logit_BI[random_N[event_B, None] & (logit_BI > -np.inf)] = 0
            # Sample from the softmax by inverting its cumulative distribution.
            logit_BI -= logit_BI.max(axis=1, keepdims=True)
            cumulative_BI = np.cumsum(np.exp(logit_BI, out=logit_BI), axis=1, out=logit_BI)
            # 1 - u is in (0, 1], so a mark never exceeds the total, and no item of weight 0 is drawn.
            mark_B = (1 - rng.random(len(logit_BI), dtype=np.float32)) * cumulative_BI[:, -1]
            item_N[event_B] = (cumulative_BI >= mark_B[:, None]).argmax(axis=1)
            open_BI[np.arange(len(user_B)), item_N[event_B]] = -np.inf
            drift_BD = mix(drift_BD, rng.standard_normal(drift_BD.shape, dtype=np.float32), HABIT_CORRELATION**2)
    return item_N, shown_NS
