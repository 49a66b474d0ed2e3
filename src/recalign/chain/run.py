"""Run a chain: those stages whose data, configuration, upstream checkpoints or code have changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import yaml

from recalign import kept
from recalign.chain.engine import workers_of
from recalign.chain.experiment import Chain
from recalign.chain.graph import Results, Task, in_order, side_by_side
from recalign.chain.plan import Plan, needs_tokens
from recalign.chain.progress import Progress, say
from recalign.chain.published import publish
from recalign.chain.search import CHOICE, Search
from recalign.chain.train import Trained, base_checkpoints, named, train
from recalign.code import EVALUATION, code_digest
from recalign.errors import InputError
from recalign.evaluation import comparison
from recalign.evaluation.methods import BASE_STAGES, MethodRun, evaluate_methods
from recalign.evaluation.report import render, show
from recalign.evaluation.reranking import base_method
from recalign.evaluation.sources import Sources
from recalign.events import data_root
from recalign.files import held, read_json, write_json
from recalign.reward import RewardData
from recalign.sequences.audit import audit_log
from recalign.sequences.verdict import verdict
from recalign.simulation import World, simulate, write
from recalign.stage import ParsedStage
from recalign.stage.console import quiet
from recalign.stage.parsed import without_values
from recalign.stage.upstream import TOKENS

IDS, RECORD = "ids", "chain.json"
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
    tasks = tasks_of(plan, parsed, search)
    parsed["recommender"].folder.probe()
    remedy = "let it finish, or give this one another --name"
    with quiet(), workers_of(chain) as workers, held(folder, "running a chain", remedy):
        _prepare(plan)
        needs, number = {task.name: task.needs for task in tasks}, workers.number if workers else 1
        progress = Progress(needs, "stage", number, folder / "seconds.json")
        if workers is None:
            in_order(tasks, chain.threads, progress)
        else:
            side_by_side(tasks, chain.threads or 1, workers, folder / "logs", progress, chain.verbose)
        comparison.compare_runs(folder, methods=chain.methods, seeds=chain.seeds, roles=chain.roles)
        sources = Sources.of(folder, searched=search is not None)
        page = render(folder, sources)
        publish(folder, page, parsed["recommender"].config["trainer"]["logger"], sources)
        show(sources, folder / comparison.FILE, page)
    return folder


def tasks_of(plan: Plan, parsed: Mapping[str, ParsedStage], search: Search | None) -> list[Task]:
    """All that a chain runs, each task after what it needs. ``parsed`` is what `Plan.parse` gives."""
    tasks: list[Task] = []
    for seed in plan.chain.seeds:
        world: tuple[str, ...] = ()
        if plan.chain.world and seed != plan.chain.seeds[0]:
            tasks.append(Task(f"world/seed-{seed}", partial(_world, plan, seed)))
            world = (tasks[-1].name,)
        if needs_tokens(parsed):
            tasks.append(Task(named(TOKENS, seed), partial(_tokenize, plan, seed), world))
        for stage in BASE_STAGES:
            upstream = (named(one.stage, seed) for one in parsed[stage].upstream if not one.named)
            tasks.append(Task(named(stage, seed), partial(_train, plan, stage, seed), (*world, *upstream)))
        base = tuple(named(stage, seed) for stage in BASE_STAGES)
        if search and seed == search.seed:
            tasks += search.tasks()
        needs = (*base, CHOICE) if search else base
        trained = [Task(named(one, seed), partial(_train, plan, one, seed), needs) for one in plan.chain.trained]
        needs += tuple(task.name for task in trained)
        tasks += [*trained, Task(f"evaluation/seed-{seed}", partial(_evaluate, plan, seed), needs)]
    return tasks


def _prepare(plan: Plan) -> None:
    """Make the first seed's world, read and check the log."""
    first = plan.chain.seeds[0]
    data = plan.data(first)
    _require_same_log(plan.folder, data.log_.name)
    _world(plan, first)
    _check(data, plan.folder, plan.parsed("reward", first).variables)
    _require_rewards(plan)
    if not plan.chain.world:  # of which each seed has its own
        data.remember(plan.folder / IDS)
    write_json(plan.folder / RECORD, plan.recorded())


def _world(plan: Plan, seed: int, _: Results | None = None) -> None:
    world = plan.chain.world
    make_world(plan.data(seed), replace(world, seed=seed) if world else None)


def _tokenize(plan: Plan, seed: int, _: Results) -> None:
    tokens = plan.tokens(seed)
    if tokens.state().fresh:
        say(f"  unchanged: {tokens.folder.path}")
    else:
        if plan.chain.verbose:
            say(f"  {tokens.command}")
        tokens.run()


def _train(plan: Plan, stage: str, seed: int, done: Results) -> Trained:
    return train(plan.parsed(stage, seed, done.get(CHOICE, {}).get(stage)), verbose=plan.chain.verbose)


def _evaluate(plan: Plan, seed: int, done: Results) -> None:
    trained = {stage: done[named(stage, seed)] for stage in plan.stages}
    runs = [_method_run(method, trained, plan.chain) for method in plan.chain.methods]
    base, data = base_checkpoints(trained), plan.data(seed)
    data.sample = plan.chain.evaluation.users
    evaluated = evaluate_methods(
        plan.folder, seed, runs, base, data, device=plan.device(), code=code_digest(EVALUATION)
    )
    say(f"  {'evaluated' if evaluated else 'unchanged'}: {', '.join(evaluated) or f'the evaluation of seed {seed}'}")


def _require_same_log(folder: Path, log: str) -> None:
    """Refuse a folder that holds a chain of another log."""
    for place in folder.glob("*/seed-*[0-9]/evaluation"):
        whole = kept.check(place).whole  # any other is made again
        if whole and (other := read_json(place / "summary.json")["log"]) != log:
            raise InputError(
                f"it holds a chain of the log {other!r}, and this one is of {log!r}",
                where=str(folder),
                remedy="give this chain a --name of its own",
            )


def _method_run(method: str, trained: Mapping[str, Trained], chain: Chain) -> MethodRun:
    """The checkpoint and settings with which a method is evaluated."""
    own = trained.get(base_method(method) or method)
    run = own.method_run(method) if own else MethodRun(method, None, {})
    return replace(run, strength=chain.rerank, keep=chain.keep, spread=chain.lcb)


def make_world(data: RewardData, world: World | None) -> None:
    """Make the simulated log that is missing: the world that is asked for, else the default one."""
    root = data_root(data.root)
    made = root / "simulated" / "world.yaml"
    if world:
        if not made.is_file() or yaml.safe_load(made.read_text(encoding="utf-8")) != asdict(world):
            write(simulate(world), root)
    elif data.log_.name == "simulated" and not (root / "simulated").exists():
        say(f"there is no simulated log under {root}: making the default world")
        write(simulate(World()), root)


def _require_rewards(plan: Plan) -> None:
    """Refuse a log whose reward model or judges have no rewards, before the policy is cloned."""
    for stage in BASE_STAGES:
        data = plan.parsed(stage, plan.chain.seeds[0]).datamodule()
        if isinstance(data, RewardData):
            data.rated  # noqa: B018 (raises where all are alike)
            data.require_rated("validation")


def _check(data: RewardData, folder: Path, variables: set[str]) -> None:
    """What `recalign check` says, kept for the report, which others may read: without the values of variables."""
    sections = audit_log(data)
    said = verdict(sections, data.log_.time_unit)
    write_json(folder / "check.json", without_values({"verdict": str(said), **sections}, variables))
    say(f"{data.report}\n{said}")
