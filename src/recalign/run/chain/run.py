"""Run a chain: those stages whose data, configuration, upstream checkpoints or code have changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import yaml

from recalign import artifacts
from recalign.artifacts import code_digest, once
from recalign.data.events import data_root
from recalign.data.events.log import SIMULATED
from recalign.data.sequences.audit import audit_log
from recalign.data.sequences.verdict import verdict
from recalign.data.simulation import World, simulate, write
from recalign.errors import InputError
from recalign.evaluation.comparison import RECORD, RunsComparison
from recalign.evaluation.evaluated_runs import evaluated
from recalign.evaluation.methods import BASE_STAGES, MethodRun, SeedEvaluation
from recalign.evaluation.page import write_page
from recalign.evaluation.report import show
from recalign.evaluation.reranking import base_method
from recalign.evaluation.sources import Sources
from recalign.files import held, read_json, write_json
from recalign.reward import RewardData
from recalign.run.chain.engine import workers_of
from recalign.run.chain.experiment import Chain
from recalign.run.chain.graph import Results, Step, anew, in_order, side_by_side
from recalign.run.chain.plan import Plan, needs_tokens
from recalign.run.chain.progress import Progress
from recalign.run.chain.published import publish
from recalign.run.chain.search import CHOICE, Search
from recalign.run.chain.train import base_checkpoints, method_run, named
from recalign.run.stage import Stage, Trained
from recalign.run.stage.console import quiet, say
from recalign.run.stage.parsed import without_values
from recalign.run.stage.tokens import ParsedTokens
from recalign.run.stage.upstream import TOKENS

IDS = "ids"
"""What a chain leaves for `recalign update`: the ids of its log, and what it was asked for."""


def run_chain(plan: Plan) -> Path:
    """Run what has changed of a chain, print its table and write its report.

    Returns:
        The chain's run folder, with ``comparison.csv`` and ``report.html``.

    Raises:
        InputError: before any stage runs, for wrong settings of any stage or users without rewards.
        TrainingError: a stage's training cannot go on, or its worker died twice.
    """
    chain, folder = plan.chain, plan.folder
    parsed = plan.parse()
    search = Search(plan, parsed) if chain.trials > 1 else None
    if search and not search.settings:
        search = None  # popularity, say, has no settings
    steps = steps_of(plan, parsed, search)
    parsed["recommender"].folder.probe()
    remedy = "let it finish, or give this one another --name"
    with quiet(), workers_of(chain) as workers, held(folder, "running a chain", remedy):
        _prepare(plan)
        needs, number = {step.name: step.needs for step in steps}, workers.number if workers else 1
        progress = Progress(needs, "stage", number, folder / "seconds.json")
        if workers is None:
            in_order(steps, chain.threads, progress)
        else:
            side_by_side(steps, chain.threads or 1, workers, folder / "logs", progress, chain.verbose)
        if not chain.world:  # of which each seed has its own
            plan.data(chain.seeds[0]).remember(folder / IDS)
        write_json(folder / RECORD, plan.recorded())
        table = RunsComparison(folder, methods=chain.methods, seeds=chain.seeds, roles=chain.roles)
        once(table, say)
        sources = Sources.of(folder)
        page = write_page(folder, sources)
        publish(folder, page, parsed["recommender"].config["trainer"]["logger"], sources, search is not None)
        show(sources, Path(table.name), page)
    return folder


def steps_of(plan: Plan, parsed: Mapping[str, Stage], search: Search | None) -> list[Step]:
    """All that a chain runs, each step after what it needs. ``parsed`` is what `Plan.parse` gives."""
    steps: list[Step] = []
    for seed in plan.chain.seeds:
        world: tuple[str, ...] = ()
        if plan.chain.world and seed != plan.chain.seeds[0]:
            steps.append(Step(f"world/seed-{seed}", anew(_world, plan, seed)))
            world = (steps[-1].name,)
        if needs_tokens(parsed):
            steps.append(Step(named(TOKENS, seed), partial(_tokens, plan, seed), world))
        for stage in BASE_STAGES:
            upstream = (named(one.stage, seed) for one in parsed[stage].upstream if not one.named)
            steps.append(Step(named(stage, seed), partial(_fit, plan, stage, seed), (*world, *upstream)))
        base = tuple(named(stage, seed) for stage in BASE_STAGES)
        if search and seed == search.seed:
            steps += search.steps()
        needs = (*base, CHOICE) if search else base
        trained = [Step(named(one, seed), partial(_fit, plan, one, seed), needs) for one in plan.chain.trained]
        needs += tuple(step.name for step in trained)
        steps += [*trained, Step(f"evaluation/seed-{seed}", partial(_Evaluation.of, plan, seed), needs)]
    return steps


def _prepare(plan: Plan) -> None:
    """Make the first seed's world, read and check the log."""
    first = plan.chain.seeds[0]
    data = plan.data(first)
    _require_same_log(plan.folder, data.log_.name)
    _world(plan, first)
    _check(data, plan.folder, plan.parsed("reward", first).variables)
    _require_rewards(plan)


