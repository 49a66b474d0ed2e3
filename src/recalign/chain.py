"""The main job: stages in order, each one a plain ``recalign fit``, then the comparison and the report.

A stage whose inputs (data, configuration, upstream checkpoints, version of recalign) have not changed is not run again.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile
from rich.console import Console

from recalign.errors import InputError
from recalign.evaluation import comparison
from recalign.evaluation.methods import UNTRAINED, Cell, Ground, evaluate_methods
from recalign.evaluation.report import render, terminal_table
from recalign.events import data_root
from recalign.recommender.checkpoint import read_checkpoint
from recalign.reward import RewardData
from recalign.sequences.audit import audit_log
from recalign.simulation import World, simulate, write
from recalign.stage import Manifest, ParsedStage, parse_stage, run_stage
from recalign.stage.parser import StageParser

Say = Callable[[str], None]

GROUND = ("recommender", "reward", "judge_select", "judge_report")
"""Stages that every method rests on, in order."""


@dataclass
class Chain:
    """An experiment: which log, which stages, which methods.

    Attributes:
        log: the log's YAML: a path, or its name in ``data/`` beside the chain's folder.
        methods: rows of the table.
        name: names the run folder; null: as the log.
        seeds: each a whole chain: cloning, reward model, judges, post-training.
        rerank: strength of `rerank` and `rerank_item_mean`, 1 / lambda in 1 / standard deviation of the reward.
        root: folder of all runs.
        stages: settings of single stages or methods, over those of their YAML (``asft: {model: {temperature: 0.5}}``).
        trainer: settings of every stage's trainer.
        data: settings of every stage's data.
    """

    log: str
    methods: list[str]
    name: str | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    rerank: float = 1.0
    root: str = "runs"
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)


class Plan:
    """The commands of a chain.

    Args:
        chain: the experiment.
        conf: the folder of the stages' YAML files.
        overrides: words of the command line for every stage (``--trainer.precision``, ...), and by stage.

    Raises:
        InputError: a method, stage or log that does not exist.
    """

    def __init__(self, chain: Chain, conf: Path, overrides: dict[str | None, list[str]]) -> None:
        self.chain, self.conf, self.overrides = chain, conf, overrides
        self.log = self._log()
        stages = {*GROUND, *chain.methods}
        named = {*chain.stages, *(stage for stage in overrides if stage is not None)}
        if unknown := sorted(named - stages):
            raise InputError(
                f"the chain has no stage or method {unknown[0]!r}", where="stages", remedy=f"it has {sorted(stages)}"
            )

    def _log(self) -> Path:
        beside = self.conf / "data" / f"{self.chain.log}.yaml"
        path = beside if beside.is_file() else Path(self.chain.log)
        if not path.is_file():
            raise InputError(
                f"there is no such file, and no {beside}", where=f"log {self.chain.log}", remedy="name the log's YAML"
            )
        return path

    @property
    def trained(self) -> list[str]:
        """Methods that have a `fit`."""
        return [m for m in self.chain.methods if m not in UNTRAINED]

    def argv(self, stage: str, seed: int) -> list[str]:
        """What follows ``recalign`` on the command line that runs one stage alone."""
        chain = self.chain
        words = ["fit", "--config", str(self._yaml(stage)), "--config", str(self.log), f"--seed_everything={seed}"]
        words += [f"--run.name={stage}", f"--run.root={chain.root}"]
        if chain.name:
            words.append(f"--run.chain={chain.name}")
        if stage == "judge_select":
            words.append("--data.users=B1")
        words += flatten({"trainer": chain.trainer, "data": chain.data}) + flatten(chain.stages.get(stage, {}))
        return words + self.overrides.get(None, []) + self.overrides.get(stage, [])

    def _yaml(self, stage: str) -> Path:
        name = "judge" if stage.startswith("judge_") else stage
        for path in (self.conf / f"{name}.yaml", self.conf / "posttrain" / f"{name}.yaml"):
            if path.is_file():
                return path
        known = sorted({*UNTRAINED, "asft", *(p.stem for p in (self.conf / "posttrain").glob("*.yaml"))})
        raise InputError(f"there is no method {stage!r}", where="methods", remedy=f"there are: {', '.join(known)}")

    def parse(self) -> dict[tuple[str, int], ParsedStage]:
        """Every stage's command, parsed, before anything runs.

        Raises:
            InputError: a key, value or file that does not exist.
        """
        stages = [*GROUND, *self.trained]
        return {(stage, seed): parse_stage(self.argv(stage, seed)) for seed in self.chain.seeds for stage in stages}


def flatten(settings: dict[str, Any], prefix: str = "") -> list[str]:
    """Nested settings as words of a command line: ``{"model": {"lr": 0.1}}`` -> ``["--model.lr=0.1"]``."""
    words = []
    for key, value in settings.items():
        if isinstance(value, dict) and "class_path" not in value:
            words += flatten(value, f"{prefix}{key}.")
        else:
            words.append(f"--{prefix}{key}={value if isinstance(value, str) else json.dumps(value)}")
    return words


def split_overrides(argv: list[str]) -> tuple[list[str], dict[str | None, list[str]]]:
    """Separate what is the chain's own from what goes on to its stages.

    ``--trainer.X`` and ``--data.X`` go to every stage, ``--stages.<stage>.X`` to one.

    Returns:
        The chain's own words; the others by stage, None standing for all.
    """
    own: list[str] = []
    overrides: dict[str | None, list[str]] = {}
    words = iter(argv)
    for word in words:
        option, equals, value = word.partition("=")
        if not option.startswith(("--trainer.", "--data.", "--stages.")):
            own.append(word)
            continue
        value = value if equals else next(words, "")
        stage = None
        if option.startswith("--stages."):
            _, stage, rest = option.split(".", 2) if option.count(".") > 1 else (None, None, None)
            if rest is None:
                raise InputError("names no setting", where=option, remedy="write --stages.<stage>.<key> <value>")
            option = f"--{rest}"
        overrides.setdefault(stage, []).append(f"{option}={value}")
    return own, overrides


def run_chain(chain: Chain, conf: Path, overrides: dict[str | None, list[str]]) -> Path:
    """Run an experiment, or what has changed of it, print its table and write its report.

    Args:
        chain: the experiment.
        conf: the folder of the stages' YAML files.
        overrides: as `Plan` takes them.

    Returns:
        The chain's run folder, with ``comparison.csv`` and ``report.html``.

    Raises:
        InputError: something cannot be used; a mistake in any stage's settings shows before any stage runs.
    """
    plan = Plan(chain, conf, overrides)
    parsed = plan.parse()
    folder = next(iter(parsed.values())).folder.path.parent.parent
    say: Say = Console(soft_wrap=True, highlight=False).print
    data: RewardData = parsed["reward", chain.seeds[0]].datamodule()  # type: ignore[assignment]
    _make_world(data, say)
    _check(data, folder, say)
    for seed in chain.seeds:
        for stage in (*GROUND, *plan.trained):
            _run(plan.argv(stage, seed), say)
        evaluated = _evaluate(plan, parsed, folder, seed, data)
        say(f"evaluation, seed {seed}: {', '.join(evaluated) or 'unchanged'}")
    table = comparison.compare(folder)
    page = render(folder)
    Console().print(terminal_table(table))
    say(f"{folder / comparison.FILE}\n{page}")
    return folder


def _make_world(data: RewardData, say: Say) -> None:
    """Where the simulated log is missing, make the default one."""
    root = data_root(data.root)
    if data.log_.name == "simulated" and not (root / "simulated").exists():
        say(f"there is no simulated log under {root}: making the default world")
        write(simulate(World()), root)


def _check(data: RewardData, folder: Path, say: Say) -> None:
    """What `recalign check` says, kept for the report."""
    sections = audit_log(data.table, data.sequences, data.max_length)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "check.partial"
    partial.write_text(json.dumps(sections, indent=2, default=str) + "\n")
    os.replace(partial, folder / "check.json")
    say(str(data.table.report))


def _run(argv: list[str], say: Say) -> None:
    """Run one stage, unless it would only repeat itself."""
    parsed = parse_stage(argv)  # anew: the stages before it are there now
    if parsed.finished():
        say(f"[dim]unchanged: {parsed.folder.path}[/dim]")
        return
    say(shlex.join(["recalign", *argv]))
    result = run_stage(argv)
    assert result.manifest is not None
    say(f"  {result.manifest.seconds:.0f} s, {result.checkpoint}")


def _evaluate(
    plan: Plan, parsed: dict[tuple[str, int], ParsedStage], folder: Path, seed: int, data: RewardData
) -> list[str]:
    handed = {stage: _handed_over(parsed[stage, seed]) for stage in (*GROUND, *plan.trained)}
    ground = Ground(*(handed[stage] for stage in GROUND), strength=plan.chain.rerank)
    cells = [_cell(parsed.get((method, seed)), method) for method in plan.chain.methods]
    return evaluate_methods(folder, seed, cells, ground, data)


def _handed_over(parsed: ParsedStage) -> Path:
    manifest = Manifest.read(parsed.folder)
    assert manifest is not None
    assert manifest.checkpoint is not None
    return parsed.folder.path / manifest.checkpoint


def _cell(parsed: ParsedStage | None, method: str) -> Cell:
    if parsed is None:
        return Cell(method, None, {})
    path, manifest = _handed_over(parsed), Manifest.read(parsed.folder)
    assert manifest is not None
    checkpoint = read_checkpoint(path)
    events = checkpoint["facts"].get("events", 0)
    cost = {"cost/seconds": manifest.seconds, "cost/steps": checkpoint["global_step"], "cost/events": events}
    return Cell(method, path, cost)


def main(argv: list[str]) -> Path:
    """The main job. Any stage's settings can be given too: --trainer.KEY and --data.KEY for all stages,
    --stages.STAGE.KEY for one.
    """
    own, overrides = split_overrides(argv)
    parser = StageParser(prog="recalign chain", description=main.__doc__, allow_abbrev=False)
    parser.add_argument("--config", "-c", action=ActionConfigFile, help="the chain's YAML; the folder above it is conf/")
    parser.add_class_arguments(Chain)
    settings = parser.parse_args(own)
    if not settings.config:
        raise InputError("no chain is named", where="recalign chain", remedy="--config conf/chain/ml-100k.yaml")
    conf = Path(str(settings.config[-1])).parent.parent
    chain = Chain(**{f.name: settings[f.name] for f in fields(Chain)})
    return run_chain(chain, conf, overrides)
