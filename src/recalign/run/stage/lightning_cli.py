"""LightningCLI with what a stage may be given beside model, data and trainer, in two steps: parse, then build."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.accelerators import MPSAccelerator
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies import DDPStrategy

from recalign.code import class_paths
from recalign.errors import InputError, nearest
from recalign.keys import split
from recalign.recommender.checkpoint import class_path
from recalign.recommender.training import PolicyModule
from recalign.run.stage import checks, upstream
from recalign.run.stage.checkpoint import RunCheckpoint, WholeCheckpointIO, find_checkpoint
from recalign.run.stage.classes import imported, listed
from recalign.run.stage.console import Bar, LineProgress
from recalign.run.stage.evaluated import EvaluatedPolicy
from recalign.run.stage.folder import RunConfig, RunFolder, name_in_sweep
from recalign.run.stage.guard import CheckMonitors, NaNGuard, StepSeeds
from recalign.run.stage.manifest import Manifest
from recalign.run.stage.parsed import ParsedStage
from recalign.run.stage.settings import Parser, constructing
from recalign.run.stage.training_monitor import TrainingMonitor

COMMANDS = ("fit", "validate", "test", "predict")
OPTIONAL = ("optimizer", "lr_scheduler", "early_stopping")
"""A configuration mentions these only where they are given."""
TRAINER_DEFAULTS = {"devices": 1, "log_every_n_steps": 10, "enable_model_summary": False}
READ_ANEW = re.compile(r"^[^#\n]*(\$\{\s*[\w.]+\s*:|\.(ya?ml|json)\b|\b__main__\.)", re.MULTILINE)
"""In the text of settings: a resolver such as ``${oc.env:HOME}``, a file of further settings, or a notebook's class."""
LASTING = ("recalign.", "lightning.", "torch.")
"""Begin the import paths of classes that stay as they are while a process runs."""
NAMED = re.compile(r"[\w./-]+\.(?:ya?ml|json)\b")
"""A file of further settings."""
COMMENT = re.compile(r"(^|\s)#.*$", re.MULTILINE)
VARIABLE = re.compile(r"\$\{\s*oc\.env\s*:\s*['\"]?(\w+)")
_PARSER: list[LightningArgumentParser] = []
_PARSED: dict[tuple[str, ...], tuple[Namespace, dict[str, type]]] = {}
"""What jsonargparse made of words, and the classes of one's own in it, by them and by the files that they name."""


class StageCLI(LightningCLI):
    """A stage: the constructor parses, `build` makes the objects.

    Args:
        words: after ``recalign``.
        *callbacks: added to the configured ones, and not recorded.

    Attributes:
        parsed: the command.
    """

    parsed: ParsedStage

    def __init__(self, words: Sequence[str], *callbacks: Callback) -> None:
        self.words, self.callbacks = list(words), callbacks
        self.command = next(iter(words), "")
        if self.command not in COMMANDS:
            near = nearest(self.command, COMMANDS)
            remedy = f"did you mean {near}?" if near else None
            raise InputError(f"{self.command!r} is none of {', '.join(COMMANDS)}", where="recalign", remedy=remedy)
        super().__init__(
            LightningModule,
            LightningDataModule,
            save_config_callback=None,  # the run folder has its own config.yaml
            trainer_defaults=dict(TRAINER_DEFAULTS),
            parser_kwargs={"parser_mode": "omegaconf+"},
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=self.words[1:],
            run=False,  # or a checkpoint's hyper-parameters, even its class, replace what is configured
        )

    def setup_parser(self, *args: Any) -> None:
        """Make the parser once a process: adding all arguments takes as long as parsing."""
        if not _PARSER:
            super().setup_parser(*args)
            _PARSER.append(self.parser)
        self.parser = _PARSER[0]
        self.parser.prog = f"recalign {self.command}"

    def init_parser(self, **kwargs: Any) -> Parser:
        parser = Parser(**kwargs)
        parser.add_files()
        return parser

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

    def parse_arguments(self, parser: Parser, args: Any) -> None:  # type: ignore[override]
        self.config, variables = _read(parser, args)
        self.parsed = self._parsed(parser, self.config, variables)
        self.config.seed_everything = False  # the run seeds, not the constructor
        self.config_dump = self.parsed.config  # what LightningCLI records as hyper-parameters

    def instantiate_classes(self) -> None:
        """Do nothing yet: `build` does it."""

    def _parsed(self, parser: Parser, config: Namespace, variables: set[str]) -> ParsedStage:
        seed, trains = config.seed_everything, self.command == "fit"
        _import(config.run.imports)
        _fill_defaults(config)
        checks.settings(config, training=trains)
        if trains:
            config.run.name = name_in_sweep(config.run.name)
        run = RunConfig(**vars(config.run))
        log = config.data.init_args.log.name
        folder = RunFolder.of(run, run.chain or log, seed)
        checkpoint = find_checkpoint(config.ckpt_path, folder, self.command)
        own = _run_of(checkpoint, folder) if checkpoint else None
        if own:
            upstream.relocate_ids(config.data.init_args, own.path)
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
        parsed = ParsedStage(self.words, variables, resolved, run, seed, log, folder, checkpoint, continued, found)
        if alone:
            arguments = Namespace(checkpoint=str(checkpoint), top_k=config.model.init_args.top_k)
            config.model = Namespace(class_path=class_path(EvaluatedPolicy), init_args=arguments)
        if parsed.in_place:
            resolved["ckpt_path"] = None  # config.yaml repeats the whole run, not its last part
        return parsed

    def build(self) -> tuple[Trainer, LightningModule, LightningDataModule]:
        """Instantiate what is configured.

        Raises:
            InputError: a constructor refuses a value.
        """
        with constructing():
            super().instantiate_classes()
        return self.trainer, self.model, self.datamodule

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        parsed, config = self.parsed, self.config_init["trainer"]
        self.config_init["checkpoint"].dirpath = str(parsed.folder.checkpoints.resolve())
        self.own_loggers = [logger for logger in listed(config.logger) if not isinstance(logger, bool)]
        ours = NaNGuard(parsed.folder.last), CheckMonitors(), StepSeeds(parsed.seed), TrainingMonitor()
        callbacks: list[Callback] = [*ours, *self.callbacks]
        bars = [one for one in listed(config.callbacks) if isinstance(one, ProgressBar)]
        if config.enable_progress_bar is not False and not bars:
            callbacks.append(Bar() if sys.stderr.isatty() else LineProgress(parsed.run.name))
        self.trainer_defaults["callbacks"] = [*callbacks, *listed(self.config_init["early_stopping"])]
        plugins = [*listed(config.plugins), WholeCheckpointIO()]
        if config.strategy == "ddp":
            config.strategy = DDPStrategy(broadcast_buffers=False)  # no buffer changes in training
        # Our own loggers come later, when the run folder is ready for them.
        folder = str(parsed.folder.path)
        trainer = super().instantiate_trainer(logger=False, default_root_dir=folder, plugins=plugins, **kwargs)
        # Lightning's `checkpoint_callback` is the first: it has to be the one whose file is handed over.
        trainer.callbacks.sort(key=lambda one: isinstance(one, Checkpoint) and not isinstance(one, RunCheckpoint))  # type: ignore[attr-defined]
        return trainer


