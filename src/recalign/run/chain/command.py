"""`recalign chain`: the main job, from the command line to the report."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from recalign.data.sequences.earlier import remember
from recalign.errors import InputError
from recalign.evaluation.chain_comparison import FILE, RECORD
from recalign.evaluation.page import write_page
from recalign.evaluation.report import show
from recalign.evaluation.sources import Sources
from recalign.files import write_json
from recalign.run import configs
from recalign.run.chain.checks import (
    check_log,
    check_stage_settings,
    make_world,
    require_rewards,
    require_same_log,
    token_steps,
)
from recalign.run.chain.experiment import Chain
from recalign.run.chain.parallel import run_here, run_side_by_side, workers_of
from recalign.run.chain.plan import Overrides, Plan
from recalign.run.chain.published import publish
from recalign.run.chain.search import Search
from recalign.run.chain.steps import train_and_compare
from recalign.run.stage.console import echo, quiet
from recalign.run.stage.settings import instantiated, load, parse_call
from recalign.run.words import flatten, iter_options
from recalign.workers import locked

DEFAULT = "chains/own-log"
"""The chain's YAML if only a log's is given."""
IDS = "ids"
"""Folder with the ids of the chain's log, for `recalign update`; the chain's settings are in `RECORD`."""


def chain(argv: Sequence[str]) -> Path:
    """Train and compare methods. Stages' settings can be given too: --trainer.KEY and --data.KEY for all stages,
    --stages.STAGE.KEY for one.

    Args:
        argv: the command-line arguments after ``recalign chain``.

    Returns:
        The chain's run folder.
    """
    own, overrides = split_overrides(argv)
    description = " ".join((chain.__doc__ or "").split("\n\n")[0].split())
    parser, parsed = parse_call("chain", description, Chain, of_log(own), "the chain's YAML, or a log's")
    if not parsed.config:
        raise InputError("no chain is named", remedy="give its YAML, or a log's: recalign chain ml-100k")
    chosen = Chain(**instantiated(parser, parsed))
    if chosen.quick:
        listed, chosen = chosen.methods, chosen.quickened()
        if left_out := [method for method in listed if method not in chosen.methods]:
            echo(f"quick: without {', '.join(left_out)}")
    return run_chain(Plan(chosen, Path(str(parsed.config[-1])), overrides))


def run_chain(plan: Plan) -> Path:
    """Run what has changed of a chain, print its table and write its report.

    Returns:
        The chain's run folder, with ``comparison.csv`` and ``report.html``.

    Raises:
        InputError: before any stage runs, for wrong settings of any stage or users without rewards.
        TrainingError: a stage's training cannot go on, or its worker died twice.
    """
    chain, folder, parsed = plan.chain, plan.folder, plan.parse()
    check_stage_settings(plan, parsed)
    search = Search(plan, parsed) if chain.trials > 1 and chain.post_trained else None
    tokens, trials = token_steps(plan, parsed), search.steps() if search else []
    machine = plan.evaluation_stage(chain.seeds[0]).bare_trainer()
    remedy = "let it finish, or give this one another --name"
    alone = machine.world_size > 1 or machine.strategy.root_device.type != "cpu"
    threads = chain.threads or (None if alone else 1)
    with quiet(), workers_of(chain, alone) or nullcontext() as workers, locked(folder, "running a chain", remedy):
        require_same_log(plan)
        for seed in chain.seeds if chain.world else chain.seeds[:1]:
            make_world(plan.data(seed), replace(chain.world, seed=seed) if chain.world else None)
        check_log(plan, parsed["reward"].variables)
        require_rewards(plan)
        execute = partial(run_side_by_side, workers) if workers else run_here
        train_and_compare(plan, partial(execute, folder, threads), tokens, trials, workers is not None)
        if not chain.world:  # with worlds, each seed has its own log
            remember(plan.data(chain.seeds[0]), folder / IDS)
        write_json(folder / RECORD, plan.recorded)
        sources = Sources.of(folder)
        page = write_page(folder, sources)
        publish(folder, page, parsed["recommender"].config["trainer"]["logger"], sources, search is not None)
        show(sources, folder / FILE, page)
    return folder


def of_log(words: Sequence[str]) -> list[str]:
    """Replace a log's YAML (``--config events.yaml``) in a chain's arguments by the default chain, log and name."""
    found: list[str] = []
    for option, value, own in iter_options(words):
        given = load(Path(value)) if option in ("--config", "-c") and value and Path(value).is_file() else {}
        if "data" in given and not given.keys() & {"log", "methods", "model"}:
            name = flatten(given).get("data.log.name") or Path(str(value)).stem
            own = [f"--config={configs.find(DEFAULT)}", f"--log={value}", f"--name={name}"]
        found += own
    return found


def split_overrides(argv: Sequence[str]) -> tuple[list[str], Overrides]:
    """Separate the chain's own options from those of its stages.

    ``--trainer.X`` and ``--data.X`` go to every stage, ``--stages.<stage>.X`` to one.

    Returns:
        The chain's own arguments, and the stages' settings.
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
            if not stage or not key:
                raise InputError("names no setting", where=option, remedy="write --stages.STAGE.KEY VALUE")
            option = f"--{key}"
        overrides.setdefault(stage, []).append({option.removeprefix("--"): value})
    return own, overrides
