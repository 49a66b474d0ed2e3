"""Errors of a reward model and of averages, computed after every epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import polars as pl

MEANS = ("global", "user", "item", "user_item")


@dataclass(frozen=True)
class Trust:
    """Errors of a reward model on events it was not trained on.

    Attributes:
        events: number of events measured.
        rmse, mae: of the model, in the reward's own unit.
        r2: share of the variance that it explains, 1 - MSE / variance; nan where all rewards are alike.
        rmse_of: RMSE of each mean (``global``, ``user``, ``item``, ``user_item``).
    """

    events: int
    rmse: float
    mae: float
    r2: float
    rmse_of: dict[str, float]

    @property
    def reliability(self) -> float:
        """How far a prediction can stand in for the reward, 0..1: R2, never below 0, and 0 where it is nan."""
        return max(0.0, self.r2)

    def figures(self) -> dict[str, float]:
        """All figures by name."""
        own = {"rmse": self.rmse, "mae": self.mae, "r2": self.r2}
        return own | {f"rmse_{name}": value for name, value in self.rmse_of.items()}


def accuracy(reward: pl.Series, predicted: pl.Series) -> dict[str, float]:
    """``rmse``, ``mae`` and ``r2`` of predictions; events with a null reward are left out."""
    known = reward.is_not_null()
    reward_N, predicted_N = (column.filter(known).to_numpy() for column in (reward, predicted))
    error_N = predicted_N - reward_N
    mse = float(np.square(error_N).mean())
    return {"rmse": mse**0.5, "mae": float(np.abs(error_N).mean()), "r2": 1 - mse / variance(reward_N)}


def variance(reward_N: np.ndarray) -> float:
    """The variance of rewards; nan where all are alike, which rounding would hide."""
    return float(reward_N.var()) if (reward_N != reward_N[:1]).any() else math.nan


def trust_of(expected: pl.DataFrame, predicted: pl.Series) -> Trust:
    """Measure a reward model.

    Args:
        expected: a row an event with ``reward`` and the means of `MEANS`; events with a null reward are left out.
        predicted: the model's expected reward of each event, float32.
    """
    reward = expected["reward"]
    rmse_of = {name: accuracy(reward, expected[name])["rmse"] for name in MEANS}
    return Trust(len(reward) - reward.null_count(), **accuracy(reward, predicted), rmse_of=rmse_of)
