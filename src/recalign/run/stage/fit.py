"""A `fit` that is kept: run once, and again when something changes that determines it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch.callbacks import Callback

from recalign.artifacts import State
from recalign.errors import InputError, TrainingError
from recalign.run.stage.cli import run_stage
from recalign.run.stage.console import say
from recalign.run.stage.folder import RunFolder
from recalign.run.stage.manifest import Manifest
from recalign.run.stage.parsed import ParsedStage


@dataclass(frozen=True)
class Trained:
    """A stage that has run.

    Attributes:
        folder: its run folder.
        checkpoint: what it hands over.
        seconds: its training took.
        reads_reward_model: whether it was trained with one.
    """

    folder: Path
    checkpoint: Path
    seconds: float
    reads_reward_model: bool

    @classmethod
    def of(cls, folder: RunFolder, manifest: Manifest) -> Trained:
        reads = any(key.endswith("reward_model") for key in manifest.upstream)
        return cls(folder.path, folder.path / str(manifest.checkpoint), manifest.seconds, reads)


@dataclass(frozen=True)
class Fit:
    """A stage to train (`recalign.artifacts.Kept`).

    Attributes:
        parsed: its command, with the checkpoints that it starts from.
        callbacks: that do not change what is trained. Runs of several processes do without them.
        verbose: whether to print the command, how long it took, and what it hands over.
    """

    parsed: ParsedStage
    callbacks: tuple[Callback, ...] = ()
    verbose: bool = False

    @property
    def name(self) -> str:
        return str(self.parsed.folder.path)

    def state(self) -> State:
        """Whether there is a finished run, and what was altered or has changed since. Reads the data."""
        return self.parsed.state()

    def load(self) -> Trained:
        """The run that is there."""
        return self._trained(Manifest.read(self.parsed.folder))

    def make(self) -> Trained:
        """Train.

        Raises:
            InputError: something that was given cannot be used.
            TrainingError: training cannot go on.
        """
        if self.verbose:
            say(f"  {self.parsed.command}")
        alone = self.parsed.bare_trainer().world_size > 1
        trained = self._trained(self._run_alone() if alone else run_stage(self.parsed.words, *self.callbacks).manifest)
        if self.verbose:
            say(f"  {trained.seconds:.0f} s, {trained.checkpoint}")
        return trained

    def _trained(self, manifest: Manifest | None) -> Trained:
        if manifest is None:
            remedy = "use trainer.max_epochs: 1"
            raise InputError("a dry run leaves nothing", where="trainer.fast_dev_run", remedy=remedy)
        return Trained.of(self.parsed.folder, manifest)

    def _run_alone(self) -> Manifest | None:
        """Run a stage of several processes by its command, which Lightning starts once for each of them.

        Raises:
            TrainingError: it failed; it said why.
        """
        words = [sys.executable, "-m", "recalign", *self.parsed.words]
        if code := subprocess.run(words, check=False).returncode:
            # 2 and 3 may be due to the settings: refused, or training that cannot go on. A kill or a bug is not.
            cause = None if code in (2, 3) else ChildProcessError(f"exit code {code}")
            raise TrainingError(f"exit code {code} of: {self.parsed.command}") from cause
        return None if self.parsed.dry else Manifest.read(self.parsed.folder)
