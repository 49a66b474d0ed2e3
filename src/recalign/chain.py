"""The main job: stages in order, each one a plain ``recalign fit``, then the comparison and the report."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from recalign.errors import InputError

UNTRAINED = ("popularity", "popularity_high", "item_mean", "rerank", "rerank_item_mean")
"""Methods that take no `fit`."""

STAGES = ("recommender", "reward", "judge_select", "judge_report")
"""What every method rests on, in order."""


@dataclass
class Chain:
    """An experiment: which log, which stages, which methods.

    Attributes:
        name: names the run folder.
        log: the log's YAML, relative to the folder of the chain's YAML, or to where the command is run.
        seeds: each a whole chain: cloning, reward model, judges, post-training.
        methods: rows of the table.
        rerank: strength of `rerank` and `rerank_item_mean`, in 1 / standard deviation of the reward.
        root: folder of all runs.
        stages: settings of single stages or methods, over those of their YAML (``asft: {model: {temperature: 0.5}}``).
        trainer: settings of every stage's trainer.
        data: settings of every stage's data.
    """

    name: str
    log: str
    seeds: list[int]
    methods: list[str]
    rerank: float = 1.0
    root: str = "runs"
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Fit:
    """One stage of one seed.

    Attributes:
        stage: its name in the run folder.
        seed: of this repetition.
        argv: what follows ``recalign`` on the command line that runs it alone.
    """

    stage: str
    seed: int
    argv: list[str]

    @property
    def line(self) -> str:
        """The command that runs this stage alone."""
        return shlex.join(["recalign", *self.argv])


def flatten(settings: dict[str, Any], prefix: str = "") -> list[str]:
    """Nested settings as command-line overrides: ``{"model": {"lr": 0.1}}`` -> ``["--model.lr=0.1"]``."""
    argv = []
    for key, value in settings.items():
        if isinstance(value, dict) and value and "class_path" not in value:
            argv += flatten(value, f"{prefix}{key}.")
        else:
            argv.append(f"--{prefix}{key}={value if isinstance(value, str) else json.dumps(value)}")
    return argv
