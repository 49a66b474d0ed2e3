"""Run one ``recalign fit|validate|test|predict``: parse, check, run, record."""

from __future__ import annotations

import errno
import importlib
import json
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, Namespace
from lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, EarlyStopping, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, ReduceLROnPlateau
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf.errors import OmegaConfBaseException
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from recalign.errors import InputError, nearest
from recalign.processes import is_first
from recalign.recommender.training import PolicyModule
from recalign.stage import checks, given, record, upstream
from recalign.stage.checkpoint import RunCheckpoint, WholeCheckpointIO, find_checkpoint
from recalign.stage.classes import Argument, imported
from recalign.stage.console import progress, quiet
from recalign.stage.diagnosis import diagnose
from recalign.stage.evaluated import EvaluatedPolicy, evaluated
from recalign.stage.folder import RunConfig, RunFolder, cannot_write, swept
from recalign.stage.guard import Monitored, NaNGuard, StepSeeds
from recalign.stage.manifest import Manifest
from recalign.stage.parsed import ParsedStage
from recalign.stage.parser import constructing
from recalign.stage.request import Request
from recalign.stage.watch import Watch

COMMANDS = ("fit", "validate", "test", "predict")
OPTIONAL = ("optimizer", "lr_scheduler", "early_stopping")
"""A configuration mentions these only where they are given."""
TRAINER_DEFAULTS = {"devices": 1, "log_every_n_steps": 10, "enable_model_summary": False}
TAKES = {
    "seed_everything": Argument(int, 0),
    "trainer": Argument(Trainer, {}),
    "checkpoint": Argument(RunCheckpoint, {}),
    "early_stopping": Argument(EarlyStopping | None, {}),
    "model": Argument(LightningModule, required=True),
    "data": Argument(LightningDataModule, required=True),
    "run": Argument(RunConfig, required=True),
    "ckpt_path": Argument(str | None),
    "optimizer": Argument(Optimizer | None, {}),
    "lr_scheduler": Argument(LRScheduler | ReduceLROnPlateau | None, {}),
}
"""What a stage may be given."""
READ_ANEW = re.compile(r"\$\{[\w.]+:|\.(ya?ml|json)\"")
"""In settings as JSON: a resolver such as ``${oc.env:HOME}``, or a file of further settings."""
_PARSED: dict[str, Namespace] = {}
"""What jsonargparse made of settings, by the settings as JSON."""


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


def parse_stage(args: Sequence[str] | Request) -> ParsedStage:
    """Parse a command; do not run it.

    Args:
        args: the words after ``recalign`` (``["fit", "--config", "conf/asft.yaml", ...]``), or the same as data.

    Raises:
        InputError: a key, value, class or file that does not exist, with the nearest that does.
    """
    with quiet():
        return StageCLI(args).parsed


def run_stage(args: Sequence[str] | Request, *callbacks: Callback) -> StageResult:
    """Run ``recalign fit|validate|test|predict`` in this process.

    Args:
        args: as for `parse_stage`.
        *callbacks: added to the configured ones, and not recorded.

    Raises:
        InputError: before training, for input that cannot be used; during training, for a full disk.
        TrainingError: training cannot go on: the loss is NaN, say.
    """
    with quiet():
        return StageCLI(args, *callbacks).run()


