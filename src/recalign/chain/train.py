"""Train a stage of a chain or a trial of a search, unless a finished run is up to date."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch.callbacks import Callback

from recalign.chain.progress import say
from recalign.errors import TrainingError
from recalign.evaluation.methods import BASE_STAGES, BaseCheckpoints, MethodRun
from recalign.evaluation.reranking import READS_REWARD_MODEL
from recalign.keys import options
from recalign.recommender.checkpoint import read_checkpoint
from recalign.sequences.placebo import CORRELATION
from recalign.stage import Manifest, ParsedStage, RunFolder, parse_stage, run_stage
from recalign.stage.console import quiet


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

    def method_run(self, method: str) -> MethodRun:
        """The method to evaluate, with its training cost and, of a placebo, how much of its signal is left."""
        content = read_checkpoint(self.checkpoint)
        facts = content["facts"]
        figures = {"cost/seconds": self.seconds, "cost/steps": content["global_step"], "cost/events": facts["events"]}
        figures |= {CORRELATION: facts[CORRELATION]} if CORRELATION in facts else {}
        return MethodRun(method, self.checkpoint, figures | {READS_REWARD_MODEL: float(self.reads_reward_model)})


def train(parsed: ParsedStage, *callbacks: Callback, verbose: bool = False) -> Trained:
    """Run one stage, unless its finished run is up to date.

    Args:
        parsed: its command, with the checkpoints that it starts from.
        *callbacks: that do not change what is trained. Runs of several processes do without them.
        verbose: whether to print the command, how long it took, and what it hands over.

    Raises:
        InputError: something that was given cannot be used.
        TrainingError: training cannot go on.
    """
    folder = parsed.folder
    with quiet():
        state, manifest = parsed.state(), Manifest.read(folder)
        if manifest and state.fresh:
            say(f"  unchanged: {folder.path}")
            return Trained.of(folder, manifest)
        if state.sealed:
            say(f"  again: {folder.path} ({state})")
        if verbose:
            say(f"  {parsed.command}")
        alone = parsed.bare_trainer().world_size > 1
        manifest = _run_alone(parsed) if alone else run_stage(parsed.request, *callbacks).manifest
    assert manifest is not None  # a plan has no dry run
    trained = Trained.of(folder, manifest)
    if verbose:
        say(f"  {trained.seconds:.0f} s, {trained.checkpoint}")
    return trained


def trial(parsed: ParsedStage, name: str, group: str) -> ParsedStage:
    """The same run as a trial: in ``<stage>/<group>/<name>/``, from the same checkpoints."""
    upstream = {one.key: str(one.path) for one in parsed.upstream}
    run = {"run.name": name, "run.root": str(parsed.folder.path.parent), "run.chain": group}
    return parse_stage([*parsed.words, *options({**upstream, **run})])


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
    """The checkpoints that all methods of a seed share."""
    return BaseCheckpoints(*(trained[stage].checkpoint for stage in BASE_STAGES))
