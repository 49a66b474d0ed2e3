"""Training one stage of a chain, unless it would only repeat itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recalign.errors import TrainingError
from recalign.evaluation.methods import BASE_STAGES, BaseCheckpoints, MethodRun
from recalign.recommender.checkpoint import read_checkpoint
from recalign.stage import Manifest, ParsedStage, RunFolder, run_stage
from recalign.stage.console import quiet


@dataclass(frozen=True)
class Trained:
    """A stage that has run.

    Attributes:
        folder: its run folder.
        checkpoint: what it hands over.
        seconds: its training took.
    """

    folder: Path
    checkpoint: Path
    seconds: float

    @classmethod
    def of(cls, folder: RunFolder, manifest: Manifest) -> Trained:
        return cls(folder.path, folder.path / str(manifest.checkpoint), manifest.seconds)

    def method_run(self, method: str) -> MethodRun:
        """What is evaluated of it, with what it cost."""
        content = read_checkpoint(self.checkpoint)
        cost = {"seconds": self.seconds, "steps": content["global_step"], "events": content["facts"]["events"]}
        return MethodRun(method, self.checkpoint, {f"cost/{name}": value for name, value in cost.items()})


def train(parsed: ParsedStage) -> Trained:
    """Run one stage, or find that it has run.

    Args:
        parsed: its command, with the checkpoints that it starts from.

    Raises:
        InputError: something that was given cannot be used.
        TrainingError: training cannot go on.
    """
    folder = parsed.folder
    with quiet():
        if manifest := parsed.finished():
            say(f"unchanged: {folder.path}")
            return Trained.of(folder, manifest)
        say(parsed.command)
        manifest = _run_alone(parsed) if parsed.bare_trainer().world_size > 1 else run_stage(parsed.request).manifest
    assert manifest is not None  # a plan has no dry run
    trained = Trained.of(folder, manifest)
    say(f"  {trained.seconds:.0f} s, {trained.checkpoint}")
    return trained


def _run_alone(parsed: ParsedStage) -> Manifest | None:
    """Run a stage of several processes by its command, which Lightning starts once for each of them.

    Raises:
        TrainingError: it failed; it said why.
    """
    if code := subprocess.run([sys.executable, "-m", "recalign", *parsed.words], check=False).returncode:
        raise TrainingError(f"exit code {code} of: {parsed.command}")
    return Manifest.read(parsed.folder)


def named(stage: str, seed: int) -> str:
    """The name of the task that trains a stage or a method."""
    return f"{stage}/seed-{seed}"


def base_checkpoints(trained: Mapping[str, Trained]) -> BaseCheckpoints:
    """What the methods of a seed rest on."""
    return BaseCheckpoints(*(trained[stage].checkpoint for stage in BASE_STAGES))


def say(line: str) -> None:
    print(line, flush=True)  # in step with the progress on stderr
