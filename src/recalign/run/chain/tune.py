"""`recalign tune`: search the settings of one stage or method on this machine, as the sweeps of W&B do on many."""

from __future__ import annotations

import json
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
from recalign.evaluation.judged import SelectionValue
from recalign.evaluation.report import WIDTH
from recalign.evaluation.selection import SELECT
from recalign.files import digest, held, write_text
from recalign.keys import split, yaml_text
from recalign.run import configs
from recalign.run.chain.progress import Progress
from recalign.run.chain.space import Settings, Spaces, require_optuna
from recalign.run.chain.train import train, trial
from recalign.run.stage import Manifest, Stage, parse_stage, upstream
from recalign.run.stage.console import quiet, say
from recalign.run.stage.settings import instantiated, parse_call, set_keys
from recalign.run.stage.wandb_log import BEST

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


class Tuning:
    """The trials of one stage.

    Args:
        how: what is searched, and by which figure.
        words: the stage as ``recalign fit`` takes it.

    Raises:
        InputError: something cannot be used: a key of the space that the stage does not have, say.
    """

    def __init__(self, how: Tune, words: Sequence[str]) -> None:
        require_positive("", vars(how), "trials")
        self.spaces = Spaces(configs.find(how.space or "search"))
        self.stage = parse_stage(["fit", *words])
        if any(one.path is None for one in self.stage.upstream):
            upstream.require(self.stage.upstream, self.stage.folder, self.stage.log)  # says what to run first
        self.metric, self.goal = self._metric(how)
        if self.metric == SELECT and "SelectionValue" not in str(self.stage.config["trainer"]["callbacks"]):
            self.stage = parse_stage([*self.stage.words, *_judged(self.stage)])
        self.name, self.folder = self.stage.run.name, self.stage.folder.path.parent / FOLDER
        self.out = Path(how.out or self.folder / "tuned.yaml")
        self.settings = self._settings(how.trials)

    def _metric(self, how: Tune) -> tuple[str, str]:
        own = self.stage.config["checkpoint"]
        known = [one for one in (self.spaces.metric, (own["monitor"], own["mode"]), (SELECT, "max")) if one and one[0]]
        metric = how.metric or known[0][0]
        goal = how.goal or {**BEST, **dict(reversed(known))}.get(metric)
        if goal not in ("max", "min"):
            raise InputError(f"which values of {metric} are better?", where="goal", remedy="add --goal max or min")
        return metric, goal

    def _settings(self, trials: int) -> list[Settings]:
        given = [(option.lstrip("-"), value) for option, value, _ in split(self.stage.words[1:])]
        fixed = set_keys({option: value for option, value in given if option not in ("c", "config")})
        own = next((Path(str(value)).stem for option, value in given if option in ("c", "config")), self.name)
        method = own if own in self.spaces else self.name
        settings = self.spaces.settings(method, self.stage.config, fixed, trials, self.stage.seed)
        if not settings[0]:
            raise InputError("nothing is left to search", where=str(self.spaces.file), remedy="set fewer on the line")
        return settings

    def run(self) -> Path:
        """Run the trials that are missing, print all, and write the best one's settings as YAML.

        Raises:
            InputError, TrainingError: the last trial's, where none could be trained; the runs log no such figure.
        """
        remedy = "let it finish, or tune in another --run.root"
        with quiet(), held(self.folder, "tuning", remedy):
            study, names = self._study(), [f"trial-{number}" for number in range(len(self.settings))]
            progress = Progress(dict.fromkeys(names, ()), "trial")
            tried: list[Any] = []
            for number, settings in enumerate(self.settings):
                progress.announce(names[number], f"{names[number]}, {_line(settings)}")
                tried.append(self._try(study, number))
                progress.end(names[number])
        order = sorted(range(len(tried)), key=lambda number: _rank(tried[number], self.goal))
        best = tried[order[0]]
        if isinstance(best, Exception):
            raise tried[-1]
        found = f"# {self.metric} {best.value:.4g}, the best of {len(tried)} trials\n"
        tuned = Namespace(**self.settings[order[0]]).as_dict()
        write_text(self.out, found + yaml_text(tuned))
        Console(width=WIDTH).print(self._table(tried, order))
        say(f"{self.out}: give it after the stage's YAML, recalign fit ... --config {self.out}")
        return self.out

    def _study(self) -> Any:
        """The study on disk. A trial that an earlier call left running has failed: its settings are tried again."""
        optuna = require_optuna()
        self.folder.mkdir(parents=True, exist_ok=True)
        study = optuna.create_study(
            study_name=digest(self.stage.key(), self.metric, self.goal),
            storage=journal(self.folder / STUDY),
            direction=f"{self.goal}imize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
            load_if_exists=True,
        )
        for left in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
            study.tell(left.number, state=optuna.trial.TrialState.FAIL)
        return study

    def _try(self, study: Any, number: int) -> Any:
        """Train with a trial's settings, unless that is done.

        Returns:
            Optuna's record of the trial (`FrozenTrial`), or why it could not be trained.
        """
        from optuna.trial import TrialState

        settings = self.settings[number]
        try:
            parsed = trial(parse_stage(self.stage.words, settings), f"trial-{number}", FOLDER)
            known = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
            done = [one for one in known if one.user_attrs["settings"] == settings]
            if done and (not _whole(done[-1]) or parsed.state().fresh):
                say(f"  unchanged: {parsed.folder.path}")
                return done[-1]
            asked = study.ask()
            asked.set_user_attr("settings", settings)
            pruning = Pruning(asked, self.metric)
            train(parsed, pruning)
        except (InputError, TrainingError) as error:
            if isinstance(error.__cause__, OSError):  # a disk that refuses says nothing of the settings
                raise
            say(f"  cannot be trained: {error}")
            return error
        if pruning.pruned:
            if manifest := Manifest.read(parsed.folder):  # by another metric it might not have ended there
                replace(manifest, status="failed", error="ended early by recalign tune").write(parsed.folder)
            say("  ended early: behind the median of the trials before it")
            return study.tell(asked, state=TrialState.PRUNED)
        return study.tell(asked, best_value(parsed.folder.figures("fit"), self.metric, self.goal))

    def _table(self, tried: Sequence[Any], order: Sequence[int]) -> Table:
        """The trials, the best first, those that could not be trained last."""
        heads = Column("trial", justify="right"), Column(self.metric, justify="right"), "settings"
        shown = Table(*heads, title=f"trials of {self.name}", box=None, padding=(0, 2, 0, 0))
        for number in order:
            one, style = tried[number], "bold" if number == order[0] else None
            value = "failed" if isinstance(one, Exception) else f"{one.value:.4f}{'' if _whole(one) else ' early'}"
            shown.add_row(f"trial-{number}", value, _line(self.settings[number]), style=style)
        return shown


