"""`recalign tune`: search the settings of one stage or method on this machine, as the sweeps of W&B do on many."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import polars as pl
from jsonargparse import Namespace
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Column, Table

from recalign.errors import InputError, TrainingError, nearest, require_positive
from recalign.evaluation.report import WIDTH
from recalign.evaluation.selection import SELECT
from recalign.evaluation.selection_callback import SelectionValue
from recalign.files import digest, locked, write_text, yaml_text
from recalign.run import configs
from recalign.run.chain.plan import Settings
from recalign.run.chain.run import train
from recalign.run.chain.search import trial
from recalign.run.chain.space import Spaces, require_optuna
from recalign.run.stage import Manifest, Stage, parse_stage, upstream
from recalign.run.stage.console import echo, quiet
from recalign.run.stage.settings import instantiated, parse_call, set_keys
from recalign.run.stage.wandb_log import BEST
from recalign.run.words import iter_options

FOLDER = "tuning"
"""Holds the trials, below the stage's folder."""
STUDY = "study.jsonl"


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
    done = [number for number, trial in enumerate(tried) if not isinstance(trial, Exception)]
    if not done:
        raise tried[-1]
    sign = -1 if tuning.goal == "max" else 1
    done.sort(key=lambda number: (not _is_complete(tried[number]), sign * tried[number].value))
    heads = Column("trial", justify="right"), Column(tuning.metric, justify="right"), "settings"
    table = Table(*heads, title=f"trials of {tuning.stage.run.name}", box=None, padding=(0, 2, 0, 0))
    for number in [*done, *(number for number in range(len(tried)) if number not in done)]:
        trial, style = tried[number], "bold" if number == done[0] else None
        value = f"{trial.value:.4f}{'' if _is_complete(trial) else ' early'}" if number in done else "failed"
        table.add_row(f"trial-{number}", value, _line(tuning.settings[number]), style=style)
    out = Path(how.out or tuning.folder / "tuned.yaml")
    head = f"# {tuning.metric} {tried[done[0]].value:.4g}, the best of {len(tried)} trials\n"
    write_text(out, head + yaml_text(Namespace(**tuning.settings[done[0]]).as_dict()))
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
        """The study on disk."""
        optuna = require_optuna()
        self.folder.mkdir(parents=True, exist_ok=True)
        return optuna.create_study(
            study_name=digest(self.stage.key(), self.metric, self.goal),
            storage=journal(self.folder / STUDY),
            direction=f"{self.goal}imize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
            load_if_exists=True,
        )

    def run(self, study: Any, number: int) -> Any:
        """Train with a trial's settings, unless that is done.

        Returns:
            Optuna's record of the trial (`FrozenTrial`), or why it could not be trained.
        """
        from optuna.trial import TrialState

        settings = self.settings[number]
        echo(f"trial {number + 1} of {len(self.settings)}: trial-{number}, {_line(settings)}")
        try:
            parsed = trial(parse_stage(self.stage.words, settings), f"trial-{number}", FOLDER)
            known = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
            done = [one for one in known if one.user_attrs["settings"] == settings]
            if done and (not _is_complete(done[-1]) or parsed.state().fresh):
                echo(f"  unchanged: {parsed.folder.path}")
                return done[-1]
            asked = study.ask()
            asked.set_user_attr("settings", settings)
            pruning = Pruning(asked, self.metric)
            train(parsed, False, pruning)
        except (InputError, TrainingError) as error:
            if isinstance(error.__cause__, OSError):  # a disk that refuses says nothing of the settings
                raise
            echo(f"  cannot be trained: {error}")
            return error
        if pruning.pruned:
            if manifest := Manifest.read(parsed.folder):  # by another metric it might not have ended there
                replace(manifest, status="failed", error="ended early by recalign tune").write(parsed.folder)
            echo("  ended early: behind the median of the trials before it")
            return study.tell(asked, state=TrialState.PRUNED)
        return study.tell(asked, best_value(parsed.folder.figures("fit"), self.metric, str(self.goal)))


class Pruning(Callback):
    """Report a metric to Optuna at each validation; end a run whose values are behind those of earlier trials.

    Args:
        trial: of an Optuna study with a pruner.
        metric: its name; a run that does not log it at a validation is never ended.
    """

    def __init__(self, trial: Any, metric: str) -> None:
        self.trial, self.metric = trial, metric
        self.validations, self.pruned = 0, False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = trainer.callback_metrics.get(self.metric)
        if trainer.sanity_checking or value is None or value.isnan():  # a trial that ends early has a value
            return
        self.trial.report(float(value), self.validations)
        self.validations += 1
        if self.trial.should_prune():
            trainer.should_stop = self.pruned = True


def journal(file: Path) -> Any:
    """Optuna's storage in a file. A last line that a killed process left without its end is taken off."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if file.is_file():
        os.truncate(file, file.read_bytes().rfind(b"\n") + 1)
    try:
        return JournalStorage(JournalFileBackend(str(file)))
    except (ValueError, KeyError) as error:
        remedy = "delete it: trials that were trained to their end are not trained again"
        raise InputError(f"not what Optuna wrote ({error})", where=str(file), remedy=remedy) from error


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
        remedy = f"run the log's chain first (recalign chain {stage.chain}), or name a --metric"
        raise InputError("there are no judges to tell which trial is best", where=str(judge), remedy=remedy)
    return {"class_path": f"{SelectionValue.__module__}.SelectionValue", "init_args": {"judge": str(judge)}}


def _is_complete(trial: Any) -> bool:
    return trial.state.name == "COMPLETE"


def _line(settings: Settings) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())
