"""`recalign tune`: search the settings of one stage or method. A trial is a run, reused if it is up to date."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

import polars as pl
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Column, Table

from recalign.data.events.yaml_text import yaml_text
from recalign.errors import InputError, nearest, require_positive
from recalign.evaluation.report import WIDTH
from recalign.evaluation.selection import SELECT
from recalign.evaluation.selection_callback import SelectionValue
from recalign.files import write_text
from recalign.run import configs
from recalign.run.chain.plan import Settings, train
from recalign.run.chain.search import Spaces, line, run_trial, trial
from recalign.run.stage import FinishedRun, Stage, parse_stage, upstream
from recalign.run.stage.console import echo, quiet
from recalign.run.stage.loggers import BEST
from recalign.run.stage.settings import instantiated, parse_call, set_keys
from recalign.run.words import iter_options
from recalign.workers import locked

FOLDER = "tuning"
"""Folder of the trials, below the stage's folder."""


@dataclass
class Tune:
    """How settings are searched.

    Attributes:
        trials: number of settings to try, the first as in the stage's YAML; a longer search keeps the trials of a
            shorter one.
        space: YAML of the search spaces: its name or a path; null: conf/search.yaml. The stage's space has the name of
            its YAML, else that of the run.
        metric: the logged metric to optimise; null: the metric that chooses the stage's checkpoint, else the value by
            the log's judges for selection (value/select_judge@10).
        goal: whether a high or a low value is better; null: as is usual for the metric.
        out: the YAML to write; null: tuned.yaml in the folder of the trials.
    """

    trials: int = 16
    space: str | None = None
    metric: str | None = None
    goal: Literal["max", "min"] | None = None
    out: str | None = None


def tune(argv: Sequence[str]) -> Path:
    """Search the settings of one stage or method, and write the best as YAML for `recalign fit`.

    Args:
        argv: the command-line arguments after ``recalign tune``: those of `Tune`, others as for ``recalign fit``.

    Returns:
        Path of the YAML.
    """
    names = {f"--{field.name}" for field in fields(Tune)} | {"--help", "-h"}
    own: list[str] = []
    of_stage: list[str] = []
    for option, _, words in iter_options(argv):
        if option not in names and "." not in option and (near := nearest(option, names)):
            raise InputError("there is no such option", where=option, remedy=f"did you mean {near}?")
        (own if option in names else of_stage).extend(words)
    summary = (tune.__doc__ or "").splitlines()[0]
    how = Tune(**instantiated(*parse_call("tune", summary, Tune, own, "YAML of the stage and of the log")))
    require_positive("", vars(how), "trials")
    spaces, stage = Spaces(configs.find(how.space or "search")), parse_stage(["fit", *of_stage])
    if any(one.path is None for one in stage.upstream):
        upstream.require_upstreams(stage.upstream, stage.folder, stage.log)  # raises: says what to run first
    checkpoint = stage.config["checkpoint"]
    metric = how.metric or checkpoint["monitor"] or SELECT
    goal = how.goal or {**BEST, SELECT: "max", checkpoint["monitor"]: checkpoint["mode"]}.get(metric)
    if goal is None:
        raise InputError(f"which values of {metric} are better?", where="goal", remedy="add --goal max or min")
    if metric == SELECT and "SelectionValue" not in str(stage.config["trainer"]["callbacks"]):
        stage = parse_stage(stage.argv, {"trainer": {"callbacks+": _selection_value(stage)}})
    settings = _settings(spaces, stage, of_stage, how.trials)
    folder = stage.folder.path.parent / FOLDER
    with quiet(), locked(folder, "tuning", "let it finish, or tune in another --run.root"):
        outcomes: list[Any] = []
        for number, setting in enumerate(settings):
            echo(f"trial {number + 1} of {len(settings)}: trial-{number}, {line(setting)}")
            run = run_trial(partial(_train, stage, number, setting))
            if isinstance(run, Exception):
                echo(f"  cannot be trained: {run}")
            outcomes.append(
                best_value(run.folder / "metrics.csv", metric, goal) if isinstance(run, FinishedRun) else run
            )
    values = {number: value for number, value in enumerate(outcomes) if isinstance(value, float)}
    if not values:
        raise outcomes[-1]
    ranked = sorted(values, key=values.__getitem__, reverse=goal == "max")
    heads = Column("trial", justify="right"), Column(metric, justify="right"), "settings"
    table = Table(*heads, title=f"trials of {stage.run.name}", box=None, padding=(0, 2, 0, 0))
    for number in [*ranked, *(number for number in range(len(settings)) if number not in values)]:
        value = f"{values[number]:.4f}" if number in values else "failed"
        table.add_row(f"trial-{number}", value, line(settings[number]), style="bold" if number == ranked[0] else None)
    out = Path(how.out or folder / "tuned.yaml")
    head = f"# {metric} {values[ranked[0]]:.4g}, the best of {len(settings)} trials\n"
    tuned = OmegaConf.from_dotlist([f"{key}={json.dumps(value)}" for key, value in settings[ranked[0]].items()])
    write_text(out, head + yaml_text(OmegaConf.to_container(tuned)))
    Console(width=WIDTH).print(table)
    echo(f"{out}: give it after the stage's YAML, recalign fit ... --config {out}")
    return out


def _settings(spaces: Spaces, stage: Stage, words: Sequence[str], trials: int) -> list[Settings]:
    given = [(option.lstrip("-"), value) for option, value, _ in iter_options(words)]
    fixed = set_keys({option: value for option, value in given if option not in ("c", "config")})
    files = [Path(str(value)).stem for option, value in given if option in ("c", "config")]
    method = next((name for name in files[:1] if name in spaces.by_method), stage.run.name)
    settings = spaces.settings(method, stage.config, fixed, trials, stage.seed)
    if not settings[0]:
        raise InputError("nothing is left to search", where=str(spaces.file), remedy="set fewer on the command line")
    return settings


def _train(stage: Stage, number: int, settings: Settings) -> FinishedRun:
    return train(trial(parse_stage(stage.argv, settings), f"trial-{number}", FOLDER))


def best_value(file: Path, metric: str, goal: str) -> float:
    """The best value (``goal``: max or min) of a figure in a run's ``metrics.csv``."""
    frame = pl.read_csv(file, infer_schema_length=None, glob=False)
    if metric not in frame.columns:
        near = nearest(metric, frame.columns)
        remedy = f"did you mean {near}?" if near else f"it logs {', '.join(sorted(frame.columns))}"
        raise InputError(f"the run logs no {metric!r}", where="metric", remedy=remedy)
    values = frame[metric].cast(pl.Float64, strict=False).drop_nulls().drop_nans()
    if values.is_empty():
        raise InputError(f"the run logs no number as {metric!r}", where="metric", remedy="name another metric")
    return float(values.max() if goal == "max" else values.min())  # type: ignore[arg-type]


def _selection_value(stage: Stage) -> dict[str, Any]:
    judge = stage.folder.path.parents[1] / "judge_select" / stage.folder.path.name / "checkpoints/best.ckpt"
    if not judge.is_file():
        remedy = f"run the log's chain first (recalign chain {stage.folder.path.parents[1].name}), or name a --metric"
        raise InputError("there are no judges to tell which trial is best", where=str(judge), remedy=remedy)
    return {"class_path": f"{SelectionValue.__module__}.SelectionValue", "init_args": {"judge": str(judge)}}