def journal(file: Path) -> Any:
    """Optuna's storage in a file, whose path may hold any character.

    Raises:
        InputError: the file was cut or altered.
    """
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    try:
        return JournalStorage(JournalFileBackend(str(file)))
    except (ValueError, KeyError) as error:
        remedy = "delete it: trials that were trained to their end are not trained again"
        raise InputError(f"not what Optuna wrote ({error})", where=str(file), remedy=remedy) from error


def best_value(file: Path, metric: str, goal: str) -> float:
    """The best value (``goal``: max or min) of a figure in a run's ``metrics.csv``.

    Raises:
        InputError: it logged no such figure, or no number.
    """
    frame = pl.read_csv(file, infer_schema_length=None, glob=False)
    if metric not in frame.columns:
        near = nearest(metric, frame.columns)
        remedy = f"did you mean {near}?" if near else f"it logs {', '.join(sorted(frame.columns))}"
        raise InputError(f"the run logs no {metric!r}", where="metric", remedy=remedy)
    values = frame[metric].cast(pl.Float64, strict=False).drop_nulls().drop_nans()
    if values.is_empty():
        raise InputError(f"the run logs no number as {metric!r}", where="metric", remedy="name another figure")
    return float(values.max() if goal == "max" else values.min())  # type: ignore[arg-type]


def _judged(stage: Stage) -> list[str]:
    """The option that logs the value under the chain's judges for selection."""
    judge = stage.folder.path.parents[1] / "judge_select" / stage.folder.path.name / "checkpoints/best.ckpt"
    if not judge.is_file():
        remedy = f"run the log's chain first (recalign chain {stage.chain}), or name a --metric"
        raise InputError("there are no judges to tell which trial is best", where=str(judge), remedy=remedy)
    callback = {"class_path": f"{SelectionValue.__module__}.SelectionValue", "init_args": {"judge": str(judge)}}
    return [f"--trainer.callbacks+={json.dumps(callback)}"]


def _whole(trial: Any) -> bool:
    return trial.state.name == "COMPLETE"


def _rank(tried: Any, goal: str) -> tuple[int, float]:
    """Sort key: complete trials by value, then those that ended early, then failed ones."""
    if isinstance(tried, Exception):
        return 2, 0.0
    return int(not _whole(tried)), -tried.value if goal == "max" else tried.value


def _line(settings: Settings) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def tune(argv: Sequence[str]) -> Path:
    """Search the settings of one stage or method, and write the best as YAML for `recalign fit`.

    Args:
        argv: the words after ``recalign tune``: those of `Tune`, all others as for ``recalign fit``.

    Returns:
        The YAML.

    Raises:
        InputError: something that was given cannot be used.
        TrainingError: no trial can be trained.
    """
    own, others = _split(argv)
    summary = (tune.__doc__ or "").splitlines()[0]
    call = parse_call("tune", summary, Tune, own, "YAML of the stage and of the log")
    return Tuning(Tune(**instantiated(*call)), others).run()


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words that set a `Tune`, and the others.

    Raises:
        InputError: one of the others is nearly a `Tune`'s.
    """
    names = {f"--{field.name}" for field in fields(Tune)} | {"--help", "-h"}
    own: list[str] = []
    others: list[str] = []
    for option, _, words in split(argv):
        if option in names:
            own += words
        elif "." not in option and (near := nearest(option, names)):
            raise InputError("there is no such option", where=option, remedy=f"did you mean {near}?")
        else:
            others += words
    return own, others
