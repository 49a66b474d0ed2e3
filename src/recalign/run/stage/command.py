"""``recalign fit|validate|test|predict``: parses the command line into a stage, which `run_stage` runs."""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import MPSAccelerator
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from recalign.data.events.log import require_named
from recalign.distributed import is_rank_zero
from recalign.errors import InputError, TrainingError
from recalign.recommender.training import PolicyModule
from recalign.run.cores import free_threads
from recalign.run.stage import checks, record, upstream
from recalign.run.stage.console import echo, quiet
from recalign.run.stage.folder import Manifest, RunConfig, RunFolder
from recalign.run.stage.lightning_cli import EvaluatedPolicy, StageCLI
from recalign.run.stage.parsed import ParsedStage
from recalign.run.stage.stage import FinishedRun, run_stage
from recalign.run.words import imported, to_argv
from recalign.workers import locked, torch_threads

OPTIONAL = ("optimizer", "lr_scheduler", "early_stopping", "threads")
"""A configuration has these keys only if they are given."""
LOST_PROCESS = re.compile("gloo|NCCL|process group|Timed out|Connection|pair closure")
"""Matches torch's errors when communication between processes fails."""


@dataclass(frozen=True)
class Stage(ParsedStage):
    """A parsed stage that can run.

    Attributes:
        callbacks: added to the configured ones; they must not change what is trained. Not used by `make` in several
            processes.
        verbose: whether `make` prints the command, its duration and its checkpoint.
    """

    callbacks: tuple[Callback, ...] = ()
    verbose: bool = False

    def make(self) -> FinishedRun:
        """Train in this process; for several processes, by a command, which Lightning starts once for each."""
        if self.verbose:
            echo(f"  {self.command_line}")
        if self.bare_trainer().world_size == 1:
            run_stage(self, *self.callbacks)
        elif code := subprocess.run([sys.executable, "-m", "recalign", *self.argv], check=False).returncode:
            # 2 and 3 may be due to the settings: refused, or training that cannot go on. A kill or a bug is not.
            cause = None if code in (2, 3) else ChildProcessError(f"exit code {code}")
            raise TrainingError(f"exit code {code} of: {self.command_line}") from cause
        trained = self.load()
        if self.verbose:
            echo(f"  {trained.seconds:.0f} s, {trained.checkpoint}")
        return trained

    @contextmanager
    def prepared(self) -> Iterator[None]:
        with exclusive(), quiet(), _errors_of_settings():
            threads = self._threads(self.bare_trainer())  # this refuses devices that do not exist
            checks.require_loadable(self)
            remedy = "let it finish, or give this run another --run.name"
            writes = self.training and is_rank_zero()
            with locked(self.folder.path, "training", remedy) if writes else nullcontext(), torch_threads(threads):
                yield

    def _threads(self, trainer: Trainer) -> int:
        """Torch threads: as given, else as in the run to continue, else the idle cores (one CPU process), else all."""
        available = torch.get_num_threads()
        if given := self.config.get("threads"):
            return given
        if self.training and self.in_place and self.continued and self.continued.threads:
            return min(available, self.continued.threads)
        one_cpu_process = trainer.world_size == 1 and trainer.strategy.root_device.type == "cpu"
        return free_threads(available) if one_cpu_process else available

    def build(self, callbacks: Sequence[Callback]) -> tuple[Trainer, LightningModule, LightningDataModule, Path | None]:
        trainer, model, data = StageCLI.build(self, callbacks)
        checks.require_fitting(self, model, data, trainer)
        return trainer, model, data, None if isinstance(model, EvaluatedPolicy) else self.checkpoint  # loaded already

    @contextmanager
    def recorded(self, trainer: Trainer, data: LightningDataModule) -> Iterator[None]:
        with record.recorded_run(self, trainer, data):
            try:
                yield
            except SIGTERMException:
                raise
            except SystemExit as stop:  # what Lightning makes of Ctrl-C
                resumable = self.training and self.folder.last.is_file()  # for `test` it would be the file to evaluate
                remedy = "add --ckpt_path last to go on" if resumable else "run the same command again"
                raise KeyboardInterrupt(remedy) from stop
            except RuntimeError as error:
                if trainer.world_size == 1 or not LOST_PROCESS.search(str(error)):
                    raise
                for process in getattr(trainer.strategy.launcher, "procs", []):
                    process.kill()  # a suspended one would stay for ever
                what = f"another process of this run is gone or silent ({str(error).splitlines()[0]})"
                remedy = "see whether memory ran out there, or what else stopped it; then add --ckpt_path last to go on"
                raise TrainingError(f"{what}\n  -> {remedy}") from error

    def result(self) -> Path | None:
        return self.folder.final_checkpoint() if self.training else self.checkpoint


_ONE_THREAD = threading.RLock()


