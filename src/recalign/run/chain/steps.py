"""A chain: for each step of an experiment, load it or make it; then compare the methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import polars as pl

from recalign.artifacts import Artifact, get_or_make
from recalign.evaluation.methods import BASE_STAGES

CHOICE = "choice"
"""Name of the step that chooses each method's settings."""

Results = Mapping[str, Any]
"""What steps returned, by their names."""

say = partial(print, flush=True)


class Experiment(Protocol):
    """What a chain trains, evaluates and compares; `recalign.run.chain.plan.Plan` reads it from YAML.

    Attributes:
        seeds: each a whole chain.
        trained: the methods that are trained, after `BASE_STAGES`.
    """

    seeds: list[int]
    trained: list[str]

    def upstream(self, stage: str) -> Sequence[str]:
        """The stages of the chain that come before a stage: it starts from them, or is the placebo of one."""

    def stage(self, name: str, seed: int, chosen: Mapping[str, Any] | None) -> Artifact[Any]:
        """A stage or method, on the checkpoints that exist now, with the settings that a search chose."""

    def evaluation(self, seed: int, results: Results) -> Artifact[list[str]]:
        """The evaluation of a seed's methods that have results; it returns the names of those evaluated now."""

    def comparison(self) -> Artifact[pl.DataFrame]:
        """The table of all methods over all seeds."""


@dataclass(frozen=True)
class Step:
    """A piece of a chain.

    Attributes:
        name: such as ``<stage>/seed-<n>``.
        run: loads or makes its result, from the results of the steps that it needs; workers get it pickled.
        needs: names of the steps that come first.
        in_main: whether it runs in the chain's own process, because it is short and prints.
        artifact: the artifact that it loads or makes, if any; loaded in the chain's own process if it is up to date.
    """

    name: str
    run: Callable[[Results], Any]
    needs: tuple[str, ...] = ()
    in_main: bool = False
    artifact: Callable[[Results], Artifact[Any]] | None = None

    def inputs(self, done: Results) -> Results:
        """The results of the steps that this step needs."""
        return {name: done[name] for name in self.needs}

    def is_short(self, done: Results) -> bool:
        """Whether to run it in the chain's own process, given the results of the steps that it needs."""
        return self.in_main or (self.artifact is not None and self.artifact(done).state().fresh)


def train_and_compare(
    experiment: Experiment,
    execute: Callable[[Sequence[Step]], Results],
    first: Mapping[int, Sequence[Step]],
    search: Sequence[Step],
    side_by_side: bool = False,
) -> pl.DataFrame:
    """Run what is missing or out of date of a chain, and compare its methods.

    Args:
        execute: runs the steps (`run_in_order`).
        first: steps that come before the others, by seed.
        search: steps that choose the methods' settings with the first seed; the last is `CHOICE`.
        side_by_side: whether steps run in parallel: then methods are evaluated in three parts, the first two while
            others are trained.

    Returns:
        The comparison, which is written to the chain's folder.

    Raises:
        TrainingError: a stage's training cannot go on, or its worker died twice.
    """
    execute(steps_of(experiment, first, search, side_by_side))
    return get_or_make(experiment.comparison(), say)


def steps_of(
    experiment: Experiment,
    first: Mapping[int, Sequence[Step]],
    search: Sequence[Step],
    side_by_side: bool = False,
) -> list[Step]:
    """The steps of a chain, each after those that it needs; arguments as in `train_and_compare`."""
    steps: list[Step] = []
    choice = (CHOICE,) if search else ()
    for seed in experiment.seeds:
        steps += first.get(seed, ())
        steps += [_training_step(experiment, stage, seed) for stage in BASE_STAGES]
        if seed == experiment.seeds[0]:
            steps += search
        methods = [_training_step(experiment, method, seed, choice) for method in experiment.trained]
        steps += _with_evaluations(experiment, seed, methods, in_parts=side_by_side and bool(methods))
    return steps


def _training_step(experiment: Experiment, stage: str, seed: int, choice: tuple[str, ...] = ()) -> Step:
    needs = (*(step_name(upstream, seed) for upstream in experiment.upstream(stage)), *choice)
    artifact = partial(_stage, experiment, stage, seed)
    return Step(step_name(stage, seed), partial(_train, artifact), needs, artifact=artifact)


def _with_evaluations(experiment: Experiment, seed: int, methods: list[Step], in_parts: bool) -> list[Step]:
    """The methods of a seed, and its evaluation: after all of them, or in three parts, the first before any method."""
    parts = {"evaluation": methods}
    if in_parts:
        half = len(methods) // 2
        parts = {"evaluation-untrained": [], "evaluation-half": methods[:half], "evaluation": methods[half:]}
    steps: list[Step] = []
    needs = tuple(step_name(stage, seed) for stage in BASE_STAGES)
    artifact = partial(experiment.evaluation, seed)
    for name, trained in parts.items():
        needs += tuple(method.name for method in trained)
        evaluation = Step(step_name(name, seed), partial(_evaluate, artifact), needs, artifact=artifact)
        steps += [*trained, evaluation]
        needs += (evaluation.name,)
    return steps


def step_name(stage: str, seed: int) -> str:
    return f"{stage}/seed-{seed}"


def _stage(experiment: Experiment, stage: str, seed: int, done: Results) -> Artifact[Any]:
    return experiment.stage(stage, seed, done.get(CHOICE, {}).get(stage))


def _train(artifact: Callable[[Results], Artifact[Any]], done: Results) -> Any:
    return get_or_make(artifact(done), say)


def _evaluate(artifact: Callable[[Results], Artifact[list[str]]], done: Results) -> None:
    if evaluated := get_or_make(artifact(done), say):
        say(f"  evaluated: {', '.join(evaluated)}")


def run_in_order(steps: Sequence[Step], watched: Callable[[Step], AbstractContextManager[None]]) -> Results:
    """Run steps in this process, each after those that it needs and within ``watched``."""
    done: dict[str, Any] = {}
    for step in steps:
        with watched(step):
            done[step.name] = step.run(step.inputs(done))
    return done
