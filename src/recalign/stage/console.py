"""What a run says on the console: little, and in time."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_NOISE = (
    r".*does not have many workers.*",
    r".*smaller than the logging interval.*",
    r".*exists and is not empty.*",
    r".*LeafSpec.*",
    r"(?s).*(was deprecated in v4|JsonargparseDeprecationWarning).*",  # LightningCLI's use of jsonargparse
    r".*dirpath has changed from.*",  # a run that is continued in another folder
    r".*You're resuming from a checkpoint that ended before the epoch ended.*",  # our loaders can be saved mid-epoch
    r".*module\(s\) in eval mode.*",  # frozen networks are meant to be
    r".*predict returned None.*",  # recommendations are written, not returned
    r".*GPU available but not used.*",
    r".*srun.*command is available.*",
)
"""Warnings of Lightning that a user of recalign can do nothing about."""

_LIGHTNING = Path(lightning.__file__).parent


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out Lightning's tips, device tables and the warnings in ``_NOISE``."""
    # A logger's filter does not cover its children, and whose handlers they reach depends on who imports Lightning.
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.startswith("lightning.")]
    with warnings.catch_warnings():
        for pattern in _NOISE:
            warnings.filterwarnings("ignore", message=pattern)
        for logger in loggers:
            logger.addFilter(_worth_saying)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeFilter(_worth_saying)


def _worth_saying(record: logging.LogRecord) -> bool:
    """Whether to show a record: a warning, or what our own modules say through Lightning's logger."""
    return record.levelno >= logging.WARNING or not Path(record.pathname).is_relative_to(_LIGHTNING)


def warn_if_bf16_is_slow(precision: str | int | None, on_cpu: bool) -> None:
    """One line if bf16 is asked of a CPU that has no instructions for it."""
    if not on_cpu or not str(precision).startswith("bf16"):
        return
    cpuinfo = Path("/proc/cpuinfo")  # elsewhere than on Linux nothing is known, so nothing is said
    if cpuinfo.exists() and not {"avx512_bf16", "amx_bf16", "bf16"} & set(cpuinfo.read_text().split()):
        warnings.warn(
            "this CPU has no bf16 instructions: bf16 will be slower than --trainer.precision 32", stacklevel=2
        )


class RunProgress(ProgressBar):
    """Time left of the whole run: a bar on a terminal, elsewhere a line now and then.

    Args:
        label: the run's name, at the head of the line.
        every: seconds between two lines where there is no terminal.
    """

    def __init__(self, label: str, every: float = 10.0) -> None:
        super().__init__()
        self.label, self.every = label, every
        self.console = Console(stderr=True)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._total = self._done = self._first = 0
        self._started = self._said = 0.0

    def disable(self) -> None:
        """Ranks other than the first say nothing (Lightning calls this)."""
        self.console = Console(quiet=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        batches = trainer.num_training_batches
        epochs = trainer.max_epochs or 0
        steps = trainer.max_steps * trainer.accumulate_grad_batches
        ends = [end for end in (batches * epochs, steps) if end > 0]
        done = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        self._start(int(min(ends, default=0)), int(done))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._advance(trainer, f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs or '?'}")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._start(int(sum(trainer.num_val_batches)))

    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.state.fn == "validate":
            self._advance(trainer, "validating")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(int(sum(trainer.num_test_batches)))

    def on_test_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._advance(trainer, "testing")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(int(sum(trainer.num_predict_batches)))

    def on_predict_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._advance(trainer, "predicting")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _start(self, total: int, done: int = 0) -> None:
        self._total, self._done, self._first = total, done, done
        self._started = self._said = time.monotonic()
        if self.console.is_terminal and not self.console.quiet:
            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:.0f}%"),
            )
            times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
            self._bar = Progress(*columns, *times, console=self.console, transient=True)
            self._task = self._bar.add_task(self.label, total=total or None, completed=done)
            self._bar.start()

    def _advance(self, trainer: Trainer, doing: str) -> None:
        self._done += 1
        now = time.monotonic()
        if self._bar is not None:
            self._bar.advance(self._task)
        if now - self._said < (1.0 if self._bar is not None else self.every):
            return
        self._said = now
        # Reading the figures waits for the device, so it is done once a second at most.
        figures = {k: v for k, v in self.get_metrics(trainer, trainer.lightning_module).items() if k != "v_num"}
        shown = "  ".join([self.label, doing, *(f"{k} {v:.4g}" for k, v in figures.items() if isinstance(v, float))])
        if self._bar is not None:
            self._bar.update(self._task, description=shown)
            return
        left = (now - self._started) / (self._done - self._first) * (self._total - self._done)
        batches = f"batch {self._done}/{self._total or '?'}"
        ending = f"  {_clock(left)} left" if self._total else ""
        self.console.print(
            f"{shown}  {batches}  {_clock(now - self._started)}{ending}", soft_wrap=True, highlight=False
        )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"


def progress(label: str) -> ProgressBar:
    return RunProgress(label)
