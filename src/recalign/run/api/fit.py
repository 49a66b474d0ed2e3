"""Stages as functions: clone a policy, train a reward model or a judge, post-train; and load what was trained."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from recalign.data.sequences import EventDataModule
from recalign.errors import InputError
from recalign.recommender.checkpoint import load_net
from recalign.run import configs
from recalign.run.api.log import Log, require_kind
from recalign.run.api.trained import Trained, TrainedPolicy, TrainedReward, checkpoint_of
from recalign.run.stage import Manifest, RunFolder, Stage, parse_stage
from recalign.run.stage.settings import load
from recalign.run.words import flatten

Result = TypeVar("Result", bound=Trained)
Settings = Mapping[str, Any]
"""Settings of a stage, nested or by dotted key: ``{"model.lr": 1e-3, "trainer": {"max_epochs": 3}}``."""


def fit_recommender(
    log: Log, *, name: str | None = None, seed: int = 0, settings: Settings | None = None
) -> TrainedPolicy:
    """Train a generative recommender by behaviour cloning (conf/stages/recommender.yaml: HSTU).

    Like every function here, it reuses a finished run in the log's folder if nothing has changed, and raises InputError
    where something that was given cannot be used, TrainingError where training cannot go on.

    Args:
        log: the training log.
        name: name of the run; None: the stage's, with a number if another run has it.
        seed: random seed.
        settings: override the YAML's.
    """
    return _run(TrainedPolicy, log, "recommender", name, seed, given_settings(settings))


def fit_reward(
    log: Log, start: Any, *, name: str | None = None, seed: int = 0, settings: Settings | None = None
) -> TrainedReward:
    """Train a reward model on the encoder of a policy (conf/stages/reward.yaml). Others as in `fit_recommender`.

    Args:
        log: the training log; it needs a reward.
        start: the cloned policy: what `fit_recommender` returned, a checkpoint, a run folder, or a network.
    """
    given = {"model.init_from": str(checkpoint_of(start, "policy", log, data_of(log, seed=seed)))}
    return _run(TrainedReward, log, "reward", name, seed, given | given_settings(settings))


def fit_judge(
    log: Log, users: str = "B2", *, name: str | None = None, seed: int = 0, settings: Settings | None = None
) -> TrainedReward:
    """Train a judge (conf/stages/judge.yaml): a held-out reward model, on users whose rewards no policy has seen.

    Args:
        log: the training log; it needs a reward.
        users: ``B1`` for a judge that selects settings, ``B2`` for one that reports. Others as in `fit_recommender`.
    """
    names = {"B1": "judge_select", "B2": "judge_report"}
    if users not in names:
        raise InputError(f"{users!r} is not a group of judges' users", where="users", remedy="give B1 or B2")
    return _run(TrainedReward, log, "judge", name, seed, {"data.users": users} | given_settings(settings), names[users])


def align(
    log: Log,
    start: Any,
    reward: Any = None,
    *,
    method: str | Path = "asft",
    name: str | None = None,
    seed: int = 0,
    settings: Settings | None = None,
) -> TrainedPolicy:
    """Post-train a policy: A-SFT as recommended, or another method. Others as in `fit_recommender`.

    Args:
        log: the training log; it needs a reward.
        start: the policy to start from, which is copied; in any form that `fit_reward` takes.
        reward: what `fit_reward` returned, a checkpoint or a run folder; None for methods without a reward model.
        method: name (``asft``, ``dpo``, ``ppo``, ...) or path of a post-training YAML.
    """
    remedy = "name a post-training YAML, such as asft; settings={'model.class_path': ...} gives it another class"
    require_kind(method, str | Path, "method", remedy)
    upstream = stage_of(log, str(method), Path(method).stem, seed, given_settings(settings)).upstream
    needs = {one.key: one.stage for one in upstream}
    if "recommender" not in needs.values():
        remedy = "name one of conf/methods (`recalign configs`), such as asft"
        raise InputError(f"{method} is not a post-training method", where="method", remedy=remedy)
    if reward is None and "reward" in needs.values():
        raise InputError(f"{method} needs a reward model", where="reward", remedy="give what fit_reward returned")
    data = data_of(log, seed=seed)
    found = {"recommender": str(checkpoint_of(start, "policy", log, data))}
    if reward is not None:
        found["reward"] = str(checkpoint_of(reward, "reward", log, data))
    given = {key: found[stage] for key, stage in needs.items() if stage in found}
    return _run(TrainedPolicy, log, str(method), name, seed, given | given_settings(settings))


def given_settings(settings: Settings | None) -> dict[str, Any]:
    """The ``settings`` of a call, checked to be a mapping."""
    settings = {} if settings is None else settings
    require_kind(settings, Mapping, "settings", 'give a dictionary, such as {"trainer.max_epochs": 1}')
    return dict(settings)


def load_policy(log: Log, path: str | Path) -> TrainedPolicy:
    """Load a policy from its run folder.

    Args:
        log: the log that it was trained on.
        path: its run folder or checkpoint.
    """
    data = data_of(log)
    checkpoint = checkpoint_of(path, "policy", log, data)
    own = data_settings(checkpoint)  # histories are read as the run read them
    data.max_length = own.get("max_length", data.max_length)
    data.know_request = own.get("request_time") == "known" if own else data.know_request
    require_rewards(checkpoint, data)
    return _loaded(TrainedPolicy, log, checkpoint, data)


def load_reward(log: Log, path: str | Path) -> TrainedReward:
    """Load a reward model or judge from its run folder. Arguments as in `load_policy`."""
    data = data_of(log)
    return _loaded(TrainedReward, log, checkpoint_of(path, "reward", log, data), data)


def require_rewards(checkpoint: Path, data: EventDataModule) -> None:
    """Refuse a policy that reads rewards if the log's rewards are not those that it was trained on."""
    own = data_settings(checkpoint)
    learned = {name: own.get(name) for name in data.reward_settings}
    if "reward" not in own or learned == data.reward_settings:
        return
    policy = load_net(checkpoint, "policy").net
    if getattr(getattr(policy, "base", policy), "past_rewards", None) is not None:
        what = f"this policy reads rewards and was trained with {learned}, but the Log has {data.reward_settings}"
        raise InputError(what, where=str(checkpoint), remedy="give the Log the same reward settings")


