"""What a run prints: progress, without warnings that a user can do nothing about."""

from __future__ import annotations

import logging
import math
import re
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import lightning
from lightning import Trainer
from lightning.pytorch.callbacks import ProgressBar

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


def echo(line: str) -> None:
    """Print a line and flush it, to keep the order with the progress on stderr."""
    print(line, flush=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out Lightning's tips, device tables and the warnings in ``_NOISE``; other warnings are one line each."""
    # A logger's filter does not apply to its children, and their handlers depend on how Lightning was imported.
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.startswith("lightning.")]
    formatted = warnings.formatwarning  # Lightning has put its own there

    def worth_saying(record: logging.LogRecord) -> bool:  # warnings, and what we say through Lightning's logger
        return record.levelno >= logging.WARNING or not Path(record.pathname).is_relative_to(_LIGHTNING)

    with warnings.catch_warnings():
        for pattern in _NOISE:
            warnings.filterwarnings("ignore", message=pattern)
        warnings.formatwarning = lambda message, *_, **__: f"warning: {' '.join(str(message).split())}\n"
        for logger in loggers:
            logger.addFilter(worth_saying)
        try:
            yield
        finally:
            warnings.formatwarning = formatted
            for logger in loggers:
                logger.removeFilter(worth_saying)


SECONDS_A_LINE = 10.0
"""Seconds between two lines of progress, if there is no terminal for a bar."""
_PROGRESS = re.compile(r"  epoch (\d+)  .*  batch \d+(?:/\d+  (.+ left))?")


class LineProgress(ProgressBar):
    """Print a line every few seconds, if there is no terminal for a bar.

    The time left is estimated from the pace since the first line; with early stopping it is an upper bound.

    Args:
        label: start of the line.
        every: seconds between two lines.
    """

    def __init__(self, label: str, every: float = SECONDS_A_LINE) -> None:
        super().__init__()
        self.label, self.every, self.printed = label, every, time.monotonic()
        self.first: tuple[float, float] | None = None  # when the first line was printed, and the batches until then

    def disable(self) -> None:
        """Ranks other than the first print nothing (Lightning calls this)."""
        self.every = math.inf

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        now = time.monotonic()
        if now - self.printed < self.every:
            return
        batches = trainer.num_training_batches
        done = trainer.current_epoch * batches + trainer.fit_loop.epoch_loop.batch_idx + 1
        ends = (trainer.max_epochs or -1) * batches, trainer.max_steps * trainer.accumulate_grad_batches
        total = min((end for end in ends if end > 0), default=math.inf)
        # Reading the figures waits for the device.
        figures = "  ".join(f"{k} {v:.4g}" for k, v in trainer.progress_bar_metrics.items())
        line = f"{self.label}  epoch {trainer.current_epoch + 1}  {figures}  batch {done:.0f}"
        if math.isfinite(total):
            line += f"/{total:.0f}"
            if self.first:  # what is prepared before the first batch may take minutes
                left = (now - self.first[0]) / (done - self.first[1]) * (total - done)
                most = "at most " if trainer.early_stopping_callbacks else ""
                line += f"  {most}{timedelta(seconds=round(left))} left"
        print(line, file=sys.stderr, flush=True)
        self.printed, self.first = now, self.first or (now, done)


def last_progress(log: Path, since: int) -> str:
    """The last progress of `LineProgress` in a log after byte ``since``: ``epoch 3, 0:01:20 left``; or empty."""
    if not log.is_file():
        return ""
    with open(log, "rb") as file:
        file.seek(max(since, log.stat().st_size - 4096))
        said = _PROGRESS.findall(file.read().decode(errors="replace"))
    return ", ".join(filter(None, (f"epoch {said[-1][0]}", said[-1][1]))) if said else ""
