"""Checks of a command before it trains."""

from __future__ import annotations

import os
from typing import Any

import yaml
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateFinder, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.plugins.environments import LightningEnvironment

from recalign.errors import InputError, require_positive, require_seed
from recalign.keys import leaves, short, yaml_text
from recalign.recommender import Recommender
from recalign.recommender.averaging import PolynomialAveraging, goes_on
from recalign.recommender.checkpoint import Loaded
from recalign.recommender.grown import GROWS_FROM
from recalign.recommender.training import StageModule
from recalign.reward import RewardModel
from recalign.run.stage import upstream
from recalign.run.stage.checkpoint import (
    read_run_checkpoint,
    refuse_lost_weights,
    refuse_missing_weights,
    refuse_other_model,
)
from recalign.run.stage.classes import imported, listed
from recalign.run.stage.console import warn_if_bf16_is_slow
from recalign.run.stage.folder import RunFolder
from recalign.run.stage.parsed import ParsedStage, fingerprint

_ANEW = "start it anew, without --ckpt_path"
TRAINED_WITH = (
    *("data.", "optimizer.", "lr_scheduler.", "early_stopping.", "trainer.gradient_clip"),
    *("trainer.accumulate_grad_batches", "trainer.limit_train_batches", "trainer.precision"),
)
"""Begin the settings, besides ``model``, that stay when a run is continued."""
MAY_BE_LEFT_OUT = ("data.", "early_stopping.")
"""Prefixes of those that may be missing in the run's configuration, or in the new one."""
PLACES = ("data.root", "data.cache", "data.grows_from", "data.log.")
"""Begin those of them that may change: the bytes of the log are compared."""

UNFIT = {
    StochasticWeightAveraging: ("its average is in no checkpoint", "give recalign.recommender.PolynomialAveraging"),
    LearningRateFinder: ("the rate that it finds is not that of config.yaml", "search model.lr with recalign tune"),
}
"""Lightning's callbacks after which a run is not what its folder says: why, and what to do instead."""

SHARDED = "ModelParallelStrategy"
"""Lightning's strategy whose processes hold parts of the weights; of the stages, a recommender over item ids only."""
STRATEGIES = ("auto", "single_device", "ddp", "SingleDeviceStrategy", "DDPStrategy", SHARDED)
"""Strategies of Lightning with which a stage trains; with the others every process holds the whole model."""
FULL = (32, "32", "32-true")
"""Names of Lightning's default precision."""
PRECISIONS = ("32", "32-true", "bf16-mixed")
"""Precisions in which the stages of recalign train.

With weights of 16 bits small updates are lost, in float16 the softmax over the catalogue overflows (2^logit), and
Lightning's double precision cannot convert a `Batch`.
"""

COUNTS = ("num_nodes", "accumulate_grad_batches", "check_val_every_n_epoch", "log_every_n_steps")
"""Settings of the trainer that Lightning takes below 1, and then divides by them or passes over them."""

MEETING = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
"""Environment variables by which machines find each other where no cluster tells them."""

BRIEFEST = 5.0
"""Seconds: a process that works may be silent for less."""


