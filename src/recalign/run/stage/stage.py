"""One stage: ``recalign fit|validate|test|predict`` from its words to what it leaves: parse, build, run, record."""

from __future__ import annotations

import importlib
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import MPSAccelerator
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from recalign.cores import fit_threads
from recalign.distributed import is_rank_zero
from recalign.errors import InputError, TrainingError, nearest
from recalign.files import locked
from recalign.recommender.training import PolicyModule
from recalign.run.stage import checks, record, upstream
from recalign.run.stage.checkpoint import find_checkpoint
from recalign.run.stage.console import echo, quiet
from recalign.run.stage.folder import RunConfig, RunFolder, name_in_sweep
from recalign.run.stage.lightning_cli import COMMANDS, EvaluatedPolicy, StageCLI
from recalign.run.stage.manifest import Manifest
from recalign.run.stage.parsed import ParsedStage, Trained
from recalign.run.stage.settings import variables_named
from recalign.run.words import imported, options, settings_of
from recalign.workers import torch_threads

OPTIONAL = ("optimizer", "lr_scheduler", "early_stopping")
"""A configuration mentions these only where they are given."""


@dataclass(frozen=True)
class Stage(ParsedStage):
    """A stage that is made once, and again when something changes that determines it (`recalign.artifacts.Kept`).

    Attributes:
        callbacks: added to the configured ones; they do not change what is trained. Runs of several processes do
            without.
        verbose: whether `make` prints the command, how long it took, and what it hands over.
    """

    callbacks: tuple[Callback, ...] = ()
    verbose: bool = False

    def make(self) -> Trained:
        """Train.

        Raises:
            InputError: something that was given cannot be used.
            TrainingError: training cannot go on.
        """
        if self.verbose:
            echo(f"  {self.command}")
        alone = self.bare_trainer().world_size > 1
        trained = self._trained(self._run_alone() if alone else run_stage(self, *self.callbacks).manifest)
        if self.verbose:
            echo(f"  {trained.seconds:.0f} s, {trained.checkpoint}")
        return trained

    def _run_alone(self) -> Manifest | None:
        """Run a stage of several processes by its command, which Lightning starts once for each of them."""
        if code := subprocess.run([sys.executable, "-m", "recalign", *self.words], check=False).returncode:
            # 2 and 3 may be due to the settings: refused, or training that cannot go on. A kill or a bug is not.
            cause = None if code in (2, 3) else ChildProcessError(f"exit code {code}")
            raise TrainingError(f"exit code {code} of: {self.command}") from cause
        return None if self.dry else Manifest.read(self.folder)


def parse_stage(words: Sequence[str], settings: Mapping[str, Any] | None = None) -> Stage:
    """Parse a command and look up the checkpoints that it starts from; do not run it.

    Args:
        words: after ``recalign``: ``["fit", "--config", "conf/asft.yaml", ...]``.
        settings: over those of the words, nested or by dotted key: ``{"model": {"lr": 0.1}}``, ``{"model.lr": 0.1}``.

    Raises:
        InputError: a key, value, class or file that does not exist, with the nearest that does.
    """
    command = next(iter(words), "")
    if command not in COMMANDS:
        near = nearest(command, COMMANDS)
        remedy = f"did you mean {near}?" if near else None
        raise InputError(f"{command!r} is none of {', '.join(COMMANDS)}", where="recalign", remedy=remedy)
    line = [*words, *options(dict(settings_of(settings or {})))]
    with quiet():
        config = StageCLI.parse(words, settings or {})
    _import(config["run"]["imports"])
    _fill_defaults(config)
    checks.settings(config, training=command == "fit")
    if command == "fit":
        config["run"]["name"] = name_in_sweep(config["run"]["name"])
    run, data, log = RunConfig(**config["run"]), config["data"]["init_args"], config["data"]["init_args"]["log"]["name"]
    folder = RunFolder.of(run, run.chain or log, config["seed_everything"])
    checkpoint = find_checkpoint(config["ckpt_path"], folder, command)
    own = _run_of(checkpoint, folder) if checkpoint else None
    if own:
        upstream.relocate_ids(data, own.path)
    if own and command != "fit" and own.config.is_file():
        folder = own  # what is found out about a run stands in its own folder, wherever that was moved
    continued = Manifest.read(own) if own else None
    found = upstream.declared(config, continued)
    if command != "fit" and issubclass(imported(config["model"]["class_path"]), PolicyModule):  # its weights are enough
        for one in found:
            del config[one.part]["init_args"][one.argument]
        found = []
    upstream.resolve(config, found, folder, log)
    config = {key: value for key, value in config.items() if value is not None or key not in OPTIONAL}
    stage = Stage(line, config, folder, checkpoint, continued, found, frozenset(variables_named(line)))
    if stage.in_place:
        config["ckpt_path"] = None  # config.yaml repeats the whole run, not its last part
    return stage


def _import(modules: Iterable[str]) -> None:
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise InputError(str(error), where="run.imports", remedy="name modules that can be imported") from error


