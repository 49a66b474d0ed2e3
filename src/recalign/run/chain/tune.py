"""`recalign tune`: search the settings of one stage or method on this machine, as the sweeps of W&B do on many."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import polars as pl
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Column, Table

from recalign.data.events.yaml_text import yaml_text
from recalign.errors import InputError, TrainingError, nearest, require_positive
from recalign.evaluation.report import WIDTH
from recalign.evaluation.selection import SELECT
from recalign.evaluation.selection_callback import SelectionValue
from recalign.files import digest, read_json, write_json, write_text
from recalign.run import configs
from recalign.run.chain.plan import Settings
from recalign.run.chain.run import train
from recalign.run.chain.search import Spaces, require_optuna, trial
from recalign.run.stage import Manifest, Stage, parse_stage, upstream
from recalign.run.stage.console import echo, quiet
from recalign.run.stage.settings import instantiated, parse_call, set_keys
from recalign.run.stage.wandb_log import BEST
from recalign.run.words import iter_options, nested
from recalign.workers import locked

FOLDER = "tuning"
"""Holds the trials, below the stage's folder."""
RECORD = "trial.json"
"""In a trial's run folder: its value, its figure at each validation, and whether it ended early."""


@dataclass
class Tune:
    """How settings are searched.

    Attributes:
        trials: settings that are tried, the first as the stage's YAML has them; a longer search keeps those of a
            shorter one.
        space: YAML of what is searched: its name or a path; null: conf/search.yaml. A sweep of W&B will do
            (conf/sweep/asft.yaml). The stage's space has the name of its YAML, else that of the run.
        metric: what is optimised, of the figures that the fit logs; null: the sweep's, else what the stage chooses its
            checkpoint by, else what the log's judges for selection say (value/select_judge@10).
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
        argv: the words after ``recalign tune``: those of `Tune`, all others as for ``recalign fit``.

    Returns:
        The YAML.
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
    tuning = Tuning(how, of_stage)
    with quiet(), locked(tuning.folder, "tuning", "let it finish, or tune in another --run.root"):
        study = tuning.study()
        tried = [tuning.run(study, number) for number in range(len(tuning.settings))]
    values = {number: trial for number, trial in enumerate(tried) if isinstance(trial, dict)}
    if not values:
        raise next(trial for trial in reversed(tried) if isinstance(trial, Exception))
    sign = -1 if tuning.goal == "max" else 1
    done = sorted(values, key=lambda number: (values[number]["pruned"], sign * values[number]["value"]))
    heads = Column("trial", justify="right"), Column(tuning.metric, justify="right"), "settings"
    table = Table(*heads, title=f"trials of {tuning.stage.run.name}", box=None, padding=(0, 2, 0, 0))
    for number in [*done, *(number for number in range(len(tried)) if number not in done)]:
        trial, style = values.get(number), "bold" if number == done[0] else None
        value = f"{trial['value']:.4f}{' early' * trial['pruned']}" if trial else "failed"
        table.add_row(f"trial-{number}", value, _line(tuning.settings[number]), style=style)
    out = Path(how.out or tuning.folder / "tuned.yaml")
    head = f"# {tuning.metric} {values[done[0]]['value']:.4g}, the best of {len(tried)} trials\n"
    write_text(out, head + yaml_text(nested(tuning.settings[done[0]])))
    Console(width=WIDTH).print(table)
    echo(f"{out}: give it after the stage's YAML, recalign fit ... --config {out}")
    return out


class Tuning:
    """The trials of one stage.

    Args:
        how: what is searched, and by which figure.
        words: the stage as ``recalign fit`` takes it.
    """

    def __init__(self, how: Tune, words: Sequence[str]) -> None:
        require_positive("", vars(how), "trials")
        spaces, stage = Spaces(configs.find(how.space or "search")), parse_stage(["fit", *words])
        if any(one.path is None for one in stage.upstream):
            upstream.require(stage.upstream, stage.folder, stage.log)  # says what to run first
        own = stage.config["checkpoint"]
        known = [one for one in (spaces.metric, (own["monitor"], own["mode"]), (SELECT, "max")) if one and one[0]]
        self.metric = how.metric or known[0][0]
        self.goal = how.goal or {**BEST, **dict(reversed(known))}.get(self.metric)
        if self.goal not in ("max", "min"):
            what = f"which values of {self.metric} are better?"
            raise InputError(what, where="goal", remedy="add --goal max or min")
        if self.metric == SELECT and "SelectionValue" not in str(stage.config["trainer"]["callbacks"]):
            stage = parse_stage([*stage.words, f"--trainer.callbacks+={json.dumps(_selection_value(stage))}"])
        self.stage, self.folder = stage, stage.folder.path.parent / FOLDER
        given = [(option.lstrip("-"), value) for option, value, _ in iter_options(words)]
        fixed = set_keys({option: value for option, value in given if option not in ("c", "config")})
        files = [Path(str(value)).stem for option, value in given if option in ("c", "config")]
        method = next((one for one in files[:1] if one in spaces), stage.run.name)
        self.settings = spaces.settings(method, stage.config, fixed, how.trials, stage.seed)
        if not self.settings[0]:
            raise InputError("nothing is left to search", where=str(spaces.file), remedy="set fewer on the line")

    def study(self) -> Any:
        """Optuna's study, by which trials end early."""
        pruner = require_optuna().pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1)
        return require_optuna().create_study(direction=f"{self.goal}imize", pruner=pruner)

    def run(self, study: Any, number: int) -> dict[str, Any] | InputError | TrainingError:
        """Train with a trial's settings, unless that is done.

        Returns:
            What stands in its `RECORD`, or why it could not be trained.
        """
        settings = self.settings[number]
        echo(f"trial {number + 1} of {len(self.settings)}: trial-{number}, {_line(settings)}")
        try:
            parsed = trial(parse_stage(self.stage.words, settings), f"trial-{number}", FOLDER)
            key, asked = digest(parsed.key(), self.metric, self.goal), study.ask()
            record: dict[str, Any] = read_json(parsed.folder.path / RECORD)
            if record.get("key") == key:
                echo(f"  unchanged: {parsed.folder.path}")
                for step, value in enumerate(record["validations"]):
                    asked.report(value, step)
            else:
                pruning = Pruning(asked, self.metric)
                train(parsed, False, pruning)
                record = {"key": key, "pruned": pruning.pruned, "validations": pruning.values}
                if pruning.pruned and (manifest := Manifest.read(parsed.folder)):
                    # by another metric it might not have ended there
                    replace(manifest, status="failed", error="ended early by recalign tune").write(parsed.folder)
                    echo("  ended early: behind the median of the trials before it")
                record["value"] = best_value(parsed.folder.figures("fit"), self.metric, str(self.goal))
                write_json(parsed.folder.path / RECORD, record)
        except (InputError, TrainingError) as error:
            if isinstance(error.__cause__, OSError):  # a disk that refuses says nothing of the settings
                raise
            echo(f"  cannot be trained: {error}")
            return error
        if not record["pruned"]:  # the median is of trials that went on to their end
            study.tell(asked, record["value"])
        return record


