"""Fits in processes of their own, killed at a write or at a moment, continued, and compared with one that never was."""

from __future__ import annotations

import csv
import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import torch

from recalign.cli import with_config_files
from recalign.data.sequences import High
from recalign.run.stage import RunFolder, parse_stage, run_stage
from recalign.run.stage.loggers import CSVLog

KILLED = -signal.SIGKILL
FORK = multiprocessing.get_context("fork")


def fit(*words: str, at_write: int | None = None, after: float | None = None, by: int = signal.SIGKILL) -> int | None:
    """Fit in a process of its own; the exit code.

    Args:
        words: after ``recalign fit``.
        at_write: send it a signal before its n-th write: a row of figures, a sync or a rename; None: never.
        after: send it a signal after so many seconds; None: never.
        by: that signal.
    """
    child = FORK.Process(target=_fit, args=(words, at_write, by))
    child.start()
    child.join(after)
    if after is not None and child.is_alive():
        os.kill(child.pid, by)
        child.join()
    return child.exitcode


def apart(call: Callable[..., Any], *args: Any) -> None:
    """Call in a process of its own: a fork of one that has used Polars hangs, as its threads are not forked."""
    child = FORK.Process(target=call, args=args)
    child.start()
    child.join()
    assert child.exitcode == 0


def _fit(words: tuple[str, ...], at_write: int | None, by: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if at_write is not None:
        writes = itertools.count()
        for owner, name in ((os, "fsync"), (os, "replace"), (CSVLog, "log_metrics")):
            setattr(owner, name, _dying(getattr(owner, name), writes, at_write, by))
    words = (*words, "--trainer.enable_progress_bar=false")
    run_stage(parse_stage(["fit", *with_config_files("fit", list(words))]))


def _dying(call: Callable[..., Any], writes: Iterator[int], at: int, by: int) -> Callable[..., Any]:
    def die_or(*args: Any, **kwargs: Any) -> Any:
        if next(writes) == at:
            os.kill(os.getpid(), by)
        return call(*args, **kwargs)

    return die_or


def continue_until_done(folder: RunFolder, *words: str) -> None:
    """Continue a run from its last checkpoint, or begin it again where it never wrote one."""
    last = ["--ckpt_path", "last"] if folder.last.exists() else []
    assert fit(*words, *last) == 0


def differences(one: RunFolder, other: RunFolder) -> list[str]:
    """Where the checkpoints and the rows of figures of two runs differ, but for paths and speeds."""
    found = _rows_of(one) != _rows_of(other)
    return ["metrics.csv"] * found + [
        f"{name}.ckpt: {key}"
        for name in ("best", "last")
        for key in _differing(*(_content(getattr(run, name)) for run in (one, other)))
    ]


def _content(path: Path) -> dict[str, Any]:
    content = torch.load(path, weights_only=True)
    for key, state in content["callbacks"].items():
        if "best_model_path" in state:
            content["callbacks"][key] = {name: value for name, value in state.items() if "path" not in name} | {
                "dirpath": None,
                "best_k_models": list(state["best_k_models"].values()),
            }
    return content


def _differing(a: Any, b: Any, key: str = "") -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [*a, *(name for name in b if name not in a)]
        return [one for name in keys for one in _differing(a.get(name), b.get(name), f"{key}.{name}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [one for n, pair in enumerate(zip(a, b, strict=True)) for one in _differing(*pair, f"{key}.{n}")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b) else [key]
    return [] if a == b or (a != a and b != b) else [f"{key}: {a!r}, {b!r}"]


def _rows_of(run: RunFolder) -> list[dict[str, str]]:
    with open(run.figures("fit"), newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if not name.startswith("speed/")} for row in rows]


class HighOnce(High):
    """Marks the events of one partition; at a second one the process is killed."""

    marked: ClassVar[list[int]] = []

    def mark(self, frame: pl.DataFrame) -> pl.Series:
        self.marked.append(len(frame))
        if len(self.marked) > 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().mark(frame)
