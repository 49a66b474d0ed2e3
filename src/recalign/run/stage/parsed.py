"""A parsed command: its settings, its run folder, and the checkpoints that it starts from."""

from __future__ import annotations

import copy
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import jsonargparse
from lightning import LightningDataModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException

from recalign.artifacts import State
from recalign.errors import InputError
from recalign.run.stage import upstream
from recalign.run.stage.console import quiet
from recalign.run.stage.folder import Manifest, RunConfig, RunFolder, run_key
from recalign.run.stage.settings import constructing
from recalign.run.stage.stage import FinishedRun
from recalign.run.words import without_values


@dataclass(frozen=True)
class ParsedStage:
    """A parsed command: its settings, run folder and upstream checkpoints, as far as they are known before it runs.

    `recalign.run.stage.command.Stage` adds how it runs. Its run is cached, and made again when anything that determines
    it changes (`recalign.artifacts.Artifact`).

    Attributes:
        argv: the arguments after ``recalign`` that run it alone.
        config: every setting, by nested key.
        folder: the run folder; it need not exist.
        checkpoint: the file to load: to continue a ``fit``, or for the others to evaluate.
        continued: the manifest of the run that wrote the checkpoint.
        upstream: the checkpoints that the stage starts from; a path is None until that stage has run.
        variables: names of the environment variables that settings name (``${oc.env:NAME}``).
    """

    argv: list[str]
    config: dict[str, Any]
    folder: RunFolder
    checkpoint: Path | None
    continued: Manifest | None
    upstream: list[upstream.Upstream]
    variables: frozenset[str] = frozenset()

    @property
    def verb(self) -> str:
        """``fit``, ``validate``, ``test`` or ``predict``."""
        return self.argv[0]

    @property
    def command_line(self) -> str:
        """The line that runs it alone."""
        return shlex.join(["recalign", *self.argv])

    @property
    def seed(self) -> int:
        return self.config["seed_everything"]

    @property
    def name(self) -> str:
        return str(self.folder.path)

    @property
    def run(self) -> RunConfig:
        return RunConfig(**self.config["run"])

    @property
    def log(self) -> str:
        """Name of the log."""
        return self.config["data"]["init_args"]["log"]["name"]

    @property
    def training(self) -> bool:
        return self.verb == "fit"

    @property
    def in_place(self) -> bool:
        """Whether the checkpoint lies in this run's folder, so that the run continues in place."""
        return self.checkpoint is not None and self.checkpoint.resolve().is_relative_to(self.folder.path.resolve())

    @property
    def shareable(self) -> dict[str, Any]:
        """The settings to write down: with ``${oc.env:NAME}`` in place of that variable's value."""
        return without_values(self.config, self.variables)

    def with_upstreams(self) -> Self:
        """The same stage, with upstream checkpoints looked up again: stages may have run since."""
        config, found = copy.deepcopy(self.config), [replace(one) for one in self.upstream]
        upstream.resolve(config, found, self.folder, self.log)
        return replace(self, config=config, upstream=found)

    def key(self, data: LightningDataModule | None = None) -> dict[str, Any]:
        """All that determines the result (`run_key`). Reads the data (None: as configured)."""
        fingerprint = getattr(data or self.datamodule(), "fingerprint", None)  # not every class has one
        return run_key(self.config, self.variables, fingerprint, upstream.hashes(self.upstream))

    def state(self) -> State:
        """Whether there is a finished run, and what was altered or has changed since. Reads the data."""
        manifest = Manifest.read(self.folder) if all(one.path for one in self.upstream) else None
        return manifest.state(self.folder, self.key()) if manifest else State()

    def load(self) -> FinishedRun:
        """The finished run in the run folder."""
        manifest = Manifest.read(self.folder)
        assert manifest is not None
        reads = any(key.endswith("reward_model") for key in manifest.upstream)
        return FinishedRun(self.folder.path, self.folder.path / str(manifest.checkpoint), manifest.seconds, reads)

    def bare_trainer(self) -> Trainer:
        """A trainer with the configured devices, and nothing else configured.

        Raises:
            InputError: this machine lacks the devices.
        """
        names, settings = ("accelerator", "devices", "num_nodes", "precision", "strategy"), self.config["trainer"]
        given = {name: settings[name] for name in names if isinstance(settings[name], str | int | list)}
        try:
            with quiet():
                return Trainer(**given, logger=False, enable_checkpointing=False, enable_progress_bar=False)
        except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
            remedy = "choose what this machine has, such as --trainer.accelerator cpu"
            raise InputError(str(error), where="trainer", remedy=remedy) from error

    def datamodule(self) -> LightningDataModule:
        """The data that the configuration describes; nothing is read yet."""
        parser = jsonargparse.ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(LightningDataModule, "data")
        with constructing():
            return parser.instantiate(parser.parse_object({"data": self.config["data"]})).data
