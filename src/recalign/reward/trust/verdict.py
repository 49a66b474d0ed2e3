"""The verdict on a reward model, and what it implies for the choice of a method."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import polars as pl

from recalign.reward.trust.measures import Table, differences

AVERAGES = ("global", "user", "item", "user_item", "ridge")
"""Predictors without any interaction of user and item."""

Verdict = Literal["not_measured", "no_signal", "weak", "moderate", "strong"]
IMPLICATION: dict[Verdict, str] = {
    "not_measured": "Not measurable: too few users have two events with different rewards, or all rewards are equal. "
    "Leave more events of a user to validation (data.split), or keep more users apart from training (data.users A, a "
    "smaller data.share_a).",
    "no_signal": "It was not shown both to predict rewards better than their overall mean and to order one user's "
    "rewards better than chance: stay with behaviour cloning.",
    "weak": "It predicts rewards, but hardly better than averages do: of the methods that use a reward model, A-SFT "
    "relies on it the least.",
    "moderate": "It beats averages, but may explain under half the variance: use A-SFT; offline RL (CQL) may pay.",
    "strong": "It explains most of the rewards' variance: offline RL (CQL), or online RL against it (PPO), may pay.",
}
"""What a verdict means for the choice of a post-training method (the order is that of the A-SFT post)."""

GAIN = 0.02
"""Required reduction of the RMSE below the best average's, as a share of it."""
MODERATE, STRONG = 0.2, 0.5
"""Least R2 of the verdicts moderate and strong."""
AT_ONCE = ("user", "item", "timestamp")
"""Columns that are equal in events logged twice, whatever their rewards."""
REPEATS = 100
"""Fewest degrees of freedom of repeated events to estimate the noise from them."""


def verdict(table: Table) -> Verdict:
    """Judge a reward model by the worse ends of 95 % intervals (except for `GAIN`, which the estimate has to reach).

    - ``not_measured``: one of the figures below is nan;
    - ``no_signal``: within a user it orders no better than chance, or its RMSE is not below the global mean's;
    - ``weak``: its RMSE is not 2 % below the best average's, or not reliably below, or R2 is under 0.2;
    - ``moderate``: R2 is under 0.5;
    - ``strong``: anything better.

    Args:
        table: figures by predictor, the model's under ``model``.
    """
    model, less, best = table["model"], differences(table), best_average(table)
    rests_on = (model["pairwise"], model["r2"], less["global"]["rmse"], less[best]["rmse"])
    if not np.isfinite([estimate.value for estimate in rests_on]).all():
        return "not_measured"
    if not model["pairwise"].interval()[0] > 0.5 or not less["global"]["rmse"].interval()[1] < 0:
        return "no_signal"
    r2 = model["r2"].interval()[0]
    gain = -less[best]["rmse"].value / table[best]["rmse"].value
    if not (gain >= GAIN and less[best]["rmse"].interval()[1] < 0 and r2 >= MODERATE):
        return "weak"
    return "moderate" if r2 < STRONG else "strong"


def best_average(table: Table) -> str:
    """The average with the smallest RMSE."""
    return min(AVERAGES, key=lambda name: table[name]["rmse"].value)


def noise(train: pl.DataFrame, table: Table, variance: float, repeated: float) -> dict[str, Any]:
    """Estimate the noise of a reward: the part that nobody can predict.

    Args:
        train: training events with a reward: ``user``, ``item``, ``timestamp``, ``reward``.
        table: figures on other events, for the floor.
        variance: of the rewards of those events; nan if all are equal.
        repeated: as in `repeat_variance`.

    Returns:
        ``source``: ``repeats``, from rewards that one user gave one item several times, or ``floor``, the smallest RMSE
        of any predictor, if there are too few repeats. ``sd``: the noise's standard deviation; with ``floor``, an upper
        limit of it. ``ceiling``: the R2 that no model exceeds; with ``floor``, the best R2 reached.
    """
    within = repeat_variance(train, repeated)
    if within is not None:
        return {"sd": within**0.5, "source": "repeats", "ceiling": 1 - within / variance}
    least = min(figures["rmse"].value for figures in table.values())
    return {"sd": least, "source": "floor", "ceiling": 1 - least**2 / variance}


def repeated_share(frame: pl.DataFrame, repeats: int) -> float:
    """Among events with the user, item and time of an earlier event, the share that are exact duplicate rows.

    Args:
        frame: the whole log.
        repeats: its rows that equal another in every column (`recalign.data.events.Report`).
    """
    again = _again(frame, *AT_ONCE) if repeats else 0  # none if data.log.collapse removed them
    return min(repeats / again, 1.0) if again else 0.0


def repeat_variance(train: pl.DataFrame, repeated: float) -> float | None:
    """Variance of the rewards that one user gave one item several times; None with fewer than `REPEATS` repeats.

    Args:
        train: events with a reward: ``user``, ``item``, ``timestamp``, ``reward``.
        repeated: `repeated_share` of the log. An event logged twice is not a second reward. If duplicate rows can be
            most of the events with equal time and reward, these count once. Else all of them count: without them the
            rest would look noisier, all the more with coarse timestamps.
    """
    if repeated * _again(train, *AT_ONCE) > _again(train, *AT_ONCE, "reward") / 2:
        train = train.unique([*AT_ONCE, "reward"], maintain_order=True)  # reproducible to the bit
    pairs = train.group_by("user", "item", maintain_order=True).agg(
        pl.len().alias("n"), pl.col("reward").var().alias("variance")
    )
    several = pairs.filter(pl.col("n") > 1)
    freedom_P, variance_P = (several["n"] - 1).to_numpy(), several["variance"].to_numpy()
    return float(freedom_P @ variance_P / freedom_P.sum()) if freedom_P.sum() >= REPEATS else None


def _again(frame: pl.DataFrame, *columns: str) -> int:
    """Number of events that equal an earlier one in these columns."""
    return len(frame) - frame.n_unique(columns)