class Pruning(Callback):
    """Report a metric to Optuna at each validation; end a run whose values are behind those of earlier trials.

    Args:
        trial: of an Optuna study with a pruner.
        metric: its name; a run that does not log it at a validation is never ended.
    """

    def __init__(self, trial: Any, metric: str) -> None:
        self.trial, self.metric = trial, metric
        self.values, self.pruned = list[float](), False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = trainer.callback_metrics.get(self.metric)
        if trainer.sanity_checking or value is None or value.isnan():  # a trial that ends early has a value
            return
        self.trial.report(float(value), len(self.values))
        self.values.append(float(value))
        if self.trial.should_prune():
            trainer.should_stop = self.pruned = True


def best_value(file: Path, metric: str, goal: str) -> float:
    """The best value (``goal``: max or min) of a figure in a run's ``metrics.csv``."""
    frame = pl.read_csv(file, infer_schema_length=None, glob=False)
    if metric not in frame.columns:
        near = nearest(metric, frame.columns)
        remedy = f"did you mean {near}?" if near else f"it logs {', '.join(sorted(frame.columns))}"
        raise InputError(f"the run logs no {metric!r}", where="metric", remedy=remedy)
    values = frame[metric].cast(pl.Float64, strict=False).drop_nulls().drop_nans()
    if values.is_empty():
        raise InputError(f"the run logs no number as {metric!r}", where="metric", remedy="name another figure")
    return float(values.max() if goal == "max" else values.min())  # type: ignore[arg-type]


def _selection_value(stage: Stage) -> dict[str, Any]:
    """The callback that logs the value under the chain's judges for selection."""
    judge = stage.folder.path.parents[1] / "judge_select" / stage.folder.path.name / "checkpoints/best.ckpt"
    if not judge.is_file():
        remedy = f"run the log's chain first (recalign chain {stage.folder.path.parents[1].name}), or name a --metric"
        raise InputError("there are no judges to tell which trial is best", where=str(judge), remedy=remedy)
    return {"class_path": f"{SelectionValue.__module__}.SelectionValue", "init_args": {"judge": str(judge)}}


def _line(settings: Settings) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())