def _world(plan: Plan, seed: int, _: Results | None = None) -> None:
    world = plan.chain.world
    make_world(plan.data(seed), replace(world, seed=seed) if world else None)


def _tokens(plan: Plan, seed: int, _: Results) -> ParsedTokens:
    return replace(plan.tokens(seed), verbose=plan.chain.verbose)


def _fit(plan: Plan, stage: str, seed: int, done: Results) -> Stage:
    return replace(plan.parsed(stage, seed, done.get(CHOICE, {}).get(stage)), verbose=plan.chain.verbose)


class _Evaluation(SeedEvaluation):
    """The evaluation of a chain's methods, which says what it evaluates."""

    @classmethod
    def of(cls, plan: Plan, seed: int, done: Results) -> _Evaluation:
        trained: dict[str, Trained] = {stage: done[named(stage, seed)] for stage in plan.stages}
        runs = [_method_run(method, trained, plan.chain) for method in plan.chain.methods]
        data = plan.data(seed)
        data.sample = plan.chain.evaluation.users
        return cls(plan.folder, seed, runs, base_checkpoints(trained), data, plan.device(), code_digest())

    def make(self) -> list[str]:
        evaluated = super().make()
        say(f"  evaluated: {', '.join(evaluated)}")
        return evaluated


def _require_same_log(folder: Path, log: str) -> None:
    """Refuse a folder that holds a chain of another log."""
    for _, _, place in evaluated(folder, None, None):
        whole = artifacts.check(place).whole  # any other is made again
        if whole and (other := read_json(place / "summary.json")["log"]) != log:
            text = f"it holds a chain of the log {other!r}, and this one is of {log!r}"
            raise InputError(text, where=str(folder), remedy="give this chain a --name of its own")


def _method_run(method: str, trained: Mapping[str, Trained], chain: Chain) -> MethodRun:
    """The checkpoint and settings with which a method is evaluated."""
    own = trained.get(base_method(method) or method)
    run = method_run(own, method) if own else MethodRun(method, None, {})
    return replace(run, strength=chain.rerank, keep=chain.keep)


def make_world(data: RewardData, world: World | None) -> None:
    """Make the simulated log that is missing: the world that is asked for, else the default one."""
    root = data_root(data.root)
    made = root / SIMULATED / "world.yaml"
    if world:
        if not made.is_file() or yaml.safe_load(made.read_text(encoding="utf-8")) != asdict(world):
            write(simulate(world), root)
    elif data.log_.name == SIMULATED and not (root / SIMULATED / "events.parquet").is_file():
        say(f"there is no simulated log under {root}: making the default world")
        write(simulate(World()), root)


def _require_rewards(plan: Plan) -> None:
    """Refuse a log whose reward model or judges have no rewards, and a reward model of another reward, before a fit."""
    of_chain = plan.data(plan.chain.seeds[0]).reads_rewards
    for stage in BASE_STAGES:
        data = plan.parsed(stage, plan.chain.seeds[0]).datamodule()
        if isinstance(data, RewardData):
            if stage == "reward" and data.reads_rewards != of_chain:
                what = f"the reward model would learn {data.reads_rewards}, and methods are measured by {of_chain}"
                remedy = "set it for all stages (data.reward); judges alone may have their own"
                raise InputError(what, where="stages.reward.data", remedy=remedy)
            data.rated  # noqa: B018 (raises where all are alike)
            data.require_rated("validation")


def _check(data: RewardData, folder: Path, variables: set[str]) -> None:
    """What `recalign check` says, kept for the report, which others may read: without the values of variables."""
    sections = audit_log(data)
    said = verdict(sections, data.log_.time_unit)
    write_json(folder / "check.json", without_values({"verdict": str(said), **sections}, variables))
    say(f"{data.report}\n{said}")
