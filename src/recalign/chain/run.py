"""Runs a chain, or what has changed of it.

A stage whose inputs (data, configuration, upstream checkpoints, version of recalign) have not changed is not run again.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recalign.chain.plan import GROUND, Plan
from recalign.errors import InputError
from recalign.evaluation import comparison
from recalign.evaluation.command import show
from recalign.evaluation.methods import Cell, Ground, evaluate_methods
from recalign.evaluation.report import render
from recalign.events import data_root
from recalign.recommender.checkpoint import read_checkpoint
from recalign.reward import RewardData
from recalign.sequences.audit import audit_log
from recalign.simulation import World, simulate, write
from recalign.stage import Manifest, RunFolder, StageCLI
from recalign.stage.console import quiet
from recalign.stage.folder import write_text


@dataclass(frozen=True)
class Trained:
    """A stage that has run.

    Attributes:
        checkpoint: what it hands over.
        seconds: its training took.
    """

    checkpoint: Path
    seconds: float

    @classmethod
    def of(cls, folder: RunFolder, manifest: Manifest) -> Trained:
        return cls(folder.path / str(manifest.checkpoint), manifest.seconds)


def run_chain(plan: Plan) -> Path:
    """Run an experiment, or what has changed of it, print its table and write its report.

    Args:
        plan: the experiment.

    Returns:
        The chain's run folder, with ``comparison.csv`` and ``report.html``.

    Raises:
        InputError: something cannot be used; a mistake in any stage's settings shows before any stage runs.
        TrainingError: a stage's training cannot go on.
    """
    parsed = plan.parse()
    folder = parsed["reward"].folder.path.parents[1]
    data: RewardData = parsed["reward"].datamodule()  # type: ignore[assignment]
    parsed["recommender"].folder.probe()
    _make_world(data)
    _check(data, folder)
    for seed in plan.chain.seeds:
        trained = {stage: _run(plan.argv(stage, seed)) for stage in plan.stages}
        cells = [_cell(method, trained) for method in plan.chain.methods]
        evaluated = evaluate_methods(folder, seed, cells, _ground(trained, plan.chain.rerank), data)
        _say(f"evaluation, seed {seed}: {', '.join(evaluated) or 'unchanged'}")
    table = comparison.compare(folder, methods=plan.chain.methods, seeds=plan.chain.seeds)
    page = render(folder)
    show(table, folder / comparison.FILE, page)
    return folder


def _say(line: str) -> None:
    print(line, flush=True)  # in step with the progress on stderr


def _make_world(data: RewardData) -> None:
    """Where the simulated log is missing, make the default one."""
    root = data_root(data.root)
    if data.log_.name == "simulated" and not (root / "simulated").exists():
        _say(f"there is no simulated log under {root}: making the default world")
        write(simulate(World()), root)


def _check(data: RewardData, folder: Path) -> None:
    """What `recalign check` says, kept for the report."""
    sections = audit_log(data.table, data.sequences, data.max_length)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "check.json", json.dumps(sections, indent=2, default=str) + "\n")
    _say(str(data.table.report))


def _run(argv: list[str]) -> Trained:
    """Run one stage, unless it would only repeat itself."""
    with quiet():
        stage = StageCLI(argv)  # parsed anew: the stages that it starts from are there now
        folder = stage.parsed.folder
        if manifest := stage.parsed.finished():
            _say(f"unchanged: {folder.path}")
            return Trained.of(folder, manifest)
        _say(shlex.join(["recalign", *argv]))
        manifest = stage.run().manifest
    if manifest is None:
        raise InputError("a chain cannot do with a dry run", where="trainer.fast_dev_run", remedy="use max_epochs=1")
    trained = Trained.of(folder, manifest)
    _say(f"  {trained.seconds:.0f} s, {trained.checkpoint}")
    return trained


def _ground(trained: Mapping[str, Trained], strength: float) -> Ground:
    start, reward, select, report = (trained[stage].checkpoint for stage in GROUND)
    return Ground(start, reward, select, report, strength)


def _cell(method: str, trained: Mapping[str, Trained]) -> Cell:
    if method not in trained:
        return Cell(method, None, {})
    checkpoint, seconds = trained[method].checkpoint, trained[method].seconds
    content = read_checkpoint(checkpoint)
    cost = {"seconds": seconds, "steps": content["global_step"], "events": content["facts"]["events"]}
    return Cell(method, checkpoint, {f"cost/{name}": value for name, value in cost.items()})
