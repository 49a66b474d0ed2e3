"""A chain's search of settings: trials for each method, and the choice on validation with the first seed."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Container, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
from rich.console import Console
from rich.table import Column, Table

from recalign.errors import InputError, TrainingError
from recalign.evaluation.comparison import NDCG_HIGH
from recalign.evaluation.methods import BASE_STAGES, MethodRun
from recalign.evaluation.report import WIDTH
from recalign.evaluation.rows import row_of
from recalign.evaluation.selection import SEARCH, SELECT, Metrics, choose, validate
from recalign.files import write_text
from recalign.recommender.interpolation import MIN_NDCG_RETAINED
from recalign.run import configs
from recalign.run.chain.plan import Plan, Settings, base_checkpoints, method_run, train
from recalign.run.chain.steps import CHOICE, Results, Step, step_name
from recalign.run.stage import Stage, parse_stage
from recalign.run.stage.console import echo
from recalign.run.stage.settings import load
from recalign.seals import code_digest

DEFAULT = "default"
"""Key of the space for methods without one of their own."""
OTHER = "recalign tune reads another file with --space FILE"
TRIALS = "trials"
"""Folder of a method's trials."""

Space = dict[str, Any]
"""Ranges (`optuna.distributions.FloatDistribution`), or lists of values, by key."""
Outcome = TypeVar("Outcome")


