"""The search of a chain: what is tried for each method, and the choice on validation with the first seed."""

from __future__ import annotations

import json
import warnings
from collections.abc import Container, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Column, Table

from recalign.code import code_digest
from recalign.errors import InputError, TrainingError
from recalign.evaluation.comparison import HIGH
from recalign.evaluation.methods import BASE_STAGES, MethodRun
from recalign.evaluation.report import WIDTH
from recalign.evaluation.selection import SEARCH, SELECT, Figures, choose, choose_by_rank, validate
from recalign.files import write_text
from recalign.recommender.interpolation import MIN_NDCG_RETAINED
from recalign.run.chain.plan import Plan, Settings
from recalign.run.chain.run import CHOICE, base_checkpoints, method_run, step_name, train
from recalign.run.chain.steps import Results, Step
from recalign.run.stage import Stage, parse_stage
from recalign.run.stage.console import echo
from recalign.run.stage.settings import load

DEFAULT = "default"
"""Names the space of every method that has none of its own."""
OTHER = "recalign tune reads another file with --space FILE"

Space = dict[str, Any]
"""Ranges (`optuna.distributions.FloatDistribution`), or lists of values, by key."""


class Spaces:
    """The spaces of all methods.

    Args:
        file: `conf/search.yaml`, or a sweep of W&B (`conf/sweep`), whose parameters are every method's.

    Attributes:
        metric: name and goal (``max`` or ``min``) of what a sweep optimises; None: the file does not say.
    """

    def __init__(self, file: Path) -> None:
        self.file, given = file, load(file)
        self.metric: tuple[str, str] | None = None
        if isinstance(given.get("parameters"), dict):
            if metric := given.get("metric"):
                self.metric = metric["name"], metric.get("goal", "minimize")[:3]
            given = {DEFAULT: given["parameters"]}
        self._spaces: dict[str, Space | str] = {}
        for method, space in given.items():
            try:
                own = space if isinstance(space, str) else {key: _axis(axis) for key, axis in space.items()}
            except (TypeError, ValueError, AttributeError, LookupError) as error:
                remedy = "give each key {low: 0.1, high: 1.0, log: true} or a list of values"
                raise InputError(f"{space} is no space to search", where=f"{file}, {method}", remedy=remedy) from error
            self._spaces[method] = own

    def __contains__(self, method: str) -> bool:
        return method in self._spaces

    def leader(self, method: str) -> str | None:
        """The method whose chosen setting this one takes, if it has no search of its own."""
        space = self._spaces.get(method)
        return space if isinstance(space, str) else None

    def space(self, method: str) -> Space:
        """The ranges and values of a method, or of its leader."""
        space = self._spaces.get(self.leader(method) or method, self._spaces.get(DEFAULT))
        if not isinstance(space, dict):
            remedy = f"add it, or {DEFAULT!r}; {OTHER}"
            raise InputError(f"no space for {method!r}", where=str(self.file), remedy=remedy)
        return space

    def settings(
        self, method: str, config: Mapping[str, Any], fixed: Container[str], trials: int, seed: int
    ) -> list[Settings]:
        """The `proposals` for a method, the first as it is configured; ``[{}]`` if all keys of its space are fixed."""
        defaults: Settings = {}
        for key in self.space(method):
            node: Any = config
            for part in key.split("."):
                node = node.get("init_args", node) if isinstance(node, dict) else {}
                if part not in node:
                    what, remedy = f"{method} has no setting {key!r}", f"search one that it has; {OTHER}"
                    raise InputError(what, where=str(self.file), remedy=remedy)
                node = node[part]
            defaults[key] = node
        space = {key: axis for key, axis in self.space(method).items() if key not in fixed}
        return proposals(space, {key: defaults[key] for key in space}, trials, seed) if space else [{}]


def _axis(given: Any) -> Any:
    """A range or a list of values, of `conf/search.yaml` or as W&B writes it."""
    if isinstance(given, list) and given:
        return given
    if "value" in given or "values" in given:
        return given.get("values") or [given["value"]]
    if "min" in given:
        low, high, kind = given["min"], given["max"], given.get("distribution")
        if kind in (None, "int_uniform") and isinstance(low, int) and isinstance(high, int):
            return list(range(low, high + 1))
        given = {"low": low, "high": high, "log": {None: False, "uniform": False, "log_uniform_values": True}[kind]}
    ends = {end: float(given[end]) for end in ("low", "high")}  # YAML takes 1e-5 for text
    if not ends["low"] < ends["high"] or given.keys() - {*ends, "log"}:
        raise ValueError(given)
    return require_optuna().distributions.FloatDistribution(**{**given, **ends})


def proposals(space: Space, defaults: Settings, trials: int, seed: int) -> list[Settings]:
    """The settings that are tried: the defaults first, then points spread evenly over the space.

    The points are Optuna's scrambled Sobol sequence: with a handful of trials they cover the space better than a
    sampler that first has to learn from as many. They depend on the space and the seed alone, so that an interrupted
    search goes on with the same, and further trials leave the earlier ones as they are.
    """
    optuna = require_optuna()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(sampler=optuna.samplers.QMCSampler(seed=seed, scramble=True))
    index = optuna.distributions.IntDistribution  # the sequence knows numbers only
    distributions = {key: index(0, len(axis) - 1) if isinstance(axis, list) else axis for key, axis in space.items()}
    study.tell(study.ask(distributions), 0.0)  # drawn at random: Optuna learns the space from a trial that is done
    tried = [defaults]
    for _ in range(trials - 1):
        point = study.ask(distributions).params
        tried.append(
            {
                key: axis[int(point[key])] if isinstance(axis, list) else float(f"{point[key]:.3g}")
                for key, axis in space.items()
            }
        )
    return tried


def require_optuna() -> Any:
    """The module `optuna`."""
    try:
        import optuna
        import scipy  # noqa: F401 (what Optuna's sampler draws with)
    except ImportError as error:
        raise InputError("a search needs Optuna", where="trials", remedy="pip install 'recalign[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


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
