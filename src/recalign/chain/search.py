"""The search of a chain: the same number of settings for every method, chosen on validation with the first seed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table

from recalign.chain.plan import Plan
from recalign.chain.space import Settings, Spaces, proposals
from recalign.chain.train import say, train
from recalign.errors import InputError, TrainingError
from recalign.evaluation.comparison import ALL
from recalign.evaluation.methods import BaseCheckpoints, MethodRun, is_trained
from recalign.evaluation.report import WIDTH
from recalign.evaluation.selection import KEPT, MEASURED, SEARCH, Figures, choose, choose_by_rank, validate
from recalign.files import write_text
from recalign.reward import RewardData
from recalign.stage import ParsedStage
from recalign.stage.code import EVALUATION, code_digest


class Search:
    """The trials of every method of a chain.

    Args:
        plan: the chain.
        parsed: its stages, as `Plan.parse` gives them.

    Raises:
        InputError: a method has no space, a key of a space is none of the method's, or Optuna is missing.
    """

    def __init__(self, plan: Plan, parsed: Mapping[str, ParsedStage]) -> None:
        self.plan, self.seed = plan, plan.chain.seeds[0]
        self.spaces = Spaces(plan.found("search.yaml") or plan.folders[0] / "search.yaml")
        self.methods = [m for m in plan.chain.methods if is_trained(m) and not self.spaces.leader(m)]
        self.settings = {method: self._settings(method, parsed) for method in self.methods}
        for method in plan.chain.methods:
            leader = self.spaces.leader(method)
            if leader and leader not in self.settings:
                raise InputError(
                    f"{method} takes the setting chosen for {leader}, which this chain does not search",
                    where="methods",
                    remedy=f"add {leader}, or set trials: 0",
                )

    def _settings(self, method: str, parsed: Mapping[str, ParsedStage]) -> list[Settings]:
        space = dict(self.spaces.space(method))
        defaults = {key: self._default(parsed[method].config, key, method) for key in space}
        for key in self._fixed(method):
            del space[key], defaults[key]
        return proposals(space, defaults, self.plan.chain.trials, self.seed) if space else [{}]

    def _fixed(self, method: str) -> Settings:
        """What would be searched, had the chain's YAML or the command line not set it."""
        given = {key: self.plan.given(method, key) for key in self.spaces.space(method)}
        return {key: ", ".join(map(str, found.values())) for key, found in given.items() if found}

    def _default(self, config: dict[str, Any], key: str, method: str) -> Any:
        node: Any = config
        for part in key.split("."):
            node = node.get("init_args", node)
            if part not in node:
                raise InputError(
                    f"{method} has no setting {key!r}", where=str(self.spaces.file), remedy="search one that it has"
                )
            node = node[part]
        return node

    def run(self, base: BaseCheckpoints, data: RewardData) -> dict[str, Settings]:
        """Train and measure every trial, choose, print and write what was found.

        Args:
            base: what the first seed's methods rest on.
            data: the log, users A.

        Returns:
            The chosen settings by method.
        """
        start = self._measure("start", {0: MethodRun("start", None, {})}, base, data)[0][ALL]
        chosen: dict[str, Settings] = {}
        rows: list[dict[str, Any]] = []
        for method, settings in self.settings.items():
            runs = self._runs(method)
            figures = self._measure(method, runs, base, data)
            trials, best = (
                dict(zip(runs, figures, strict=True)),
                list(runs)[choose(figures, start, self.plan.chain.keep or KEPT)],
            )
            rows += _rows(method, settings, trials, start, best, self._fixed(method))
            chosen[method] = settings[best]
        for method in self.plan.chain.methods:
            if leader := self.spaces.leader(method):
                found = chosen[leader].items()
                chosen[method] = {key: value for key, value in found if not self.plan.given(method, key)}
        frame = pl.DataFrame(rows, infer_schema_length=None)
        write_text(self.plan.folder / SEARCH, frame.write_csv())
        Console(width=WIDTH).print(table(frame, self.seed))
        return chosen

    def _runs(self, method: str) -> dict[int, MethodRun]:
        """What is measured of a method's trials, by their numbers: of all that can be trained.

        Raises:
            InputError, TrainingError: the last one's, where none can.
        """
        runs: dict[int, MethodRun] = {}
        for number, settings in enumerate(self.settings[method]):
            try:
                runs[number] = train(self.plan.trial(method, self.seed, _name(number), settings)).method_run(method)
            except (InputError, TrainingError) as error:
                if not runs and number == len(self.settings[method]) - 1:
                    raise
                say(f"trial {number} of {method}, {settings}, cannot be trained, and is not chosen: {error}")
        return runs

    def _measure(
        self, method: str, runs: Mapping[int, MethodRun], base: BaseCheckpoints, data: RewardData
    ) -> list[Figures]:
        places = {self.plan.trial_folder(method, self.seed, _name(number)): run for number, run in runs.items()}
        return validate(places, base, data, device=self.plan.device(), code=code_digest(EVALUATION))


def _name(number: int) -> str:
    return f"trial-{number}"


def _rows(
    method: str, settings: list[Settings], trials: Mapping[int, Figures], start: float, best: int, fixed: Settings
) -> list[dict[str, Any]]:
    """What `search.csv` holds of a method; of a trial that could not be trained there are no figures."""
    other = list(trials)[choose_by_rank(list(trials.values()))]
    measured = {number: {"kept": figures[ALL] / start, **figures} for number, figures in trials.items()}
    return [
        {
            "method": method,
            "trial": number,
            "chosen": number == best,
            "chosen_by_high": number == other,
            "settings": json.dumps(each),
            "fixed": json.dumps(fixed),
            **measured.get(number, {}),
        }
        for number, each in enumerate(settings)
    ]


def table(frame: pl.DataFrame, seed: int) -> Table:
    """What was chosen for each method, by the protocol's rule and by the other.

    Args:
        frame: `search.csv`.
        seed: that was searched with.
    """
    shown = Table(
        title=f"settings chosen on validation, seed {seed}",
        caption="by value: the highest select_judge@10 among those that keep what the price asks for of all/ndcg@10",
        padding=(0, 1, 0, 0),
        box=None,
    )
    for heading in ("method", "chosen by", "setting"):
        shown.add_column(heading)
    metrics = [metric for metric in MEASURED if metric in frame.columns]
    for metric in metrics:
        shown.add_column(metric.removeprefix("value/"), justify="right", no_wrap=True)
    for rule, column in (("value", "chosen"), ("high/ndcg@10", "chosen_by_high")):
        for row in frame.filter(pl.col(column)).iter_rows(named=True):
            parts = [f"{key} {value}" for key, value in json.loads(row["settings"]).items()]
            parts += [f"{key} {value} (given)" for key, value in json.loads(row["fixed"]).items()]
            shown.add_row(row["method"], rule, ", ".join(parts), *(f"{row[metric]:.4f}" for metric in metrics))
    return shown
