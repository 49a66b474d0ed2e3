"""The search of a chain: the same number of settings for every method, chosen on validation with the first seed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Column, Table

from recalign.artifacts import code_digest
from recalign.errors import InputError, TrainingError
from recalign.evaluation.comparison import HIGH
from recalign.evaluation.methods import BASE_STAGES, MethodRun
from recalign.evaluation.report import WIDTH
from recalign.evaluation.selection import SEARCH, SELECT, Figures, choose, choose_by_rank, validate
from recalign.files import write_text
from recalign.recommender.interpolation import MIN_NDCG_RETAINED
from recalign.run.chain.plan import Plan, Settings
from recalign.run.chain.run import CHOICE, base_checkpoints, method_run, step_name, train
from recalign.run.chain.space import Spaces
from recalign.run.chain.steps import Results, Step
from recalign.run.stage import Stage, parse_stage
from recalign.run.stage.console import echo

TRIALS = "trials"
"""Folder of a method's trials."""


class Search:
    """The trials of every method of a chain.

    Args:
        plan: the chain.
        parsed: its stages, as `Plan.parse` gives them.

    Raises:
        InputError: a method has no space, a key of a space is none of the method's, or Optuna is missing.
    """

    def __init__(self, plan: Plan, parsed: Mapping[str, Stage]) -> None:
        self.plan, self.seed = plan, plan.chain.seeds[0]
        self.spaces = Spaces(plan.found("search.yaml") or plan.folders[0] / "search.yaml")
        trials = plan.chain.trials
        self.settings = {
            method: self.spaces.settings(method, parsed[method].config, self._fixed(method), trials, self.seed)
            for method in plan.chain.post_trained
            if not self._leader(method)
        }
        for method in plan.chain.methods:
            leader = self._leader(method)
            if leader and leader not in self.settings:
                text = f"{method} takes the setting chosen for {leader}, which this chain does not search"
                raise InputError(text, where="methods", remedy=f"add {leader}, or set trials: 0")

    def _leader(self, method: str) -> str | None:
        """The method whose chosen settings this one takes: as the file says, else that which a placebo copies."""
        copied = self.plan.chain.placebos.get(method)
        leader = self.spaces.leader(method) or (copied if copied in self.plan.chain.post_trained else None)
        return leader and (self.spaces.leader(leader) or leader)

    def _fixed(self, method: str) -> Settings:
        """Settings of the space that the chain's YAML or the command line fixes."""
        given = {key: self.plan.given(method, key) for key in self.spaces.space(method)}
        return {key: ", ".join(map(str, found.values())) for key, found in given.items() if found}

    def steps(self) -> list[Step]:
        """Every trial, its figures on validation, and the choice (`CHOICE`)."""
        base = tuple(step_name(stage, self.seed) for stage in BASE_STAGES)
        steps: list[Step] = []
        for method, settings in self.settings.items():
            trials = tuple(f"{method}/trial-{number}" for number in range(len(settings)))
            steps += [Step(name, partial(self._try, method, n), base) for n, name in enumerate(trials)]
            steps.append(Step(f"{method}/validation", partial(self._measure, method), (*base, *trials)))
        measured = tuple(f"{method}/validation" for method in self.settings)
        return [*steps, Step(CHOICE, self.decide, measured, in_main=True)]

    def decide(self, done: Results) -> dict[str, Settings]:
        """Choose each method's settings from its figures, print and write them. Returns settings by method."""
        chosen: dict[str, Settings] = {}
        rows: list[dict[str, Any]] = []
        for method, settings in self.settings.items():
            trials: dict[int, Figures] = {}
            for number, one in enumerate(done[f"{method}/validation"]):
                if isinstance(one, Exception):
                    echo(f"trial {number} of {method}, {settings[number]}, cannot be trained, and is not chosen: {one}")
                else:
                    trials[number] = one
            keep = self.plan.parsed(method, self.seed).config["model"]["init_args"].get("keep")
            best, best_by_rank = choose(trials, keep or MIN_NDCG_RETAINED), choose_by_rank(trials)
            chosen[method], fixed = settings[best], json.dumps(self._fixed(method))
            for number, each in enumerate(settings):
                row = {"method": method, "trial": number, "chosen": number == best}
                row |= {"chosen_by_high": number == best_by_rank, "settings": json.dumps(each)}
                rows.append({**row, "fixed": fixed, **trials.get(number, {})})
        for method in self.plan.chain.methods:
            if leader := self._leader(method):
                found = chosen[leader].items()
                chosen[method] = {key: value for key, value in found if not self.plan.given(method, key)}
        frame = pl.DataFrame(rows, infer_schema_length=None)
        write_text(self.plan.folder / SEARCH, frame.write_csv())
        Console(width=WIDTH).print(table(frame, self.seed))
        return chosen

    def _try(self, method: str, number: int, _: Results) -> MethodRun | InputError | TrainingError:
        """Train a trial; where it cannot be trained, the others go on."""
        try:
            settings = self.settings[method][number]
            parsed = trial(self.plan.parsed(method, self.seed, settings), f"trial-{number}", TRIALS)
            return method_run(train(parsed, self.plan.chain.verbose), method)
        except (InputError, TrainingError) as error:
            if isinstance(error.__cause__, OSError):  # a disk that refuses says nothing of the settings
                raise
            return error

    def _measure(self, method: str, done: Results) -> list[Figures | Exception]:
        """Each trial's validation figures, or why it could not be trained.

        Raises:
            InputError, TrainingError: the last one's, where none can.
        """
        tried: list[Any] = [done[f"{method}/trial-{number}"] for number in range(len(self.settings[method]))]
        places = {
            self.plan.folder / method / TRIALS / f"trial-{number}" / f"seed-{self.seed}": run
            for number, run in enumerate(tried)
            if isinstance(run, MethodRun)
        }
        if not places:
            raise tried[-1]
        base, data, device = base_checkpoints(done, self.seed), self.plan.data(self.seed), self.plan.device()
        figures = iter(validate(places, base, data, device=device, code=code_digest()))
        return [next(figures) if isinstance(one, MethodRun) else one for one in tried]


def trial(parsed: Stage, name: str, group: str) -> Stage:
    """The same run as a trial: in ``<stage>/<group>/<name>/``, from the same checkpoints."""
    upstream = {one.key: str(one.path) for one in parsed.upstream}
    run = {"run.name": name, "run.root": str(parsed.folder.path.parent), "run.chain": group}
    return parse_stage(parsed.words, {**upstream, **run})


def table(frame: pl.DataFrame, seed: int) -> Table:
    """The setting chosen for each method, by value and by ``high/ndcg@10``, from `search.csv`."""
    metrics = (SELECT, HIGH)
    heads = (Column(metric.removeprefix("value/"), justify="right", no_wrap=True) for metric in metrics)
    title = f"settings chosen on validation, seed {seed}"
    caption = f"by value: highest {SELECT} that keeps the NDCG budget; {SEARCH} has all trials and figures"
    shown = Table(
        "method", "chosen by", "setting", *heads, title=title, caption=caption, padding=(0, 1, 0, 0), box=None
    )
    for rule, column in (("value", "chosen"), (HIGH, "chosen_by_high")):
        for row in frame.filter(pl.col(column)).iter_rows(named=True):
            parts = [f"{key} {value}" for key, value in json.loads(row["settings"]).items()]
            parts += [f"{key} {value} (given)" for key, value in json.loads(row["fixed"]).items()]
            shown.add_row(row["method"], rule, ", ".join(parts), *(f"{row[metric]:.4f}" for metric in metrics))
    return shown
