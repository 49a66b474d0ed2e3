"""Checks and preparation before a chain's first stage: simulated worlds, the log, semantic ids, wrong settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import yaml

from recalign import seals
from recalign.artifacts import get_or_make
from recalign.data.events import data_root
from recalign.data.events.log import SIMULATED, SIMULATED_SHOWN, WORLDS
from recalign.data.sequences.audit import audit_log, verdict
from recalign.data.simulation import World, simulate, write
from recalign.errors import InputError
from recalign.evaluation.chain_comparison import evaluated
from recalign.evaluation.methods import BASE_STAGES
from recalign.files import read_json, write_json
from recalign.reward import RewardData
from recalign.run.chain.plan import Plan
from recalign.run.chain.steps import Results, Step, step_name
from recalign.run.stage import RunFolder, Stage
from recalign.run.stage.console import echo
from recalign.run.stage.folder import RunConfig
from recalign.run.stage.tokens import ParsedTokens, parse_tokens
from recalign.run.stage.upstream import TOKENS
from recalign.run.words import without_values

OWN = ("run.name", "run.root", "run.chain", "seed_everything", "ckpt_path", "threads", "config", "data.users")
"""Options of a stage that only the chain may set."""


def check_stage_settings(plan: Plan, parsed: Mapping[str, Stage]) -> None:
    """Refuse stage settings that the chain sets itself, that skip validation, or whose inputs differ from evaluation's.

    Args:
        parsed: the stages, from `Plan.parse`.
    """
    data = plan.data(plan.seeds[0])
    times = "known" if data.know_request else "last_event"
    chains = tuple(f"{key}." for key in (*OWN, *plan.world_root(0)))
    for stage, one in parsed.items():
        refuse_chain_settings(stage, [key for key in plan.given(stage) if f"{key}.".startswith(chains)])
        if one.config["trainer"]["limit_val_batches"] == 0:
            where = f"{stage}, trainer.limit_val_batches"
            raise InputError("must not be 0: a chain validates every stage", where=where, remedy="leave it out")
        if (given := one.config["data"]["init_args"].get("request_time", times)) != times:
            what = f"this stage has request_time {given!r}, and the chain evaluates with {times!r}"
            where, remedy = f"{stage}, data.request_time", "set data.request_time for all stages"
            raise InputError(what, where=where, remedy=remedy)
        encoder = one.config["model"]["init_args"].get("encoder") or {}
        room = encoder.get("init_args", {}).get("max_length", data.max_length)
        if stage.startswith("judge_") and room < data.max_length:
            what = f"the judge's encoder is limited to {room} events; histories have up to {data.max_length}"
            remedy = f"give {data.max_length}; the judge's data.max_length may be shorter"
            raise InputError(what, where=f"{stage}, model.encoder.max_length", remedy=remedy)


def refuse_chain_settings(stage: str, keys: Iterable[str]) -> None:
    """Refuse stage settings that the chain sets itself."""
    for key in sorted(keys):
        raise InputError("the chain sets this itself", where=f"{stage}, {key}", remedy="leave it out")


ITEMS_PER_REQUEST = 10
"""Items per request in the default world, for the log that has the shown items."""


def make_world(data: RewardData, world: World | None) -> None:
    """Simulate the configured world if its log is missing; if none is configured, the default world."""
    root = data_root(data.root)
    made = root / SIMULATED / "world.yaml"
    if world:
        if not made.is_file() or yaml.safe_load(made.read_text(encoding="utf-8")) != asdict(world):
            write(simulate(world), root)
    elif data.log_.name in WORLDS and not (root / SIMULATED / "events.parquet").is_file():
        echo(f"there is no simulated log under {root}: making the default world")
        write(simulate(World(shown=ITEMS_PER_REQUEST if data.log_.name == SIMULATED_SHOWN else 0)), root)


def require_same_log(plan: Plan) -> None:
    """Refuse a folder that holds a chain of another log."""
    log = plan.data(plan.seeds[0]).log_.name
    for _, _, place in evaluated(plan.folder, None, None):  # an altered one is made again
        if seals.check(place).whole and (other := read_json(place / "summary.json")["log"]) != log:
            text = f"it holds a chain of the log {other!r}, and this one is of {log!r}"
            raise InputError(text, where=str(plan.folder), remedy="give this chain a --name of its own")


def check_log(plan: Plan, variables: frozenset[str]) -> None:
    """Print what `recalign check` finds. Store it for the report, with environment variables' values masked."""
    data = plan.data(plan.seeds[0])
    sections = audit_log(data)
    said = verdict(sections, data.log_.time_unit)
    write_json(plan.folder / "check.json", without_values({"verdict": str(said), **sections}, variables))
    echo(f"{data.report}\n{said}")


def require_rewards(plan: Plan) -> None:
    """Before any fit, refuse a log without rewards for a reward model or judge, and another reward than the chain's."""
    of_chain = plan.data(plan.seeds[0]).reward_settings
    for stage in BASE_STAGES:
        data = plan.parsed(stage, plan.seeds[0]).datamodule()
        if isinstance(data, RewardData):
            if stage == "reward" and data.reward_settings != of_chain:
                what = f"the reward model would learn {data.reward_settings}, and methods are measured by {of_chain}"
                remedy = "set it for all stages (data.reward); judges alone may have their own"
                raise InputError(what, where="stages.reward.data", remedy=remedy)
            data.require_rewards()
            data.require_rated("validation")


def token_steps(plan: Plan, parsed: Mapping[str, Stage]) -> dict[int, list[Step]]:
    """The steps that make semantic ids, by seed; empty if the chain needs none.

    Raises:
        InputError: settings of the ids are wrong, or are given although the chain makes no ids.
    """
    if any(one.stage == TOKENS and not one.named for one in parsed["recommender"].upstream):
        tokens_of(plan, plan.seeds[0])
        return {seed: [Step(step_name(TOKENS, seed), partial(_tokenize, plan, seed))] for seed in plan.seeds}
    if plan.given(TOKENS).keys() - plan.given(None).keys():
        remedy = "leave them out, or set recommender: recommender-onerec"
        raise InputError("this chain makes no semantic ids", where=f"stages.{TOKENS}", remedy=remedy)
    return {}


def tokens_of(plan: Plan, seed: int) -> ParsedTokens:
    """The parsed `recalign tokenize` command of a seed."""
    given = {key: value for key, value in plan.given(TOKENS).items() if not key.startswith("trainer.")}
    folder = RunFolder.of(RunConfig(TOKENS, plan.chain.root, plan.name), plan.name, seed)
    own = {"seed": seed, "out": folder.path, **plan.world_root(seed)}
    refuse_chain_settings(TOKENS, given.keys() & own.keys())
    return parse_tokens([f"--config={file}" for file in (plan.yaml(TOKENS), plan.log)], given, own)


def _tokenize(plan: Plan, seed: int, _: Results) -> Path:
    return get_or_make(replace(tokens_of(plan, seed), verbose=plan.chain.verbose), echo)