def data_settings(checkpoint: Path) -> dict[str, Any]:
    """The ``data`` settings of the run that wrote a checkpoint; empty if it lies in no run folder."""
    run = RunFolder(checkpoint.absolute().parent.parent)
    return load(run.config)["data"]["init_args"] if run.manifest.is_file() and run.config.is_file() else {}


def data_of(log: Log, config: str = "reward", seed: int = 0) -> Any:
    """The DataModule of a stage; that of ``reward`` has users A, on whom policies are compared."""
    return stage_of(log, config, seed=seed).datamodule()


def stage_of(log: Log, config: str, name: str | None = None, seed: int = 0, settings: Settings | None = None) -> Stage:
    """Parse a stage on a log from its YAML's path or name, which also names the run unless ``name`` is given."""
    if not isinstance(log, Log):
        remedy = "give Log.from_frame(...), or Log.from_config('ml-100k')"
        raise InputError(f"{type(log).__name__} is not a Log", where="log", remedy=remedy)
    if names := [key for key in flatten(settings or {}) if f"{key}.".startswith(("seed_everything.", "run."))]:
        remedy = "give name=, seed=, or the Log's folder="
        raise InputError("cannot be given in settings", where=f"settings: {names[0]}", remedy=remedy)
    run = {"name": name or config, "root": log.folder.parent, "chain": log.folder.name}
    own: dict[str, Any] = {"seed_everything": seed, "run": run}
    if log.temporary is not None:
        own["trainer"] = {"logger": False}  # no W&B files in a temporary folder
    words = ["fit", f"--config={configs.find(config)}", f"--config={log.yaml}"]
    return parse_stage(words, own, settings or {})


def _loaded(kind: type[Result], log: Log, checkpoint: Path, data: EventDataModule) -> Result:
    folder = checkpoint.absolute().parent.parent
    manifest = Manifest.read(RunFolder(folder))
    seed, seconds = (manifest.seed, manifest.seconds) if manifest else (0, 0.0)
    return kind(log, folder.parent.name, seed, checkpoint, seconds, data)


def _run(
    kind: type[Result], log: Log, config: str, name: str | None, seed: int, settings: Settings, stem: str | None = None
) -> Result:
    """Run a stage unless it has run already.

    Without ``name``, it takes the first of ``asft``, ``asft-2``, ... (or ``stem``, ``stem-2``, ...) whose run is up to
    date or not finished: no other finished run is replaced, because a Python object may still refer to it.
    """
    for number in count(1):
        own = name or (stem or Path(config).stem) + f"-{number}" * (number > 1)
        stage = stage_of(log, config, own, seed, settings)
        there = Manifest.read(stage.folder)
        if (fresh := stage.state().fresh) or name or there is None or there.status != "finished":
            break
    run = stage.load() if fresh else stage.make()
    return kind(log, run.folder.parent.name, seed, run.checkpoint, run.seconds, stage.datamodule())  # type: ignore[arg-type]