@contextmanager
def exclusive() -> Iterator[None]:
    """Refuse a second thread: the random state, the parser and the current folder are shared by the whole process.

    Raises:
        InputError: another thread is in a stage, or torch's default dtype or device was changed.
    """
    if (torch.get_default_dtype(), torch.get_default_device()) != (torch.float32, torch.device("cpu")):
        remedy = "torch.set_default_dtype(torch.float32), torch.set_default_device(None); trainer.* says where to train"
        raise InputError("torch's default dtype or device was changed", where="torch", remedy=remedy)
    if not _ONE_THREAD.acquire(blocking=False):
        raise InputError("another thread of this process runs a stage", where="threads", remedy="let it finish first")
    try:
        yield
    finally:
        _ONE_THREAD.release()


@contextmanager
def _errors_of_settings() -> Iterator[None]:
    """Turn Lightning's errors about settings into InputError; exit with 143 after a SIGTERM."""
    try:
        yield
    except SIGTERMException as stop:
        raise SystemExit(128 + signal.SIGTERM) from stop
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        place = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if not isinstance(error, MisconfigurationException) and Path(lightning.__file__).parent not in place.parents:
            raise
        raise InputError(str(error), where="trainer", remedy="change what it names: --trainer.KEY VALUE") from error


@exclusive()
def parse_stage(words: Sequence[str], *settings: Mapping[str, Any]) -> Stage:
    """Parse a command and look up the checkpoints that it starts from; do not run it.

    Args:
        words: arguments after ``recalign``: ``["fit", "--config", "conf/methods/asft.yaml", ...]``.
        *settings: override ``words`` and each other in order, nested or by dotted key: ``{"model": {"lr": 0.1}}``,
            ``{"model.lr": 0.1}``. They become arguments here (`to_argv`): only the parser can merge classes with their
            arguments, lists that are appended to (``callbacks+``) and ``${...}``.

    Raises:
        InputError: a key, value, class or file that does not exist, with the nearest that does.
    """
    verb = words[0]
    argv = [*words, *chain.from_iterable(map(to_argv, settings))]
    with quiet():
        config, variables = StageCLI.parse(argv)
    for module in config["run"]["imports"]:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise InputError(str(error), where="run.imports", remedy="name modules that can be imported") from error
    require_named(config["data"]["init_args"]["log"], variables)
    _fill_defaults(config)
    checks.require_valid_settings(config, training=verb == "fit")
    trial = os.environ.get("WANDB_RUN_ID", "") if "WANDB_SWEEP_ID" in os.environ else ""
    if verb == "fit" and trial and not config["run"]["name"].endswith(f"-{trial}"):  # its own folder
        config["run"]["name"] += f"-{trial}"
    data, log = config["data"]["init_args"], config["data"]["init_args"]["log"]["name"]
    folder = RunFolder.of(RunConfig(**config["run"]), log, config["seed_everything"])
    checkpoint = checks.checkpoint_path(config["ckpt_path"], folder, verb)
    writer = _run_of(checkpoint, folder) if checkpoint else None
    if writer:
        upstream.relocate_ids(data, writer.path)
    if writer and verb != "fit" and writer.config.is_file():
        folder = writer  # evaluations go to the run's own folder, wherever that was moved
    continued = Manifest.read(writer) if writer else None
    upstreams = upstream.declared(config, continued)
    if verb != "fit" and issubclass(imported(config["model"]["class_path"]), PolicyModule):  # its weights are enough
        for source in upstreams:
            del config[source.part]["init_args"][source.argument]
        upstreams = []
    upstream.resolve(config, upstreams, folder, log)
    config = {key: value for key, value in config.items() if value is not None or key not in OPTIONAL}
    stage = Stage(argv, config, folder, checkpoint, continued, upstreams, variables)
    if stage.in_place:
        config["ckpt_path"] = None  # config.yaml repeats the whole run, not its last part
    return stage


def _fill_defaults(config: dict[str, Any]) -> None:
    if config["data"]["init_args"].get("seed", 0) is None:
        config["data"]["init_args"]["seed"] = config["seed_everything"]
    trainer = config["trainer"]
    if trainer["accelerator"] == "auto" and MPSAccelerator.is_available():
        trainer["accelerator"] = "cpu"  # Apple's GPUs lack float64, which the encoder's times need
    if trainer["max_epochs"] is None and trainer["max_steps"] == -1 and trainer["max_time"] is None:
        trainer["max_epochs"] = getattr(imported(config["model"]["class_path"]), "MAX_EPOCHS", None)


def _run_of(checkpoint: Path, folder: RunFolder) -> RunFolder | None:
    """The run that wrote a checkpoint, if it has a manifest: ``folder``, or another that has it in checkpoints/."""
    run = RunFolder(checkpoint.parent.parent)
    is_writer = run.path.resolve() == folder.path.resolve() or checkpoint.parent == run.checkpoints
    return run if is_writer and run.manifest.is_file() else None


def run_command(words: Sequence[str]) -> None:
    """``recalign fit|validate|test|predict``."""
    stage = parse_stage(words)
    result = run_stage(stage)
    if result.trainer.is_global_zero:
        print(f"{stage.folder.path}: {words[0]} done" + (f", {result.checkpoint}" if stage.training else ""))
