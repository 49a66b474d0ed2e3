"""recalign: align a generative recommender with what users value, from logged feedback alone.

Public names, imported when they are first used, so that ``import recalign`` costs nothing. It only chooses how torch's
threads wait for each other, where torch is not loaded yet (`recalign.run.cores`). docs/python.md describes the names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recalign.run.cores import set_wait_policy

__version__ = "1.0.0"

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
    from recalign.serve.export.command import export
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
    "export",
    "fit_judge",
    "fit_recommender",
    "fit_reward",
    "load_bundle",
    "load_policy",
    "load_reward",
]

set_wait_policy()


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'recalign' has no attribute {name!r}")
    from importlib import import_module

    rooms = {"export": "serve.export.command", "load_bundle": "serve.server"}
    room = "errors" if name.endswith("Error") else rooms.get(name, "run.api")
    return getattr(import_module(f"recalign.{room}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