def settings(config: dict[str, Any], training: bool) -> None:
    """Refuse settings with which no stage works.

    Raises:
        InputError: names the setting and what to give instead.
    """
    require_seed(config["seed_everything"], "seed_everything")
    if config["lr_scheduler"] and not config["optimizer"]:  # LightningCLI would pass over it without a word
        remedy = "add it: --optimizer AdamW --optimizer.lr 0.001"
        raise InputError("a scheduler needs an optimizer", where="lr_scheduler", remedy=remedy)
    for spec in (config["model"], config["data"]):
        kind = imported(spec["class_path"])
        if hasattr(kind, "check_settings"):  # any LightningModule may be run
            kind.check_settings(spec["init_args"])
    if not config["run"]["rank_timeout"] >= BRIEFEST:
        remedy = f"give {BRIEFEST:g} seconds or more"
        raise InputError(f"{config['run']['rank_timeout']} is too short", where="run.rank_timeout", remedy=remedy)
    trainer, ours = config["trainer"], issubclass(imported(config["model"]["class_path"]), StageModule)
    strategy = trainer["strategy"] if isinstance(trainer["strategy"], str) else trainer["strategy"]["class_path"]
    if strategy.rsplit(".")[-1] not in STRATEGIES:
        text = f"{strategy} is no strategy that a stage can train with"
        remedy = "give ddp for several devices (conf/trainer/fsdp.yaml if a model does not fit one), or leave it out"
        raise InputError(text, where="trainer.strategy", remedy=remedy)
    if strategy.endswith(SHARDED):
        _refuse_parts(trainer, imported(config["model"]["class_path"]), training)
    if trainer["default_root_dir"] is not None:
        remedy = "leave it out; --run.root says where run folders lie"
        raise InputError("a stage writes into its run folder", where="trainer.default_root_dir", remedy=remedy)
    if trainer["accelerator"] == "mps":
        remedy = "give cpu, which is what auto takes here"
        raise InputError("Apple's GPUs know no float64, which stages need", where="trainer.accelerator", remedy=remedy)
    require_positive("trainer", trainer, *COUNTS)
    require_positive("trainer", trainer, "gradient_clip_val", or_zero=True)
    if config["early_stopping"]:
        require_positive("early_stopping", config["early_stopping"]["init_args"], "patience", "min_delta", or_zero=True)
    if ours and trainer["precision"] is not None and str(trainer["precision"]) not in PRECISIONS:
        text = f"{trainer['precision']} is no precision that a stage can train in"
        raise InputError(text, where="trainer.precision", remedy=f"give one of {', '.join(PRECISIONS)}")
    if not training:
        return
    _refuse_callbacks(trainer, imported(config["model"]["class_path"]))
    if ours and trainer["overfit_batches"]:
        remedy = "give --trainer.limit_train_batches N, for N batches an epoch"
        raise InputError("it takes no batches of several users", where="trainer.overfit_batches", remedy=remedy)
    if trainer["barebones"]:
        remedy = "leave it out; --trainer.profiler simple says where time goes"
        raise InputError("a run needs its checkpoints", where="trainer.barebones", remedy=remedy)
    require_positive("checkpoint", config["checkpoint"], "save_last_every_n_steps")
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if trainer[name] == 0:
            raise InputError("0 trains nothing", where=f"trainer.{name}", remedy="give 1 or more")
    validating = {
        "model.keep": config["model"]["init_args"].get("keep"),
        "early_stopping": config["early_stopping"],
        "checkpoint.monitor": config["checkpoint"]["monitor"],
    }
    if trainer["limit_val_batches"] == 0 and (
        names := [name for name, value in validating.items() if value is not None]
    ):
        text = f"nothing is validated, and {' and '.join(names)} need{'s' * (len(names) == 1)} it"
        remedy = f"validate on 1 batch or more, or set {' and '.join(names)} to null"
        raise InputError(text, where="trainer.limit_val_batches", remedy=remedy)


def _refuse_callbacks(trainer: dict[str, Any], model: type) -> None:
    """Refuse callbacks after which a run would not be what its checkpoints and its configuration say."""
    kinds = [imported(one["class_path"]) for one in listed(trainer["callbacks"])]
    for unfit, (why, remedy) in UNFIT.items():
        if any(issubclass(kind, unfit) for kind in kinds):
            raise InputError(f"{unfit.__name__}: {why}", where="trainer.callbacks", remedy=remedy)
    averages = [kind for kind in kinds if issubclass(kind, WeightAveraging)]
    names = " and ".join(kind.__name__ for kind in averages)
    if len(averages) > 1:
        what = f"{names} would swap weights with each other, and train an average further"
        remedy = "keep one: --trainer.callbacks gives the whole list, --trainer.callbacks+ adds to that of the YAML"
        raise InputError(what, where="trainer.callbacks", remedy=remedy)
    if issubclass(model, RewardModel) and not all(issubclass(kind, PolynomialAveraging) for kind in averages):
        what = f"{names} copies a reward model before the log has given its weights their sizes"
        raise InputError(what, where="trainer.callbacks", remedy="give recalign.recommender.PolynomialAveraging")


def _refuse_parts(trainer: dict[str, Any], model: type, training: bool) -> None:
    """Refuse what needs all weights in one process."""
    if not issubclass(model, Recommender):
        text = f"{SHARDED} trains recommenders over item ids only, and this is {model.__name__}"
        raise InputError(text, where="trainer.strategy", remedy="give ddp: every process then holds the whole model")
    if not training:
        remedy = "leave conf/trainer/fsdp.yaml out: the checkpoint holds all weights, and one process can read it"
        raise InputError(f"{SHARDED} is for training only", where="trainer.strategy", remedy=remedy)
    kinds = [imported(one["class_path"]) for one in listed(trainer["callbacks"])]
    if averages := [kind.__name__ for kind in kinds if issubclass(kind, WeightAveraging)]:
        text = f"{averages[0]} cannot average weights that are in parts"
        raise InputError(text, where="trainer.callbacks", remedy="leave it out, as conf/trainer/fsdp.yaml does")
    if trainer["strategy"]["init_args"]["save_distributed_checkpoint"]:
        text = "a checkpoint in parts cannot be read by other stages"
        remedy = "set it to false, as conf/trainer/fsdp.yaml does"
        raise InputError(text, where="trainer.strategy.init_args.save_distributed_checkpoint", remedy=remedy)