def _run_of(checkpoint: Path, folder: RunFolder) -> RunFolder | None:
    """The run that wrote a checkpoint: this one, whatever its file is called, or one with a manifest; else None."""
    own = RunFolder(checkpoint.parent.parent)
    ours = own.path.resolve() == folder.path.resolve() or checkpoint.parent == own.checkpoints
    return own if ours and own.manifest.is_file() else None


def _read(parser: Parser, words: Sequence[str]) -> tuple[Namespace, set[str]]:
    """Settings, and the environment variables that they name.

    Kept: it takes long, and a chain's stages are planned and then run. Settings that name files, variables, a
    notebook's classes or those of a reloaded module are read anew, for these may have changed.
    """
    given, seen = list(_texts(words)), set[Path]()
    texts = [text for text, _ in given]
    key = (*words, *texts)
    config, classes = _PARSED.get(key) or (None, {})
    if config is None or any(imported(path) is not kind for path, kind in classes.items()):  # a module was reloaded
        config = parser.read(words)
        own = (path for path in class_paths(config.as_dict()) if not path.startswith(LASTING))
        classes = {path: imported(path) for path in own}
    if not any(READ_ANEW.search(text) for text in texts):
        _PARSED[key] = config, classes
    config = config.clone()
    config.pop("config", None)
    texts += [inner for text, folder in given for inner in _named(text, folder, seen)]
    return config, {name for text in texts for name in VARIABLE.findall(text)}


def _texts(words: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """What the words set: the values of options, and the content of files of settings; each with its folder."""
    for option, value, _ in split(words):
        if value is not None:
            file = Path(value)
            yield (_content(file), file.parent) if option in ("-c", "--config") else (value, Path())


def _named(text: str, folder: Path, seen: set[Path]) -> Iterator[str]:
    """The content of the files that a text names, from its own folder or the current one, and of those they name."""
    for name in NAMED.findall(COMMENT.sub("", text)):
        for file in (folder / name, Path(name)):
            if file.is_file() and file.resolve() not in seen:
                seen.add(file.resolve())
                yield (content := _content(file))
                yield from _named(content, file.parent, seen)


def _content(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def _import(modules: Sequence[str]) -> None:
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise InputError(str(error), where="run.imports", remedy="name modules that can be imported") from error


def _fill_defaults(config: Namespace) -> None:
    """Fill what follows from others and from the machine: the data's seed, how long this model trains, and where."""
    if config.data.init_args.get("seed", 0) is None:
        config.data.init_args.seed = config.seed_everything
    trainer = config.trainer
    if trainer.accelerator == "auto" and MPSAccelerator.is_available():
        trainer.accelerator = "cpu"  # Apple's GPUs know no float64, which the encoder's times need
    if trainer.max_epochs is None and trainer.max_steps == -1 and trainer.max_time is None:
        trainer.max_epochs = getattr(imported(config.model.class_path), "MAX_EPOCHS", None)