def _fill_defaults(config: dict[str, Any]) -> None:
    """Fill what follows from others and from the machine: the data's seed, how long this model trains, and where."""
    if config["data"]["init_args"].get("seed", 0) is None:
        config["data"]["init_args"]["seed"] = config["seed_everything"]
    trainer = config["trainer"]
    if trainer["accelerator"] == "auto" and MPSAccelerator.is_available():
        trainer["accelerator"] = "cpu"  # Apple's GPUs know no float64, which the encoder's times need
    if trainer["max_epochs"] is None and trainer["max_steps"] == -1 and trainer["max_time"] is None:
        trainer["max_epochs"] = getattr(imported(config["model"]["class_path"]), "MAX_EPOCHS", None)
    if trainer["precision"] in (None, 32, "32"):
        trainer["precision"] = "32-true"


def _run_of(checkpoint: Path, folder: RunFolder) -> RunFolder | None:
    """The run that wrote a checkpoint: this one, whatever its file is called, or one with a manifest; else None."""
    own = RunFolder(checkpoint.parent.parent)
    ours = own.path.resolve() == folder.path.resolve() or checkpoint.parent == own.checkpoints
    return own if ours and own.manifest.is_file() else None


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


def run_stage(stage: Stage, *callbacks: Callback) -> StageResult:
    """Run ``recalign fit|validate|test|predict`` in this process.

    Args:
        stage: parsed (`parse_stage`).
        *callbacks: added to the configured ones, and not recorded.

    Raises:
        InputError: before training, for input that cannot be used.
        TrainingError: training cannot go on: the loss is NaN, say, or one of several processes is gone.
    """
    with quiet(), _clear_errors(stage):
        checks.machine(stage)
        checks.checkpoints(stage)
        with _locked(stage):
            seed_everything(stage.seed, workers=True, verbose=False)
            trainer, model, data, own_loggers = StageCLI.build(stage, callbacks)
            checks.built(stage, model, data, trainer)
            manifest = None if stage.dry else record.begin(stage, data)
            # some callbacks ask for a logger; a dry run's writes nothing
            trainer.loggers = record.loggers(stage, manifest, own_loggers) if manifest else [DummyLogger()]
            path = None if isinstance(model, EvaluatedPolicy) else stage.checkpoint  # it has its weights
            more = {"return_predictions": False} if stage.subcommand == "predict" else {}  # written as they come
            with record.recorded(stage, manifest, trainer.loggers), _clear_end(stage, trainer):
                getattr(trainer, stage.subcommand)(model, datamodule=data, ckpt_path=path, weights_only=True, **more)
    checkpoint = record.final_checkpoint(stage.folder) if stage.training and not stage.dry else stage.checkpoint
    return StageResult(stage.folder, checkpoint, manifest, trainer, model, data)


@contextmanager
def _locked(stage: Stage) -> Iterator[None]:
    """Let no other process train in this run folder, and choose the number of threads."""
    if not stage.training or stage.dry or not is_rank_zero():
        yield
        return
    before = stage.continued.threads if stage.in_place and stage.continued else 0
    threads = torch_threads(fit_threads(torch.get_num_threads(), before))
    with locked(stage.folder.path, "training", "let it finish, or give this run another --run.name"), threads:
        yield


@contextmanager
def _clear_end(stage: Stage, trainer: Trainer) -> Iterator[None]:
    """Where an exchange between processes fails, end those that this one started; tell how an interrupted run goes on.

    Raises:
        TrainingError: one of them is gone, or silent for longer than the strategy's timeout.
    """
    try:
        yield
    except SIGTERMException:
        raise
    except SystemExit as stop:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt(stage.how_to_go_on()) from stop
    except RuntimeError as error:
        if trainer.world_size == 1 or not re.search("gloo|NCCL|process group|Timed out|Connection", str(error)):
            raise
        for process in getattr(trainer.strategy.launcher, "procs", []):
            process.kill()  # a stopped one would stay for ever
        what = f"another process of this run is gone or silent ({str(error).splitlines()[0]})"
        remedy = "see whether memory ran out there, or what else stopped it; then add --ckpt_path last to go on"
        raise TrainingError(f"{what}\n  -> {remedy}") from error


@contextmanager
def _clear_errors(stage: Stage) -> Iterator[None]:
    """Name the settings that Lightning refuses; end with the exit code of a SIGTERM."""
    try:
        yield
    except SIGTERMException as stop:
        raise SystemExit(128 + signal.SIGTERM) from stop
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        place = traceback.extract_tb(error.__traceback__)[-1].filename
        if (
            not isinstance(error, MisconfigurationException)
            and Path(lightning.__file__).parent not in Path(place).parents
        ):
            raise
        raise InputError(str(error), where="trainer", remedy="change what it names: --trainer.KEY VALUE") from error


def run_command(words: Sequence[str]) -> None:
    """``recalign fit|validate|test|predict``."""
    result = run_stage(parse_stage(words))
    if result.trainer.is_global_zero:
        checkpoint = result.checkpoint if words[0] == "fit" else None  # a dry run has none
        print(f"{result.folder.path}: {words[0]} done" + (f", {checkpoint}" if checkpoint else ""))
