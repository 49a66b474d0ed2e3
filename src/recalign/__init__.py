"""recalign: align a generative recommender with what users value, from logged feedback alone.

Public names, imported when they are first used, so that ``import recalign`` costs nothing. It only makes threads that
wait for each other sleep soon, where torch is not loaded yet (docs/scale.md). docs/python.md describes the names.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

__version__ = "0.9.0"

if TYPE_CHECKING:
    from recalign.errors import InputError, TrainingError
    from recalign.run.api import (
        Comparison,
        Log,
        TrainedPolicy,
        TrainedReward,
        align,
        compare,
        compare_rewards,
        fit_judge,
        fit_recommender,
        fit_reward,
        load_policy,
        load_reward,
    )
    from recalign.serve.server import load_bundle

__all__ = [
    "Comparison",
    "InputError",
    "Log",
    "TrainedPolicy",
    "TrainedReward",
    "TrainingError",
    "align",
    "compare",
    "compare_rewards",
    "fit_judge",
    "fit_recommender",
    "fit_reward",
    "load_bundle",
    "load_policy",
    "load_reward",
]

if "OMP_WAIT_POLICY" not in os.environ:  # else threads spin on cores that other processes want
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'recalign' has no attribute {name!r}")
    from importlib import import_module

    room = "errors" if name.endswith("Error") else "serve.server" if name == "load_bundle" else "run.api"
    return getattr(import_module(f"recalign.{room}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
