"""Refuse settings, checkpoints and resumes that cannot work, or that a run folder would misreport."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateFinder, StochasticWeightAveraging, WeightAveraging

from recalign.errors import InputError, require_seed
from recalign.posttrain.keep import KeepRanking
from recalign.recommender import Recommender, RowSharding
from recalign.recommender.averaging import PolynomialAveraging, has_steps_left
from recalign.recommender.checkpoint import OTHER_VERSION, Loaded, read_checkpoint
from recalign.recommender.grown import GROWS_FROM
from recalign.recommender.row_sharding import require_shardable
from recalign.run.stage import upstream
from recalign.run.stage.folder import RunFolder, flat_settings
from recalign.run.stage.parsed import ParsedStage
from recalign.run.words import imported, listed
from recalign.seals import differences

CLASS_PATH = "_class_path"
"""Key of the model's class among the hyper-parameters of a checkpoint of LightningCLI (2.6.6)."""
TRAINED_WEIGHTS = "current_model_state"
"""Key of the weights to resume from, in a checkpoint whose ``state_dict`` is an average (Lightning 2.6.6)."""
SHARDED = "ModelParallelStrategy"
"""Lightning's strategy whose processes hold parts of the weights (FSDP)."""
KEPT_ON_RESUME = (
    *("model.", "data", "optimizer.", "lr_scheduler.", "early_stopping.", "trainer.gradient_clip"),
    *("trainer.accumulate_grad_batches", "trainer.limit_train_batches", "trainer.precision"),
)
"""Prefixes of entries of a run's key that must not change on resume."""
FREE_ON_RESUME = ("data.log.",)
"""Exceptions that may change: the log is compared by content."""


def require_valid_settings(config: dict[str, Any], training: bool) -> None:
    """Refuse settings with which no stage works, although their types are valid.

    Raises:
        InputError: names the setting and what to give instead.
    """
    require_seed(config["seed_everything"], "seed_everything")
    if config["lr_scheduler"] and not config["optimizer"]:  # LightningCLI would ignore it silently
        remedy = "add it: --optimizer AdamW --optimizer.lr 0.001"
        raise InputError("a scheduler needs an optimizer", where="lr_scheduler", remedy=remedy)
    for spec in (config["model"], config["data"]):
        kind = imported(spec["class_path"])
        if hasattr(kind, "check_settings"):  # any LightningModule may be run
            kind.check_settings(spec["init_args"])
    trainer, model = config["trainer"], imported(config["model"]["class_path"])
    if trainer["default_root_dir"] is not None:
        remedy = "leave it out; --run.root says where run folders lie"
        raise InputError("a stage writes into its run folder", where="trainer.default_root_dir", remedy=remedy)
    callbacks = [imported(one["class_path"]) for one in listed(trainer["callbacks"])]
    averages = [kind for kind in callbacks if issubclass(kind, WeightAveraging)]
    unsafe = {LearningRateFinder, StochasticWeightAveraging, *averages} - {PolynomialAveraging}
    if refused := [kind for kind in callbacks if kind in unsafe] or averages[1:]:
        remedy = "average weights by recalign.recommender.PolynomialAveraging; search model.lr by recalign tune"
        what = f"the learning rates or averages of {refused[0].__name__} would not be stored"
        raise InputError(what, where="trainer.callbacks", remedy=remedy)
    strategy = trainer["strategy"]["class_path"] if isinstance(trainer["strategy"], dict) else ""
    if strategy and issubclass(imported(strategy), RowSharding):
        _require_shardable_stage(model, config, training)
    if strategy.endswith(SHARDED):
        problems = {  # what needs all weights in one process
            "trains recommenders over item ids only": not issubclass(model, Recommender),
            "is for training only: one process can read the checkpoint": not training,
            "cannot average weights": averages,
            "has to write whole checkpoints": trainer["strategy"]["init_args"]["save_distributed_checkpoint"],
            "cannot resume": config["ckpt_path"] is not None,
        }
        for text in (text for text, holds in problems.items() if holds):
            remedy = "do as conf/trainer/fsdp.yaml does, or give --trainer.strategy ddp"
            raise InputError(f"{SHARDED} {text}", where="trainer.strategy", remedy=remedy)
    validated = {  # settings that need validation
        "model.keep": config["model"]["init_args"].get("keep"),
        "early_stopping": config["early_stopping"],
        "checkpoint.monitor": config["checkpoint"]["monitor"],
    }
    names = " and ".join(name for name, value in validated.items() if value is not None)
    if training and trainer["limit_val_batches"] == 0 and names:
        remedy = f"validate on 1 batch or more, or set {names} to null"
        raise InputError(f"no validation would run for {names}", where="trainer.limit_val_batches", remedy=remedy)


def _require_shardable_stage(model: type, config: dict[str, Any], training: bool) -> None:
    require_shardable(model, training and config["model"]["init_args"].get("memory", False))
    items = (config["data"]["init_args"].get("log") or {}).get("items") or {}
    if items.get("features"):
        what, where = "row-sharded items cannot have features", "data.log.items.features"
        raise InputError(what, where=where, remedy="leave them out, or give --trainer.strategy ddp")