def before_reading(parsed: ParsedStage) -> None:
    """Check all that needs no data: checkpoints, the trainer, the run folder.

    Raises:
        InputError: one of them cannot be used.
    """
    upstream.require(parsed.upstream, parsed.folder, parsed.log)
    if parsed.training and not parsed.in_place:
        _refuse_own_checkpoints(parsed)
    if parsed.checkpoint:
        model = parsed.config["model"]
        refuse_other_model(parsed.checkpoint, model["class_path"], model["init_args"])
    trainer = parsed.bare_trainer()  # Lightning judges the machine's part of the configuration
    on_cpu, cores = trainer.strategy.root_device.type == "cpu", os.cpu_count() or 1
    strategy = parsed.config["trainer"]["strategy"]
    name = strategy if isinstance(strategy, str) else strategy["class_path"].rpartition(".")[2]
    if name == SHARDED and parsed.training and parsed.checkpoint:
        raise InputError(f"{SHARDED}: its runs cannot be continued", where="ckpt_path", remedy=_ANEW)
    if trainer.world_size == 1 and name in ("ddp", SHARDED):
        remedy = "leave it out, or give --trainer.devices 2 or more"
        raise InputError(f"{name} is for several processes, and this is one", where="trainer.strategy", remedy=remedy)
    if on_cpu and trainer.num_devices > max(cores, 2):
        remedy = f"give {max(cores, 2)} at most"
        raise InputError(f"{trainer.num_devices} processes on {cores} cores", where="trainer.devices", remedy=remedy)
    _refuse_lonely_machine(trainer)
    warn_if_bf16_is_slow(parsed.config["trainer"]["precision"], on_cpu)
    if trainer.is_global_zero and not parsed.dry:
        parsed.folder.probe()


def _refuse_lonely_machine(trainer: Trainer) -> None:
    """Refuse to wait for machines that are not told where to meet."""
    cluster = getattr(trainer.strategy, "cluster_environment", None)
    if trainer.num_nodes == 1 or not isinstance(cluster, LightningEnvironment):
        return
    told = {*os.environ, *(["NODE_RANK"] if "GROUP_RANK" in os.environ else [])}
    if missing := [name for name in MEETING if name not in told]:
        raise InputError(
            f"{trainer.num_nodes} machines, and {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set",
            where="trainer.num_nodes",
            remedy="start the command on every machine with these variables, by torchrun or by srun (docs/scale.md)",
        )


def after_reading(
    parsed: ParsedStage, model: LightningModule, datamodule: LightningDataModule, trainer: Trainer
) -> None:
    """Check that checkpoints fit this catalogue, and that a continued run still has its data and upstream checkpoints.

    Raises:
        InputError: they do not.
    """
    if parsed.training:
        _refuse_rare_validation(trainer, datamodule)
    for one in parsed.upstream:
        if one.argument != GROWS_FROM and (content := one.checkpoint()):  # that one is of the log before
            Loaded.from_checkpoint(None, content, str(one.path)).check(datamodule)  # type: ignore[arg-type]
    if parsed.checkpoint is None:
        return
    checkpoint = read_run_checkpoint(parsed.checkpoint)
    known = checkpoint["hyper_parameters"].get("num_items")
    if known != datamodule.num_items:  # type: ignore[attr-defined]
        raise InputError(
            f"a checkpoint of a catalogue of {known} items, and the log has {datamodule.num_items}",  # type: ignore[attr-defined]
            where=str(parsed.checkpoint),
            remedy="give the log that it was trained on",
        )
    refuse_missing_weights(checkpoint, parsed.checkpoint, model)
    if not parsed.training:
        _refuse_other_rewards(parsed, checkpoint, datamodule)
        return
    stopped = any(
        checkpoint["callbacks"].get(one.state_key, {}).get("stopping_reason")
        for one in trainer.early_stopping_callbacks
    )
    if not (parsed.dry or parsed.in_place) and (stopped or not goes_on(trainer, checkpoint)):
        remedy = "raise trainer.max_epochs (or max_steps), leave early_stopping out if it ended the run, or leave "
        remedy += "--run.name as it was"
        raise InputError("nothing is left to train from this checkpoint", where=str(parsed.checkpoint), remedy=remedy)
    callbacks = [*trainer.callbacks, *listed(model.configure_callbacks())]  # type: ignore[attr-defined]
    refuse_lost_weights(checkpoint, parsed.checkpoint, callbacks)
    if parsed.continued is None:
        return
    if parsed.continued.fingerprint != fingerprint(datamodule):
        raise InputError("the data is not what this run began with", where="data", remedy=_ANEW)
    for key, now in upstream.hashes(parsed.upstream).items():
        if parsed.continued.upstream.get(key, now)["sha256"] != now["sha256"]:
            raise InputError(f"{now['path']} is not what this run began with", where=key, remedy=_ANEW)
    _refuse_other_settings(parsed, RunFolder(parsed.checkpoint.parent.parent))


