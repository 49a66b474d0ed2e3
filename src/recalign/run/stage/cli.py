"""One ``recalign fit|validate|test|predict``, from its words to what it leaves: parse, build, run, record."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from recalign.cores import fit_threads
from recalign.distributed import is_first
from recalign.errors import InputError
from recalign.files import FULL, held
from recalign.run.stage import checks, heartbeat, record
from recalign.run.stage.console import quiet
from recalign.run.stage.evaluated import EvaluatedPolicy
from recalign.run.stage.folder import RunFolder
from recalign.run.stage.lightning_cli import StageCLI
from recalign.run.stage.manifest import Manifest
from recalign.run.stage.parsed import ParsedStage
from recalign.workers import torch_threads


@dataclass(frozen=True)
class StageResult:
    """What a stage leaves behind.

    Attributes:
        folder: the run folder.
        checkpoint: what is handed over (``fit``: the best one), or what was loaded; None after ``fast_dev_run``.
        manifest: of the run; None after ``fast_dev_run``.
        trainer, model, datamodule: as they stand after the run.
    """

    folder: RunFolder
    checkpoint: Path | None
    manifest: Manifest | None
    trainer: Trainer
    model: LightningModule
    datamodule: LightningDataModule


def parse_stage(words: Sequence[str]) -> ParsedStage:
    """Parse a command; do not run it.

    Args:
        words: after ``recalign``: ``["fit", "--config", "conf/asft.yaml", ...]``.

    Raises:
        InputError: a key, value, class or file that does not exist, with the nearest that does.
    """
    with quiet():
        return StageCLI(words).parsed


def run_stage(words: Sequence[str], *callbacks: Callback) -> StageResult:
    """Run ``recalign fit|validate|test|predict`` in this process.

    Args:
        words: as for `parse_stage`.
        *callbacks: added to the configured ones, and not recorded.

    Raises:
        InputError: before training, for input that cannot be used; during training, for a full disk.
        TrainingError: training cannot go on: the loss is NaN, say, or one of several processes is gone.
    """
    with quiet():
        cli = StageCLI(words, *callbacks)
        parsed, manifest = cli.parsed, None
        trained = parsed.training and not parsed.dry
        with _clear_errors(parsed.folder), ExitStack() as stack:
            checks.before_reading(parsed)
            if trained and is_first():
                remedy = "let it finish, or give this run another --run.name"
                stack.enter_context(held(parsed.folder.path, "training", remedy))
                before = parsed.continued.threads if parsed.in_place and parsed.continued else 0
                stack.enter_context(torch_threads(fit_threads(torch.get_num_threads(), before)))
            seed_everything(parsed.seed, workers=True, verbose=False)
            trainer, model, datamodule = cli.build()
            checks.after_reading(parsed, model, datamodule, trainer)
            if not parsed.dry:
                manifest = record.begin(parsed, datamodule)
                trainer.loggers = record.loggers(parsed, manifest, cli.own_loggers)
            else:  # some callbacks ask for a logger; this one writes nothing
                trainer.loggers = [DummyLogger()]
            runs: dict[str, Callable[..., Any]] = {
                "fit": trainer.fit,
                "validate": trainer.validate,
                "test": trainer.test,
                "predict": partial(trainer.predict, return_predictions=False),  # they are written as they come
            }
            path = None if isinstance(model, EvaluatedPolicy) else parsed.checkpoint  # it has its weights
            watched = heartbeat.watched(trainer, parsed)
            with record.recorded(parsed, manifest, trainer.loggers), watched, _clear_interrupts(parsed):
                runs[parsed.subcommand](model, datamodule=datamodule, ckpt_path=path, weights_only=True)
        checkpoint = record.final_checkpoint(parsed.folder) if trained else parsed.checkpoint
        return StageResult(parsed.folder, checkpoint, manifest, trainer, model, datamodule)


@contextmanager
def _clear_interrupts(parsed: ParsedStage) -> Iterator[None]:
    """Raise what Lightning makes of Ctrl-C as such again, with what to do next."""
    try:
        yield
    except SIGTERMException:
        raise
    except SystemExit as stop:
        raise KeyboardInterrupt(parsed.how_to_go_on()) from stop


@contextmanager
def _clear_errors(folder: RunFolder) -> Iterator[None]:
    """Turn what a user can mend into an InputError: settings that Lightning refuses, a full disk."""
    try:
        yield
    except SIGTERMException as stop:
        raise SystemExit(128 + signal.SIGTERM) from stop
    except MisconfigurationException as error:
        raise InputError(str(error), where="trainer", remedy="change what it names: --trainer.KEY VALUE") from error
    except OSError as error:
        beside = folder.path.parent.resolve()  # where its lock is
        ours = error.filename is not None and Path(error.filename).resolve().is_relative_to(beside)
        if error.errno not in FULL and not ours:
            raise
        raise folder.cannot_write(error) from error
