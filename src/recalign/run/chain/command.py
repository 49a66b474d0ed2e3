"""`recalign chain`: the main job, from its words to the report."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import yaml

from recalign import artifacts
from recalign.data.events import data_root
from recalign.data.events.log import SIMULATED
from recalign.data.sequences.audit import audit_log
from recalign.data.sequences.verdict import verdict
from recalign.data.simulation import World, simulate, write
from recalign.errors import InputError
from recalign.evaluation.comparison import FILE
from recalign.evaluation.evaluated_runs import evaluated
from recalign.evaluation.methods import BASE_STAGES
from recalign.evaluation.page import write_page
from recalign.evaluation.report import show
from recalign.evaluation.sources import Sources
from recalign.files import locked, read_json, write_json
from recalign.reward import RewardData
from recalign.run.chain.experiment import Chain
from recalign.run.chain.parallel import run_side_by_side, workers_of
from recalign.run.chain.plan import Overrides, Plan
from recalign.run.chain.published import publish
from recalign.run.chain.run import train_and_compare
from recalign.run.chain.search import Search
from recalign.run.chain.steps import run_in_order
from recalign.run.stage.console import echo, quiet
from recalign.run.stage.parsed import without_values
from recalign.run.stage.settings import instantiated, parse_call
from recalign.run.words import iter_options, short


def chain(argv: Sequence[str]) -> Path:
    """The main job. Any stage's settings can be given too: --trainer.KEY and --data.KEY for all stages,
    --stages.STAGE.KEY for one.

    Args:
        argv: the words after ``recalign chain``.

    Returns:
        The chain's run folder.

    Raises:
        InputError: something that was given cannot be used.
    """
    own, overrides = split_overrides(argv)
    description = " ".join((chain.__doc__ or "").split("\n\n")[0].split())
    parser, parsed = parse_call("chain", description, Chain, own, "the chain's YAML")
    if not parsed.config:
        raise InputError("no chain is named", remedy="give its YAML: recalign chain ml-100k")
    return run_chain(Plan(Chain(**instantiated(parser, parsed)), Path(str(parsed.config[-1])), overrides))


def run_chain(plan: Plan) -> Path:
    """Run what has changed of a chain, print its table and write its report.

    Returns:
        The chain's run folder, with ``comparison.csv`` and ``report.html``.

    Raises:
        InputError: before any stage runs, for wrong settings of any stage or users without rewards.
        TrainingError: a stage's training cannot go on, or its worker died twice.
    """
    chain, folder, parsed = plan.chain, plan.folder, plan.parse()
    search = Search(plan, parsed) if chain.trials > 1 and chain.post_trained else None
    trials = search.steps() if search else []
    remedy = "let it finish, or give this one another --name"
    with quiet(), workers_of(chain) or nullcontext() as workers, locked(folder, "running a chain", remedy):
        _require_same_log(plan)
        for seed in chain.seeds if chain.world else chain.seeds[:1]:
            make_world(plan.data(seed), replace(chain.world, seed=seed) if chain.world else None)
        _check_log(plan, parsed["reward"].variables)
        _require_rewards(plan)
        execute = partial(run_side_by_side, workers, folder / "logs", chain.verbose) if workers else run_in_order
        train_and_compare(plan, parsed, trials, execute)
        sources = Sources.of(folder)
        page = write_page(folder, sources)
        publish(folder, page, parsed["recommender"].config["trainer"]["logger"], sources, search is not None)
        show(sources, folder / FILE, page)
    return folder


def split_overrides(argv: Sequence[str]) -> tuple[list[str], Overrides]:
    """Separate the chain's own options from those of its stages.

    ``--trainer.X`` and ``--data.X`` go to every stage, ``--stages.<stage>.X`` to one.

    Returns:
        The chain's own words, and the others.
    """
    own: list[str] = []
    overrides: Overrides = {}
    for option, value, words in iter_options(argv):
        if option.startswith(("--model.", "--checkpoint.", "--early_stopping.")):
            raise InputError(
                "is a setting of one stage", where=option, remedy=f"write --stages.STAGE.{option[2:]} VALUE"
            )
        if not option.startswith(("--trainer.", "--data.", "--stages.")):
            own += words
            continue
        if value is None:
            raise InputError("a value must follow", where=option, remedy=f"write {option} VALUE")
        stage = None
        if option.startswith("--stages."):
            stage, _, key = option.removeprefix("--stages.").partition(".")
            if not key:
                raise InputError("names no setting", where=option, remedy="write --stages.STAGE.KEY VALUE")
            option = f"--{key}"
        key, of_stage = short(option.removeprefix("--")), overrides.setdefault(stage, {})
        if key.endswith("+") and key in of_stage:
            raise InputError("stands there twice", where=option, remedy="give both in one list: [A, B]")
        of_stage[key] = value
    return own, overrides


def make_world(data: RewardData, world: World | None) -> None:
    """Make the simulated log that is missing: the world that is asked for, else the default one."""
    root = data_root(data.root)
    made = root / SIMULATED / "world.yaml"
    if world:
        if not made.is_file() or yaml.safe_load(made.read_text(encoding="utf-8")) != asdict(world):
            write(simulate(world), root)
    elif data.log_.name == SIMULATED and not (root / SIMULATED / "events.parquet").is_file():
        echo(f"there is no simulated log under {root}: making the default world")
        write(simulate(World()), root)


def _require_same_log(plan: Plan) -> None:
    """Refuse a folder that holds a chain of another log."""
    log = plan.data(plan.chain.seeds[0]).log_.name
    for _, _, place in evaluated(plan.folder, None, None):
        whole = artifacts.check(place).whole  # any other is made again
        if whole and (other := read_json(place / "summary.json")["log"]) != log:
            text = f"it holds a chain of the log {other!r}, and this one is of {log!r}"
            raise InputError(text, where=str(plan.folder), remedy="give this chain a --name of its own")


def _check_log(plan: Plan, variables: set[str]) -> None:
    """What `recalign check` says, kept for the report, which others may read: without the values of variables."""
    data = plan.data(plan.chain.seeds[0])
    sections = audit_log(data)
    said = verdict(sections, data.log_.time_unit)
    write_json(plan.folder / "check.json", without_values({"verdict": str(said), **sections}, variables))
    echo(f"{data.report}\n{said}")


def _require_rewards(plan: Plan) -> None:
    """Refuse a log whose reward model or judges have no rewards, and a reward model of another reward, before a fit."""
    of_chain = plan.data(plan.chain.seeds[0]).reward_settings
    for stage in BASE_STAGES:
        data = plan.parsed(stage, plan.chain.seeds[0]).datamodule()
        if isinstance(data, RewardData):
            if stage == "reward" and data.reward_settings != of_chain:
                what = f"the reward model would learn {data.reward_settings}, and methods are measured by {of_chain}"
                remedy = "set it for all stages (data.reward); judges alone may have their own"
                raise InputError(what, where="stages.reward.data", remedy=remedy)
            data.rated  # noqa: B018 (raises where all are alike)
            data.require_rated("validation")