class StageCLI(LightningCLI):
    """LightningCLI in two steps: the constructor parses, `run` does the rest.

    Args:
        args, callbacks: as for `run_stage`.
    """

    def __init__(self, args: Sequence[str] | Request, *callbacks: Callback) -> None:
        self.request, self.callbacks = args, callbacks
        self.words = args.words() if isinstance(args, Request) else list(args)
        self.command = next(iter(self.words), "")
        if self.command not in COMMANDS:
            near = nearest(self.command, COMMANDS)
            remedy = f"did you mean {near}?" if near else None
            raise InputError(f"{self.command!r} is none of {', '.join(COMMANDS)}", where="recalign", remedy=remedy)
        self.shown = [] if isinstance(args, Request) else given.only_shows(self.words)
        options = [word for word in self.words[1:] if word not in self.shown]
        self.asked = args.config() if isinstance(args, Request) else given.read(options)
        super().__init__(
            LightningModule,
            LightningDataModule,
            save_config_callback=None,  # the run folder has its own config.yaml
            trainer_defaults=dict(TRAINER_DEFAULTS),
            parser_kwargs={"prog": f"recalign {self.command}", "parser_mode": "omegaconf+", "exit_on_error": False},
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=self.asked,
            run=False,  # or a checkpoint's hyper-parameters, even its class, replace what is configured
        )

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--seed_everything", type=int, default=0, help="Seed of everything; names the run folder.")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(RunConfig, "run")
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.add_argument(
            "--early_stopping", type=EarlyStopping | None, help="Ends training when a figure no longer improves."
        )
        parser.add_argument(
            "--ckpt_path", type=str | None, help="Checkpoint to continue or to evaluate: last, best, FILE."
        )
        parser.link_arguments("data.num_items", "model.init_args.num_items", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        try:
            if self.shown:  # which ends the process
                settings = [f"--config={yaml.safe_dump(args, sort_keys=False, allow_unicode=True)}"] if args else []
                parser.parse_args([*settings, *self.shown])
            config = _parsed_once(parser, args)
        except (ArgumentError, OmegaConfBaseException) as error:
            raise diagnose(args, TAKES, error, self.words[1:]) from error
        self.parsed = self._parsed(parser, config)
        self.config = config
        self.config.seed_everything = False  # `run` seeds, not the constructor
        self.config_dump = self.parsed.config  # what LightningCLI records as hyper-parameters

    def instantiate_classes(self) -> None:
        """Do nothing yet: `run` does it."""

    def _parsed(self, parser: LightningArgumentParser, config: Namespace) -> ParsedStage:
        seed, trains = config.seed_everything, self.command == "fit"
        _import(config.run.imports)
        _fill_defaults(config)
        checks.settings(config, training=trains)
        if trains:
            config.run.name = swept(config.run.name)
        run = RunConfig(**vars(config.run))
        log = config.data.init_args.log.name
        folder = RunFolder.of(run, run.chain or log, seed)
        checkpoint = find_checkpoint(config.ckpt_path, folder, self.command)
        own = RunFolder(checkpoint.parent.parent) if checkpoint else None
        if own and not trains and own.config.is_file():
            folder = own  # what is found out about a run stands in its own folder, wherever that was moved
        continued = Manifest.read(own) if own else None
        alone = not trains and issubclass(imported(config.model.class_path), PolicyModule)
        found = upstream.declared(config, continued)
        if alone:  # it needs none of them
            for one in found:
                del config[one.part].init_args[one.argument]
            found = []
        upstream.resolve(config, found, folder, log)
        # it has just been parsed, and JSON is read faster than YAML
        resolved = json.loads(parser.dump(config, format="json", skip_unset=False, skip_validation=True))
        resolved = {key: value for key, value in resolved.items() if value is not None or key not in OPTIONAL}
        asked = self.request, self.words, self.asked
        parsed = ParsedStage(*asked, resolved, run, seed, log, folder, checkpoint, continued, found)
        if alone:
            config.model = evaluated(str(checkpoint), config.model)
        if parsed.in_place:
            resolved["ckpt_path"] = None  # config.yaml repeats the whole run, not its last part
        return parsed

    def run(self) -> StageResult:
        """Check, instantiate, run the subcommand, and record it."""
        parsed, manifest = self.parsed, None
        with _clear_errors(parsed.folder.path), ExitStack() as held:
            checks.before_reading(parsed)
            if parsed.training and not parsed.dry and is_first():
                held.enter_context(parsed.folder.held())
            seed_everything(parsed.seed, workers=True, verbose=False)
            with constructing():
                super().instantiate_classes()
            checks.after_reading(parsed, self.model, self.datamodule, self.trainer)
            if not parsed.dry:
                manifest = record.begin(parsed, self.datamodule)
                self.trainer.loggers = record.loggers(parsed, manifest, self.own_loggers)
            trained = manifest if parsed.training else None
            with record.recorded(parsed.folder, trained, self.trainer.loggers):
                self._run()
        if self.command == "test" and not parsed.dry:
            record.renew_trust(parsed.folder)
        checkpoint = parsed.checkpoint if not parsed.training or parsed.dry else record.handed_over(parsed.folder)
        return StageResult(parsed.folder, checkpoint, manifest, self.trainer, self.model, self.datamodule)

    def _run(self) -> None:
        path = None if isinstance(self.model, EvaluatedPolicy) else self.parsed.checkpoint  # it has its weights
        arguments: dict[str, Any] = {"ckpt_path": path, "weights_only": True}
        if self.command == "predict":
            arguments["return_predictions"] = False  # they are written as they come
        try:
            getattr(self.trainer, self.command)(self.model, datamodule=self.datamodule, **arguments)
        except SIGTERMException:
            raise
        except SystemExit as stop:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt(self.parsed.how_to_go_on()) from stop

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        parsed, config = self.parsed, self.config_init["trainer"]
        self.config_init["checkpoint"].dirpath = str(parsed.folder.checkpoints.resolve())
        self.own_loggers = [logger for logger in _listed(config.logger) if not isinstance(logger, bool)]
        ours = NaNGuard(parsed.folder.last), Monitored(), StepSeeds(parsed.seed), Watch()
        callbacks: list[Callback] = [*ours, *self.callbacks]
        bars = [one for one in _listed(config.callbacks) if isinstance(one, ProgressBar)]
        if config.enable_progress_bar is not False and not bars:
            callbacks.append(progress(parsed.run.name))
        self.trainer_defaults["callbacks"] = [*callbacks, *_listed(self.config_init["early_stopping"])]
        root = config.default_root_dir or str(parsed.folder.path)
        plugins = [*_listed(config.plugins), WholeCheckpointIO()]
        if config.strategy == "ddp":
            config.strategy = DDPStrategy(broadcast_buffers=False)  # no buffer changes in training
        # Our own loggers come later, when the run folder is ready for them.
        return super().instantiate_trainer(logger=False, default_root_dir=root, plugins=plugins, **kwargs)


def _parsed_once(parser: LightningArgumentParser, asked: given.Settings) -> Namespace:
    """What jsonargparse makes of some settings. Kept: it takes long, and a chain's stages are planned and then run.

    Settings that name files or variables are read anew, for these may have changed.
    """
    key = json.dumps(asked, default=repr)
    if READ_ANEW.search(key):
        return parser.parse_object(asked)
    if key not in _PARSED:
        _PARSED[key] = parser.parse_object(asked)
    return _PARSED[key].clone()


def _listed(value: Any) -> list[Any]:
    """One value, several, or none, as a list."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _import(modules: Sequence[str]) -> None:
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise InputError(str(error), where="run.imports", remedy="name modules that can be imported") from error


def _fill_defaults(config: Namespace) -> None:
    """Fill nulls that follow from other settings: the data's seed, and how long this kind of model trains."""
    if config.data.init_args.get("seed", 0) is None:
        config.data.init_args.seed = config.seed_everything
    trainer = config.trainer
    if trainer.max_epochs is None and trainer.max_steps == -1 and trainer.max_time is None:
        trainer.max_epochs = getattr(imported(config.model.class_path), "MAX_EPOCHS", None)


@contextmanager
def _clear_errors(folder: Path) -> Iterator[None]:
    """Turn what a user can mend into an InputError: settings that Lightning refuses, a full disk."""
    try:
        yield
    except SIGTERMException as stop:
        raise SystemExit(128 + signal.SIGTERM) from stop
    except MisconfigurationException as error:
        raise InputError(str(error), where="trainer", remedy="change what it names: --trainer.KEY VALUE") from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        beside = folder.parent.resolve()  # where its lock is
        ours = error.filename is not None and Path(error.filename).resolve().is_relative_to(beside)
        if not full and not ours:
            raise
        raise cannot_write(error, folder) from error
