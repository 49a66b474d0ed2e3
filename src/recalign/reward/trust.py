"""May this reward model be believed? Its errors beside those of averages that know nothing of taste."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

MEANS = ("global", "user", "item", "user_item")
FILE = "trust.json"

Verdict = Literal["no_signal", "weak", "moderate", "strong"]
IMPLICATION: dict[Verdict, str] = {
    "no_signal": "The model predicts no better than a constant: stay with behaviour cloning.",
    "weak": "Averages predict nearly as well as the model: use A-SFT, with observed rewards.",
    "moderate": "The model knows more than averages, but not most of a reward: use A-SFT or offline RL.",
    "strong": "The model explains most of the rewards' variance: offline or online RL against it may pay.",
}
"""What a verdict means for the choice of a post-training method, in a sentence."""


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

    @property
    def verdict(self) -> Verdict:
        """How far to go with this model. The thresholds are provisional: no experiment has set them yet.

        - ``no_signal``: R2 <= 0, or an RMSE not below the global mean's;
        - ``weak``: an RMSE that is not more than 2 % below that of the user+item mean;
        - ``moderate``: R2 below 0.5;
        - ``strong``: anything better.
        """
        if not self.r2 > 0 or not self.rmse < self.rmse_of["global"]:
            return "no_signal"
        if not self.rmse < 0.98 * self.rmse_of["user_item"]:
            return "weak"
        return "moderate" if self.r2 < 0.5 else "strong"

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


def report(measured: Mapping[str, Trust]) -> dict[str, Any]:
    """What is said of a reward model: the verdict, what it implies, and the figures.

    The verdict and the reliability are those of the first part measured, validation where there is one: a method must
    not be chosen by what the test says.

    Args:
        measured: by part (``validation``, ``test``), in that order.
    """
    part, first = next(iter(measured.items()))
    return {
        "verdict": first.verdict,
        "implication": IMPLICATION[first.verdict],
        "judged_on": part,
        "reliability": first.reliability,
        **{name: {"events": trust.events, **trust.figures()} for name, trust in measured.items()},
    }


def write_trust(folder: Path, measured: Mapping[str, Trust]) -> None:
    """Write `report` as trust.json, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{FILE}.partial"
    partial.write_text(json.dumps(report(measured), indent=2) + "\n")
    os.replace(partial, folder / FILE)