def checkpoint_path(given: str | None, folder: RunFolder, verb: str) -> Path | None:
    """The file that ``--ckpt_path`` means; evaluation takes the best one by default.

    Raises:
        InputError: there is no such file (Lightning would train from scratch, or evaluate random weights).
    """
    given = given or (None if verb == "fit" else "best")
    if given is None:
        return None
    path = {"best": folder.best, "last": folder.last}.get(given, Path(given))
    if not path.is_file():
        remedy = "start without --ckpt_path" if verb == "fit" else "train it first (recalign fit), or give a file"
        raise InputError(f"there is no checkpoint {path}", where=f"--ckpt_path {given}", remedy=remedy)
    return path


def require_loadable(stage: ParsedStage) -> None:
    """Refuse checkpoints that are missing, wrong, or in a folder that this run empties; and changed settings on resume.

    Raises:
        InputError: names the argument or the setting.
    """
    upstream.require_upstreams(stage.upstream, stage.folder, stage.log)
    if stage.training and not stage.in_place:
        emptied = [stage.folder.path.resolve(), stage.folder.previous.resolve()]
        for key, path in ({one.key: one.path for one in stage.upstream} | {"ckpt_path": stage.checkpoint}).items():
            if path and any(path.resolve().is_relative_to(folder) for folder in emptied):
                what = "lies in the run folder that this run would empty"
                raise InputError(what, where=f"{key} {path}", remedy="write to another one with --run.name NAME")
    if not stage.checkpoint:
        return
    hyper_parameters = dict(read_checkpoint(stage.checkpoint).get("hyper_parameters", {}))
    if CLASS_PATH not in hyper_parameters:
        remedy = "give one of a run folder: runs/<chain>/<stage>/seed-<n>/checkpoints/last.ckpt"
        raise InputError("is not a checkpoint of `recalign fit`", where=str(stage.checkpoint), remedy=remedy)
    current = flat_settings({"model": stage.config["model"]})
    stored = flat_settings({"model": {"class_path": hyper_parameters.pop(CLASS_PATH), "init_args": hyper_parameters}})
    both = stored.keys() & current.keys()
    stored, current = {key: stored[key] for key in both}, {key: current[key] for key in both}
    if stage.training and stage.continued:
        stored, current = stored | stage.continued.key, current | stage.key()
    for key in sorted(differences(stored, current), key=lambda key: (key != "model.class_path", key == "data")):
        optional = key.startswith("early_stopping.") and not (key in stored and key in current)
        if key.startswith(KEPT_ON_RESUME) and not key.startswith(FREE_ON_RESUME) and not optional:
            what = f"is {current.get(key)!r} now; the run was started with {stored.get(key)!r}"
            config = stage.checkpoint.parent.parent / "config.yaml"
            or_restart = "; or start anew, without --ckpt_path" if stage.training else ""
            remedy = f"give its own settings: --config {config}{or_restart}"
            raise InputError(what, where=key, remedy=remedy)


def require_fitting(stage: ParsedStage, model: LightningModule, data: LightningDataModule, trainer: Trainer) -> None:
    """Refuse checkpoints that do not fit this log's catalogue and rewards, this model, or these callbacks.

    Raises:
        InputError: they do not fit.
    """
    for source in stage.upstream:
        if source.argument != GROWS_FROM and (content := source.checkpoint()):  # its checkpoint is of the earlier log
            Loaded.from_checkpoint(None, content, str(source.path)).check(data)  # type: ignore[arg-type]
    if stage.checkpoint is None:
        return
    path, checkpoint = stage.checkpoint, read_checkpoint(stage.checkpoint)
    if missing := [name for name in model.state_dict() if name not in checkpoint["state_dict"]]:
        raise InputError(f"lacks the weights {missing[:5]}", where=str(path), remedy=OTHER_VERSION)
    if not stage.training:
        loaded, users = Loaded.from_checkpoint(None, checkpoint, str(path)), getattr(data, "cohort", None)
        loaded.check(data)  # type: ignore[arg-type]
        if "reward" in loaded.facts and loaded.users is not None and users is not None and loaded.users != users:
            what = f"the checkpoint was trained on users {loaded.users.group}; these are {users.group}, or other shares"
            remedy = f"give its own settings: --config {stage.folder.config}"
            raise InputError(what, where="data.users, data.share_a", remedy=remedy)
        return
    states = [checkpoint["callbacks"].get(callback.state_key, {}) for callback in trainer.early_stopping_callbacks]
    finished = any(state.get("stopping_reason") for state in states) or not has_steps_left(trainer, checkpoint)
    if finished and not stage.in_place:
        remedy = "raise trainer.max_epochs (or max_steps), or leave out early_stopping or --run.name"
        raise InputError("nothing is left to train from this checkpoint", where=str(path), remedy=remedy)
    callbacks = [*trainer.callbacks, *listed(model.configure_callbacks())]  # type: ignore[attr-defined]
    averaging = {callback.state_key for callback in callbacks if isinstance(callback, KeepRanking | WeightAveraging)}
    # Only the callback that averaged the weights restores the trained ones.
    if TRAINED_WEIGHTS in checkpoint and not averaging & checkpoint["callbacks"].keys():
        remedy = f"continue it with its own callbacks: --config {path.parent.parent / 'config.yaml'}"
        raise InputError("has averaged weights; no callback restores the trained ones", where=str(path), remedy=remedy)
