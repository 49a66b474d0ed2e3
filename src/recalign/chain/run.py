"""Runs a chain, or what has changed of it.

A stage whose inputs (data, configuration, upstream checkpoints, version of recalign) have not changed is not run again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from recalign.chain.plan import Chain, Plan
from recalign.chain.search import Search
from recalign.chain.space import Settings
from recalign.chain.train import Trained, base_checkpoints, say, train
from recalign.errors import InputError
from recalign.evaluation import comparison
from recalign.evaluation.methods import BASE_STAGES, MethodRun, base_method, evaluate_methods
from recalign.evaluation.report import render, show
from recalign.events import data_root
from recalign.files import write_json
from recalign.reward import RewardData
from recalign.sequences.audit import audit_log
from recalign.sequences.verdict import verdict
from recalign.simulation import World, simulate, write
from recalign.stage.code import EVALUATION, code_digest


def run_chain(plan: Plan) -> Path:
    """Run an experiment, or what has changed of it, print its table and write its report.

    Args:
        plan: the experiment.

    Returns:
        The chain's run folder, with ``comparison.csv`` and ``report.html``.

    Raises:
        InputError: something cannot be used; a mistake in any stage's settings, and a group of users without rewards,
            show before any stage runs.
        TrainingError: a stage's training cannot go on.
    """
    chain, folder = plan.chain, plan.folder
    parsed = plan.parse()
    search = Search(plan, parsed) if chain.trials > 1 else None
    if search and not search.methods:
        search = None  # popularity, say, has no settings
    parsed["recommender"].folder.probe()
    with _alone(folder):
        return _run(plan, search, plan.data(chain.seeds[0]))


def _run(plan: Plan, search: Search | None, data: RewardData) -> Path:
    chain, folder, device = plan.chain, plan.folder, plan.device()
    _require_same_log(folder, data.log_.name)
    chosen: dict[str, Settings] = {}
    for seed in chain.seeds:
        if chain.world and seed != chain.seeds[0]:
            data = plan.data(seed)
        make_world(data, replace(chain.world, seed=seed) if chain.world else None)
        if seed == chain.seeds[0]:
            _check(data, folder)
            _require_rewards(plan)
        trained = {stage: train(plan.parsed(stage, seed)) for stage in BASE_STAGES}
        base = base_checkpoints(trained)
        if search and seed == search.seed:
            chosen = search.run(base, data)
        trained |= {method: train(plan.parsed(method, seed, chosen.get(method))) for method in plan.trained}
        runs = [_method_run(method, trained, chosen, chain) for method in chain.methods]
        evaluated = evaluate_methods(folder, seed, runs, base, data, device=device, code=code_digest(EVALUATION))
        say(f"evaluation, seed {seed}: {', '.join(evaluated) or 'unchanged'}")
    table = comparison.compare(folder, methods=chain.methods, seeds=chain.seeds, roles=chain.roles)
    page = render(folder, searched=search is not None)
    show(table, chain.roles, folder / comparison.FILE, page)
    return folder


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a chain's folder, so that no other process runs a chain in it.

    Raises:
        InputError: another one does.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            "another process is running a chain in this folder",
            where=str(folder),
            remedy="let it finish, or give this one another --name",
        ) from None
    try:
        yield
    finally:
        lock.release()


def _require_same_log(folder: Path, log: str) -> None:
    """Refuse to replace what was found on another log."""
    for path in folder.glob("*/seed-*[0-9]/evaluation/summary.json"):
        if (other := json.loads(path.read_text(encoding="utf-8"))["log"]) != log:
            raise InputError(
                f"it holds a chain of the log {other!r}, and this one is of {log!r}",
                where=str(folder),
                remedy="give this chain a --name of its own",
            )


def _method_run(method: str, trained: Mapping[str, Trained], chosen: Mapping[str, Settings], chain: Chain) -> MethodRun:
    """What is evaluated of a method; a trained policy is reranked as strongly as the start's would be."""
    if method in trained:
        return trained[method].method_run(method)
    own = base_method(method)
    strength = chosen.get("rerank" if own else method, {}).get("strength", chain.rerank)
    run = trained[own].method_run(method) if own else MethodRun(method, None, {})
    return replace(run, strength=strength, keep=chain.keep)


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
    """Find that the reward model or a judge has nothing to learn, or to be measured on, before the policy is cloned."""
    for stage in BASE_STAGES:
        data = plan.parsed(stage, plan.chain.seeds[0]).datamodule()
        if isinstance(data, RewardData):
            data.rated  # noqa: B018 (raises where all are alike)
            data.require_rated("validation")


def _check(data: RewardData, folder: Path) -> None:
    """What `recalign check` says, kept for the report."""
    sections = audit_log(data)
    said = verdict(sections, data.log_.time_unit)
    write_json(folder / "check.json", {"verdict": str(said), **sections})
    say(f"{data.report}\n{said}")