def _refuse_other_rewards(parsed: ParsedStage, checkpoint: dict[str, Any], datamodule: LightningDataModule) -> None:
    """Refuse to measure a reward model by other rewards, or on other users, than it learned from."""
    known = Loaded.from_checkpoint(None, checkpoint, str(parsed.checkpoint))
    known.check(datamodule)  # type: ignore[arg-type]
    here = getattr(datamodule, "cohort", None)
    if "reward" in known.facts and known.users is not None and here is not None and known.users != here:
        learned, asked = (f"{one.group} (data.share_a {one.share_a:g})" for one in (known.users, here))
        what = f"it was trained on users {learned}, and these are {asked}"
        remedy = f"give its own settings: --config {parsed.folder.config}"
        raise InputError(what, where="data.users, data.share_a", remedy=remedy)


def _refuse_other_settings(parsed: ParsedStage, begun: RunFolder) -> None:
    """Refuse to continue with settings that change what is trained: half of the run would have others.

    An optimiser's, a scheduler's, and early stopping's patience would be ignored: the checkpoint has their state.
    """
    if not begun.config.is_file():
        return
    texts = begun.config.read_text(encoding="utf-8"), yaml_text(parsed.shareable)
    first, now = (_trained_with(yaml.safe_load(text), parsed) for text in texts)
    for key in sorted(first.keys() | now.keys()):
        known = key in first and key in now  # a version of recalign may have settings that another has not
        if first.get(key) != now.get(key) and (known or not key.startswith(MAY_BE_LEFT_OUT)):
            what = f"{now.get(key)!r}, and the run began with {first.get(key)!r}"
            remedy = f"continue it with its own settings: --config {begun.config}; or {_ANEW}"
            raise InputError(what, where=key, remedy=remedy)


def _trained_with(config: dict[str, Any], parsed: ParsedStage) -> dict[str, Any]:
    """Those of the settings that stay; upstream checkpoints are compared by their bytes."""
    upstreams = [one.key for one in parsed.upstream]
    found = {short(key): value for key, value in leaves(config).items()}
    return {
        key: None if key == "trainer.precision" and value in FULL else value
        for key, value in found.items()
        if key.startswith(TRAINED_WITH) and not key.startswith(PLACES) and key not in upstreams
    }


def _refuse_rare_validation(trainer: Trainer, datamodule: LightningDataModule) -> None:
    """Refuse to validate every n batches where an epoch has fewer: Lightning would, once the fit has begun."""
    every, limit = trainer.val_check_interval, trainer.limit_train_batches
    if not isinstance(every, int) or trainer.check_val_every_n_epoch is None:
        return
    batches = len(datamodule.train_dataloader())
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    if every > batches:
        text = f"{every} batches, and an epoch has {batches}"
        remedy = f"give {batches} at most, or count over epochs: --trainer.check_val_every_n_epoch null"
        raise InputError(text, where="trainer.val_check_interval", remedy=remedy)


def _refuse_own_checkpoints(parsed: ParsedStage) -> None:
    """Refuse to start from a checkpoint in the folder that a fresh run empties."""
    emptied = [parsed.folder.path.resolve(), parsed.folder.previous.resolve()]
    starts = {one.key: one.path for one in parsed.upstream} | {"ckpt_path": parsed.checkpoint}
    for key, path in starts.items():
        if path and any(path.resolve().is_relative_to(folder) for folder in emptied):
            remedy = "write to another folder with --run.name NAME"
            raise InputError("lies in the run folder that this run would empty", where=f"{key} {path}", remedy=remedy)
