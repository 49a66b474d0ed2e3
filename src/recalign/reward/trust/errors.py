"""Errors of a reward model beside those of averages: what is looked at after every epoch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

MEANS = ("global", "user", "item", "user_item")


@dataclass(frozen=True)
class Trust:
    """Errors of a reward model on events it was not trained on.

    Attributes:
        events: how many events were measured.
        rmse, mae: of the model, in the reward's own unit.
        r2: share of the variance that it explains: 1 - MSE / variance.
        rmse_of: RMSE of each mean (``global``, ``user``, ``item``, ``user_item``).
    """

    events: int
    rmse: float
    mae: float
    r2: float
    rmse_of: dict[str, float]

    @property
    def reliability(self) -> float:
        """How far a prediction stands for the reward, 0..1: R2, never below 0."""
        return max(self.r2, 0.0)

    def figures(self) -> dict[str, float]:
        """All figures by name."""
        return {
            "rmse": self.rmse,
            "mae": self.mae,
            "r2": self.r2,
            **{f"rmse_{name}": value for name, value in self.rmse_of.items()},
        }


def trust_of(expected: pl.DataFrame, predicted: np.ndarray) -> Trust:
    """Measure a reward model.

    Args:
        expected: a row an event with ``reward`` and the means of `MEANS`.
        predicted: the model's expected reward of each, float32.
    """
    reward = expected["reward"].to_numpy()
    error = predicted - reward
    variance = float(reward.var())
    return Trust(
        events=len(reward),
        rmse=float(np.sqrt(np.square(error).mean())),
        mae=float(np.abs(error).mean()),
        r2=1 - float(np.square(error).mean()) / variance if variance > 0 else 0.0,
        rmse_of={name: float(np.sqrt(np.square(expected[name].to_numpy() - reward).mean())) for name in MEANS},
    )
