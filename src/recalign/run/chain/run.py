"""Train, evaluate and compare: each step loads what is up to date, and makes what is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import polars as pl

from recalign.artifacts import get_or_make
from recalign.code import code_digest
from recalign.data.events.yaml_text import yaml_text
from recalign.data.sequences.earlier import remember
from recalign.data.sequences.placebo import CORRELATION
from recalign.evaluation.comparison import RECORD, RunsComparison
from recalign.evaluation.methods import BASE_STAGES, BaseCheckpoints, MethodRun, SeedEvaluation
from recalign.evaluation.rows import READS_REWARD_MODEL, row_of
from recalign.files import write_json, write_text
from recalign.recommender.checkpoint import read_checkpoint
from recalign.reward import RewardData
from recalign.run.chain.plan import Plan
from recalign.run.chain.steps import Progress, Results, Step, run_in_order
from recalign.run.stage import Stage, Trained
from recalign.run.stage.console import echo, quiet

IDS = "ids"
"""Folder of what a chain leaves for `recalign update`: the ids of its log, and what it was asked for."""
EVALUATION = "evaluation-{}.yaml"
"""In a chain's folder, by seed: the configuration of the stage on whose data methods are evaluated."""
CHOICE = "choice"
"""Name of the step that chooses settings, by method."""


def train_and_compare(
    plan: Plan,
    parsed: Mapping[str, Stage],
    first: Mapping[int, Sequence[Step]] | None = None,
    search: Sequence[Step] = (),
    execute: Callable[[Sequence[Step], Progress, int | None], Results] = run_in_order,
) -> pl.DataFrame:
    """Run what is missing or out of date of a chain, and compare its methods.

    Args:
        parsed: what `Plan.parse` gives.
        first: steps that come before the others, by seed.
        search: steps that choose the methods' settings with the first seed; the last is `CHOICE`.
        execute: runs the steps, with so many threads of torch.

    Returns:
        The comparison, which is written to the chain's folder.

    Raises:
        TrainingError: a stage's training cannot go on, or its worker died twice.
    """
    chain, folder = plan.chain, plan.folder
    steps = steps_of(plan, parsed, first or {}, search)
    execute(steps, Progress(steps, folder / "seconds.json"), chain.threads)
    if not chain.world:  # of which each seed has its own
        remember(plan.data(chain.seeds[0]), folder / IDS)
    write_json(folder / RECORD, plan.recorded)
    return get_or_make(RunsComparison(folder, methods=chain.methods, seeds=chain.seeds, roles=chain.roles), echo)


def steps_of(
    plan: Plan, parsed: Mapping[str, Stage], first: Mapping[int, Sequence[Step]], search: Sequence[Step]
) -> list[Step]:
    """The steps of a chain, each after what it needs; arguments as of `train_and_compare`."""
    steps: list[Step] = []
    for seed in plan.chain.seeds:
        steps += first.get(seed, ())
        for stage in BASE_STAGES:
            upstream = tuple(step_name(one.stage, seed) for one in parsed[stage].upstream if not one.named)
            steps.append(Step(step_name(stage, seed), partial(_train, plan, stage, seed), upstream))
        needs = tuple(step_name(stage, seed) for stage in BASE_STAGES)
        if search:
            steps += search if seed == plan.chain.seeds[0] else ()
            needs += (CHOICE,)
        trained = [Step(step_name(one, seed), partial(_train, plan, one, seed), needs) for one in plan.chain.trained]
        needs += tuple(step.name for step in trained)
        steps += [*trained, Step(step_name("evaluation", seed), partial(_evaluate, plan, seed), needs)]
    return steps


def step_name(stage: str, seed: int) -> str:
    return f"{stage}/seed-{seed}"


def _train(plan: Plan, stage: str, seed: int, done: Results) -> Trained:
    return train(plan.parsed(stage, seed, done.get(CHOICE, {}).get(stage)), plan.chain.verbose)


def train(parsed: Stage, verbose: bool = False, *callbacks: Any) -> Trained:
    """Run a stage, unless its finished run is up to date."""
    with quiet():
        return get_or_make(replace(parsed, callbacks=callbacks, verbose=verbose), echo)


def _evaluate(plan: Plan, seed: int, done: Results) -> list[str]:
    chain = plan.chain
    runs = []
    for method in chain.methods:
        trained = done.get(step_name(row_of(method).base or method, seed))
        run = method_run(trained, method) if trained else MethodRun(method, None, {})
        runs.append(replace(run, strength=chain.rerank, keep=chain.keep))
    stage = plan.evaluation(seed)
    write_text(plan.folder / EVALUATION.format(seed), yaml_text(stage.shareable))
    data: RewardData = stage.datamodule()  # type: ignore[assignment]
    data.sample = chain.evaluation.users
    base, code = base_checkpoints(done, seed), code_digest()
    evaluated = get_or_make(SeedEvaluation(plan.folder, seed, runs, base, data, plan.device(), code), echo)
    if evaluated:
        echo(f"  evaluated: {', '.join(evaluated)}")
    return evaluated


def base_checkpoints(done: Results, seed: int) -> BaseCheckpoints:
    """The checkpoints that all methods of a seed share."""
    return BaseCheckpoints(*(done[step_name(stage, seed)].checkpoint for stage in BASE_STAGES))


def method_run(trained: Trained, method: str) -> MethodRun:
    """A trained method to evaluate, with its training cost and, of a placebo, how much of its signal is left."""
    content = read_checkpoint(trained.checkpoint)
    facts = content["facts"]
    figures = {"cost/seconds": trained.seconds, "cost/steps": content["global_step"], "cost/events": facts["events"]}
    figures |= {CORRELATION: facts[CORRELATION]} if CORRELATION in facts else {}
    return MethodRun(method, trained.checkpoint, figures | {READS_REWARD_MODEL: float(trained.reads_reward_model)})
