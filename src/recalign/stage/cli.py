"""One ``recalign fit|validate|test|predict``: parse, check, run, and leave a record."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonargparse
import yaml
from jsonargparse import Namespace
from lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from omegaconf.errors import OmegaConfBaseException

from recalign.errors import InputError
from recalign.stage import checks, record, upstream
from recalign.stage.checkpoint import RunCheckpoint
from recalign.stage.console import RunProgress, quiet
from recalign.stage.folder import RunConfig, RunFolder, cannot_write
from recalign.stage.guard import NaNGuard, StepSeeds
from recalign.stage.manifest import Manifest
from recalign.stage.memory import keep_freed_memory
from recalign.stage.messages import broken_interpolation
from recalign.stage.parsed import ParsedStage, fingerprint, users
from recalign.stage.parser import ConfigFile, StageParser, constructing
from recalign.stage.request import Request

# So that `${data.init_args.max_length}` means the same inside a subcommand and follows overrides.
jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True)


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


def parse_stage(args: list[str] | Request) -> ParsedStage:
    """Parse a command without running it.

    Args:
        args: the words after ``recalign`` (``["fit", "--config", "conf/asft.yaml", ...]``), or the same as data.

    Raises:
        InputError: a key, value, class or file that does not exist, with the nearest that does.
    """
    with quiet():
        return StageCLI(args).parsed


def run_stage(args: list[str] | Request) -> StageResult:
    """Run ``recalign fit|validate|test|predict`` in this process.

    Args:
        args: the words after ``recalign``, or the same as data.

    Raises:
        InputError: before training, for anything the user gave that cannot be used; during training for a full disk.
        TrainingError: training cannot go on (a loss that is NaN).
    """
    with quiet():
        return StageCLI(args).run()


class StageCLI(LightningCLI):
    """LightningCLI in two steps: the constructor parses, `run` does the rest.

    Args:
        args: the words after ``recalign``, or the same as data.
    """

    def __init__(self, args: list[str] | Request) -> None:
        self.request = args
        self.argv = args.words() if isinstance(args, Request) else args
        super().__init__(
            LightningModule,
            LightningDataModule,
            save_config_callback=None,  # the run folder has its own config.yaml
            trainer_defaults={"enable_model_summary": False, "devices": 1, "log_every_n_steps": 10},
            parser_class=StageParser,
            parser_kwargs={"prog": "recalign", "parser_mode": "omegaconf+", "allow_abbrev": False},
            subclass_mode_model=True,
            subclass_mode_data=True,
            args={"subcommand": "fit", "fit": args.config()} if isinstance(args, Request) else args,
            auto_configure_optimizers=False,
        )
        self.command = str(self.subcommand)
        self.parsed = self._parsed(self.config[self.command])

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        parser = self.parser_class(**kwargs)
        parser.add_argument("-c", "--config", action=ConfigFile, help="YAML file; later ones override earlier ones.")
        return parser

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--seed_everything", type=int, default=0, help="Seed of everything; names the run folder.")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(RunConfig, "run")
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.link_arguments("data.num_items", "model.init_args.num_items", apply_on="instantiate")

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The subcommand that is asked for: building parsers for all four takes three times as long."""
        every = {name: {*skipped, "weights_only"} for name, skipped in LightningCLI.subcommands().items()}
        return {name: skipped for name, skipped in every.items() if name in self.argv[:1]} or every

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        try:
            self.config = parser.parse_object(args) if isinstance(args, dict) else parser.parse_args(args)
        except OmegaConfBaseException as error:
            raise broken_interpolation(error, parser, args) from error

    # LightningCLI's constructor also merges a checkpoint's hyper-parameters over the command line, seeds,
    # instantiates and runs. The first must never happen; the others wait for `run`.
    def _parse_ckpt_path(self) -> None: ...
    def _set_seed(self) -> None: ...
    def instantiate_classes(self) -> None: ...
    def _run_subcommand(self, subcommand: str) -> None: ...

    def _parsed(self, config: Namespace) -> ParsedStage:
        if not 0 <= config.seed_everything < 2**32:  # numpy's limits
            raise InputError(f"{config.seed_everything} is no seed", where="seed_everything", remedy="give 0 or more")
        for spec in (config.model, config.data):
            kind = upstream.imported(spec.class_path)
            if hasattr(kind, "check_settings"):  # any LightningModule may be run
                kind.check_settings(vars(spec.init_args))
        if config.trainer.max_epochs is None:
            config.trainer.max_epochs = getattr(upstream.imported(config.model.class_path), "MAX_EPOCHS", None)
        if config.data.init_args.get("seed", 0) is None:
            config.data.init_args.seed = config.seed_everything
        run = RunConfig(**vars(config.run))
        log = config.data.init_args.log.name
        folder = RunFolder.of(run, run.chain or log, config.seed_everything)
        checkpoint = _find_checkpoint(config.ckpt_path, folder, self.command)
        continued = Manifest.read(RunFolder(checkpoint.parent.parent)) if checkpoint else None
        found = upstream.declared(config)
        for one in found:
            if not one.named and continued and one.key in continued.upstream:
                one.path, one.named = Path(continued.upstream[one.key]["path"]), True
        upstream.resolve(found, folder, log)
        upstream.fill(config, found)
        resolved = yaml.safe_load(self._parser(self.command).dump(config, skip_unset=False))
        self.config_dump = resolved  # what LightningCLI records as hyper-parameters, so that it need not dump again
        parsed = ParsedStage(
            self.request,
            self.argv,
            self.command,
            resolved,
            run,
            config.seed_everything,
            log,
            folder,
            checkpoint,
            continued,
            found,
        )
        if parsed.in_place:
            resolved["ckpt_path"] = None  # config.yaml repeats the whole run, not its last part
        return parsed

    def run(self) -> StageResult:
        """Check, instantiate, run the subcommand, and record it."""
        parsed, manifest = self.parsed, None
        with _clear_errors(parsed.folder.path):
            checks.before_reading(parsed)
            seed_everything(parsed.seed, workers=True, verbose=False)
            with constructing():
                super().instantiate_classes()
            checks.after_reading(parsed, self.model, self.datamodule, self.trainer)
            if not parsed.dry:
                manifest = record.begin(parsed, fingerprint(self.datamodule), users(self.datamodule))
                self.trainer.loggers = record.loggers(parsed, manifest, self.own_loggers)
            with record.recorded(parsed.folder, manifest) if manifest and parsed.training else nullcontext():
                self._run()
        checkpoint = parsed.checkpoint if not parsed.training or parsed.dry else record.handed_over(parsed.folder)
        return StageResult(parsed.folder, checkpoint, manifest, self.trainer, self.model, self.datamodule)

    def _run(self) -> None:
        arguments = self._prepare_subcommand_kwargs(self.command)
        arguments |= {"ckpt_path": self.parsed.checkpoint, "weights_only": True}
        if self.command == "predict":
            arguments["return_predictions"] = False  # they are written as they come
        if self.parsed.training:
            keep_freed_memory()
        try:
            getattr(self.trainer, self.command)(**arguments)
        except SystemExit as stop:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from stop

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        parsed, config = self.parsed, self._get(self.config_init, "trainer")
        self._get(self.config_init, "checkpoint").dirpath = str(parsed.folder.checkpoints.resolve())
        loggers = config.logger if isinstance(config.logger, list) else [config.logger]
        self.own_loggers = [logger for logger in loggers if not isinstance(logger, bool | None)]
        callbacks: list[Callback] = [NaNGuard(parsed.folder.last), StepSeeds(parsed.seed)]
        theirs = config.callbacks if isinstance(config.callbacks, list) else [config.callbacks]
        if config.enable_progress_bar is not False and not any(isinstance(c, ProgressBar) for c in theirs):
            callbacks.append(RunProgress(parsed.run.name))
        self.trainer_defaults["callbacks"] = callbacks
        root = config.default_root_dir or str(parsed.folder.path)
        # Our own loggers come later, when the run folder is ready for them.
        return super().instantiate_trainer(logger=False, default_root_dir=root, **kwargs)


def _find_checkpoint(given: str | None, folder: RunFolder, subcommand: str) -> Path | None:
    """The file that ``--ckpt_path`` means; evaluation takes the best one where nothing is given.

    Raises:
        InputError: there is no such file (Lightning would train from scratch, or evaluate random weights).
    """
    given = given or (None if subcommand == "fit" else "best")
    if given is None:
        return None
    path = {"best": folder.best, "last": folder.last}.get(given, Path(given))
    if not path.is_file():
        remedy = "start without --ckpt_path" if subcommand == "fit" else "train it first (recalign fit), or give a file"
        raise InputError(f"there is no checkpoint {path}", where=f"--ckpt_path {given}", remedy=remedy)
    return path


@contextmanager
def _clear_errors(folder: Path) -> Iterator[None]:
    """Say as an InputError what a user can mend: settings that Lightning refuses, a disk that is full."""
    try:
        yield
    except MisconfigurationException as error:
        raise InputError(str(error)) from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        ours = error.filename is not None and Path(error.filename).resolve().is_relative_to(folder.resolve())
        if not full and not ours:
            raise
        raise cannot_write(error, folder) from error
