"""What a run prints: progress, and no warnings that a user can do nothing about."""

from __future__ import annotations

import functools
import logging
import math
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar, Timer

_NOISE = (
    r".*does not have many workers.*",
    r".*smaller than the logging interval.*",
    r".*exists and is not empty.*",
    r".*LeafSpec.*",
    r"(?s).*(was deprecated in v4|JsonargparseDeprecationWarning).*",  # LightningCLI's use of jsonargparse
    r".*dirpath has changed from.*",  # a run that is continued in another folder
    r".*You're resuming from a checkpoint that ended before the epoch ended.*",  # our loaders can be saved mid-epoch
    r".*module\(s\) in eval mode.*",  # frozen networks are meant to be
    r".*Couldn.t infer the batch indices.*",  # of predictions, which hold their users
    r".*configure_optimizers` will be overridden.*",  # --optimizer asks for that
    r".*GPU available but not used.*",
    r".*WeightAveraging callback with a model that overrides.*",  # refused where weights are sharded
    r".*srun.*command is available.*",
    r".*MLFlow only allows.*",  # it leaves the @ out of ndcg@10, at every row
    r".*broadcast_buffers. is deprecated.*",  # in favour of what older versions of torch do not know
)
"""Warnings of Lightning that a user of recalign can do nothing about."""

_LIGHTNING = Path(lightning.__file__).parent


def say(line: str) -> None:
    """Print a line, in step with the progress on stderr."""
    print(line, flush=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out Lightning's tips, device tables and the warnings in ``_NOISE``; other warnings are one line each."""
    # A logger's filter does not cover its children, and whose handlers they reach depends on who imports Lightning.
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.startswith("lightning.")]
    formatted = warnings.formatwarning  # Lightning has put its own there
    ours = functools.partial(_worth_saying)  # its own object: a context within this one takes its own away, not this
    with warnings.catch_warnings():
        for pattern in _NOISE:
            warnings.filterwarnings("ignore", message=pattern)
        warnings.formatwarning = _one_line
        for logger in loggers:
            logger.addFilter(ours)
        try:
            yield
        finally:
            warnings.formatwarning = formatted
            for logger in loggers:
                logger.removeFilter(ours)


def _worth_saying(record: logging.LogRecord) -> bool:
    """Whether to show a record: a warning, or what our own modules say through Lightning's logger."""
    return record.levelno >= logging.WARNING or not Path(record.pathname).is_relative_to(_LIGHTNING)


def _one_line(message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any) -> str:
    """A warning without the place in the code that it comes from."""
    return f"warning: {' '.join(str(message).split())}\n"


def warn_if_bf16_is_slow(precision: str | int | None, on_cpu: bool) -> None:
    """One line if bf16 is asked of a CPU that has no instructions for it."""
    if not on_cpu or not str(precision).startswith("bf16"):
        return
    cpuinfo = Path("/proc/cpuinfo")  # elsewhere than on Linux nothing is known, so nothing is said
    if cpuinfo.exists() and not {"avx512_bf16", "amx_bf16", "bf16"} & set(cpuinfo.read_text().split()):
        warnings.warn(
            "this CPU has no bf16 instructions: bf16 will be slower than --trainer.precision 32", stacklevel=2
        )


_WHOLE: ContextVar[Callable[[float], str]] = ContextVar("_WHOLE", default=lambda left: "")
_LEFT = re.compile(r"  (?:at most )?(?:(\d+) days?, )?(\d+):(\d\d):(\d\d) left")


@contextmanager
def whole_run(left: Callable[[float], str]) -> Iterator[None]:
    """Say with the progress of training what is left of the whole that it is a part of.

    Args:
        left: the words for it, such as ", about 4 min left", from the seconds that are left of the training.
    """
    token = _WHOLE.set(left)
    try:
        yield
    finally:
        _WHOLE.reset(token)


def seconds_left(printed: str) -> float | None:
    """The seconds that the last line of `LineProgress` says are left; None where there is none."""
    found = _LEFT.findall(printed)
    if not found:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found[-1])
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds).total_seconds()


class _Clock:
    """Counts batches, and how long the others will take, if training does not stop early.

    It starts when the first batch has ended: what is prepared before that may take minutes, and happens once.
    """

    def __init__(self) -> None:
        self.began, self.seen = 0.0, -1

    def tick(self) -> None:
        """A batch has ended."""
        self.seen += 1
        if not self.seen:
            self.began = time.monotonic()

    def left(self, trainer: Trainer) -> tuple[float, float, float]:
        """Batches done, batches in all and seconds left; inf where nobody knows."""
        batches = trainer.num_training_batches
        done = trainer.current_epoch * batches + trainer.fit_loop.epoch_loop.batch_idx + 1
        epochs, steps = (trainer.max_epochs or -1) * batches, trainer.max_steps * trainer.accumulate_grad_batches
        total = min((end for end in (epochs, steps) if end > 0), default=math.inf)
        left = (time.monotonic() - self.began) / self.seen * (total - done) if self.seen > 0 else math.inf
        timers = [one.time_remaining() for one in trainer.callbacks if isinstance(one, Timer)]  # type: ignore[attr-defined]
        return done, total, min([left, *(max(one, 0.0) for one in timers if one is not None)])


class LineProgress(ProgressBar):
    """Print a line now and then, where there is no terminal to draw a bar on.

    Args:
        label: at the head of the line.
        every: seconds between two lines.
    """

    def __init__(self, label: str, every: float = 10.0) -> None:
        super().__init__()
        self.label, self.every, self.clock = label, every, _Clock()
        self.said = time.monotonic()

    def disable(self) -> None:
        """Ranks other than the first print nothing (Lightning calls this)."""
        self.every = math.inf

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.clock.tick()
        if time.monotonic() - self.said < self.every:
            return
        self.said = time.monotonic()
        done, total, left = self.clock.left(trainer)
        # Reading the figures waits for the device.
        figures = "  ".join(f"{k} {v:.4g}" for k, v in trainer.progress_bar_metrics.items())
        line = f"{self.label}  epoch {trainer.current_epoch + 1}  {figures}  batch {done:.0f}"
        if math.isfinite(total):
            line += f"/{total:.0f}"
        if math.isfinite(left):
            most = "at most " if trainer.early_stopping_callbacks else ""
            line += f"  {most}{timedelta(seconds=round(left))} left"
            if said := _WHOLE.get()(left):
                line += f"; in all{said.replace(',', '', 1)}"
        print(line, file=sys.stderr, flush=True)


class Bar(RichProgressBar):
    """Lightning's bar on stderr. Wiped when training is interrupted, so that no half bar stands above the message."""

    def __init__(self) -> None:
        super().__init__(console_kwargs={"stderr": True})
        self.clock = _Clock()

    def on_train_batch_end(self, *args: Any) -> None:
        self.clock.tick()
        super().on_train_batch_end(*args)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The figures beside the bar, and what is left of the whole."""
        _, _, left = self.clock.left(trainer)
        said = _WHOLE.get()(left) if trainer.training and math.isfinite(left) else ""
        return {**super().get_metrics(trainer, pl_module), **({"in all": said.removeprefix(", ")} if said else {})}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.progress is not None:
            self.progress.live.transient = True
        super().on_exception(trainer, pl_module, exception)