class Spaces:
    """The spaces of all methods.

    Attributes:
        file: such as `conf/search.yaml`.
        by_method: the spaces, by method.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.by_method: dict[str, Space] = {}
        for method, given in load(file).items():
            try:
                self.by_method[method] = {key: _axis(axis) for key, axis in given.items()}
            except (TypeError, ValueError, AttributeError, LookupError) as error:
                remedy = "give each key {low: 0.1, high: 1.0, log: true} or a list of values"
                raise InputError(f"{given} is not a search space", where=f"{file}, {method}", remedy=remedy) from error

    def space(self, method: str) -> Space:
        """The ranges and values of a method."""
        if method not in self.by_method and DEFAULT not in self.by_method:
            remedy = f"add it, or {DEFAULT!r}; {OTHER}"
            raise InputError(f"there is no search space for {method!r}", where=str(self.file), remedy=remedy)
        return self.by_method[method if method in self.by_method else DEFAULT]

    def settings(
        self, method: str, config: Mapping[str, Any], fixed: Container[str], trials: int, seed: int
    ) -> list[Settings]:
        """The `proposals` for a method, the first as it is configured; ``[{}]`` if all keys of its space are fixed."""
        defaults: dict[str, Any] = {}
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
    if isinstance(given, list) and given:
        return given
    ends = {end: float(given[end]) for end in ("low", "high")}  # YAML reads 1e-5 as text
    if not ends["low"] < ends["high"] or given.keys() - {*ends, "log"}:
        raise ValueError(given)
    return require_optuna().distributions.FloatDistribution(**{**given, **ends})


def proposals(space: Space, defaults: Settings, trials: int, seed: int) -> list[Settings]:
    """The settings that are tried: the defaults first, then points spread evenly over the space.

    The points are Optuna's scrambled Sobol sequence: with a handful of trials they cover the space better than a
    sampler that first has to learn from as many. They depend on the space and the seed alone, so that an interrupted
    search continues with the same points, and further trials do not change earlier ones.
    """
    optuna = require_optuna()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(sampler=optuna.samplers.QMCSampler(seed=seed, scramble=True))
    index = optuna.distributions.IntDistribution  # the sequence has numbers only
    distributions = {key: index(0, len(axis) - 1) if isinstance(axis, list) else axis for key, axis in space.items()}
    study.tell(study.ask(distributions), 0.0)  # a random draw: Optuna learns the space from a finished trial
    tried = [defaults]
    for _ in range(trials - 1):
        drawn = study.ask(distributions).params
        tried.append(
            {
                key: axis[int(drawn[key])] if isinstance(axis, list) else float(f"{drawn[key]:.3g}")
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


def trial(stage: Stage, name: str, group: str) -> Stage:
    """The same run as a trial: in ``<stage>/<group>/<name>/``, from the same checkpoints."""
    run = {"name": name, "root": stage.folder.path.parent, "chain": group}
    return parse_stage(stage.argv, {one.key: one.path for one in stage.upstream}, {"run": run})


def run_trial(attempt: Callable[[], Outcome]) -> Outcome | InputError | TrainingError:
    """Run a trial; return its outcome or, if its settings cannot be trained, the error: other trials go on."""
    try:
        return attempt()
    except (InputError, TrainingError) as error:
        if isinstance(error.__cause__, OSError):  # the disk failed, not the settings
            raise
        return error


class Search:
    """The trials of every method of a chain; placebos take the settings chosen for the methods that they copy.

    Args:
        plan: the chain.
        parsed: its stages, as `Plan.parse` gives them.

    Raises:
        InputError: a method has no space, a space has a key that its method lacks, or Optuna is missing.
    """

    def __init__(self, plan: Plan, parsed: Mapping[str, Stage]) -> None:
        self.plan, self.seed, chain = plan, plan.seeds[0], plan.chain
        spaces = Spaces(plan.found("search.yaml") or configs.find("search"))
        self.copied = {method: chain.placebos[method] for method in chain.post_trained if method in chain.placebos}
        self.settings: dict[str, list[Settings]] = {}
        for method in chain.post_trained:
            if method not in self.copied:
                config, given = parsed[method].config, [key for key in spaces.space(method) if plan.given(method, key)]
                self.settings[method] = spaces.settings(method, config, given, chain.trials, self.seed)
        for method, copied in self.copied.items():
            if copied not in self.settings:
                text = f"{method} takes the setting chosen for {copied}, which this chain does not search"
                raise InputError(text, where="methods", remedy=f"add {copied}, or set trials: 0")

    def steps(self) -> list[Step]:
        """Steps for every trial, each method's validation figures, and the choice (`CHOICE`)."""
        base = tuple(step_name(stage, self.seed) for stage in BASE_STAGES)
        steps: list[Step] = []
        for method, settings in self.settings.items():
            trials = tuple(f"{method}/trial-{number}" for number in range(len(settings)))
            steps += [Step(name, partial(self._try, method, number), base) for number, name in enumerate(trials)]
            steps.append(Step(f"{method}/validation", partial(self._measure, method), (*base, *trials)))
        measured = tuple(f"{method}/validation" for method in self.settings)
        return [*steps, Step(CHOICE, self.decide, measured, in_main=True)]

    def decide(self, done: Results) -> dict[str, Settings]:
        """Choose each method's settings from its figures, print and write them. Returns settings by method."""
        chosen: dict[str, Settings] = {}
        rows: list[dict[str, Any]] = []
        for method, settings in self.settings.items():
            trials: dict[int, Metrics] = {}
            for number, figures in enumerate(done[f"{method}/validation"]):
                if isinstance(figures, Exception):
                    text = f"trial {number} of {method}, {settings[number]}, cannot be trained, and is not chosen"
                    echo(f"{text}: {figures}")
                else:
                    trials[number] = figures
            keep = self.plan.parsed(method, self.seed).config["model"]["init_args"].get("keep")
            number_chosen = choose(trials, keep or MIN_NDCG_RETAINED)
            chosen[method] = settings[number_chosen]
            for number, setting in enumerate(settings):
                row: dict[str, Any] = {"method": method, "trial": number, "chosen": number == number_chosen}
                row["settings"] = json.dumps(setting)
                rows.append(row | trials.get(number, {}))
        for method, copied in self.copied.items():
            found = chosen[copied].items()
            chosen[method] = {key: value for key, value in found if not self.plan.given(method, key)}
        frame = pl.DataFrame(rows, infer_schema_length=None)
        write_text(self.plan.folder / SEARCH, frame.write_csv())
        metrics = (SELECT, NDCG_HIGH)
        heads = (Column(metric.removeprefix("value/"), justify="right", no_wrap=True) for metric in metrics)
        title = f"settings chosen on validation, seed {self.seed}"
        caption = f"highest {SELECT} that keeps the NDCG budget; {SEARCH} has all trials and figures"
        table = Table("method", "setting", *heads, title=title, caption=caption, padding=(0, 1, 0, 0), box=None)
        for best in frame.filter("chosen").iter_rows(named=True):
            table.add_row(best["method"], line(json.loads(best["settings"])), *(f"{best[one]:.4f}" for one in metrics))
        Console(width=WIDTH).print(table)
        return chosen

    def _try(self, method: str, number: int, _: Results) -> MethodRun | InputError | TrainingError:
        def run() -> MethodRun:
            stage = self.plan.parsed(method, self.seed, self.settings[method][number])
            trained = train(trial(stage, f"trial-{number}", TRIALS), self.plan.chain.verbose)
            return method_run(trained, method, row_of(method))

        return run_trial(run)

    def _measure(self, method: str, done: Results) -> list[Metrics | Exception]:
        """Each trial's validation figures, or why it could not be trained.

        Raises:
            InputError, TrainingError: the last trial's, if all failed.
        """
        runs: list[Any] = [done[f"{method}/trial-{number}"] for number in range(len(self.settings[method]))]
        places = {
            self.plan.folder / method / TRIALS / f"trial-{number}" / f"seed-{self.seed}": run
            for number, run in enumerate(runs)
            if isinstance(run, MethodRun)
        }
        if not places:
            raise runs[-1]
        base, data, device = base_checkpoints(done, self.seed), self.plan.data(self.seed), self.plan.device()
        figures = iter(validate(places, base, data, device=device, code=code_digest()))
        return [next(figures) if isinstance(run, MethodRun) else run for run in runs]


def line(settings: Settings) -> str:
    """Settings in one line."""
    return ", ".join(f"{key} {value}" for key, value in settings.items())
