"""A W&B logger that never asks, never prints and never fails a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn

from recalign.run.stage.private import fill, is_offline

PROJECT = "recalign"
"""Where neither a logger nor WANDB_PROJECT names one."""

BEST: dict[str, Literal["min", "max"]] = {
    "rank/all/ndcg@10": "max",
    "rank/all/hr@10": "max",
    "rank/high/ndcg@10": "max",
    "rank/nll": "min",
    "reward/rmse": "min",
}
"""Figures whose summary is the best value; that of any other is the last."""


class WandbLog(WandbLogger):
    """A `WandbLogger` that is off after its first error, which costs one warning.

    Args:
        like: the logger that it is but for that.
    """

    def __init__(self, like: WandbLogger) -> None:
        vars(self).update(vars(like))  # not its constructor, which cannot be told of a run's settings
        self.failed = False

    def use(self, call: Callable[[Any], Any]) -> None:
        """Call a function with the run (`wandb.Run`)."""
        self._safely(lambda: call(self.experiment))

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self._safely(super().log_metrics, metrics, step)

    @rank_zero_only
    def log_histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """Log a distribution, as 64 bins."""
        import wandb

        log = super().log_metrics
        self._safely(lambda: log({name: wandb.Histogram(values.tolist())}, step))  # type: ignore[dict-item]

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Nothing to do: the whole configuration was logged at the start."""

    @rank_zero_only
    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        self._safely(super().after_save_checkpoint, checkpoint_callback)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._safely(super().finalize, status)

    def finish(self, exit_code: int = 0) -> None:
        """End the run, also after an error: it would be in the next one's way. Nothing is logged later."""
        self.use(lambda run: run.finish(exit_code=exit_code))
        self.failed = True
        with suppress(Exception):
            import wandb

            if wandb.run is not None:
                wandb.finish(exit_code)

    def _safely(self, call: Callable[..., Any], *args: Any) -> None:
        if self.failed:
            return
        try:
            call(*args)
        except Exception as error:  # whatever wandb raises, training matters more
            self.failed = True
            _warn(error)


def wandb_log(folder: Path, *, online: bool = False, offline: bool = False, **settings: Any) -> WandbLog | None:
    """A W&B logger, started in the mode of WANDB_MODE or of a sweep, where there is one.

    Args:
        folder: where W&B keeps its files.
        online: whether it is online, and not offline, where they say nothing.
        offline: whether it is offline whatever they say.
        **settings: of ``wandb.init``: id, group, job_type, name, config, project, entity.

    Returns:
        None if W&B is disabled, missing or does not work, or another run is active in this process.
    """
    project = settings.pop("project", None) or os.environ.get("WANDB_PROJECT", PROJECT)

    def make() -> WandbLogger:
        # W&B's own process may have been started in another folder, so the path is absolute
        return WandbLogger(save_dir=folder.resolve(), project=project, offline=offline)

    return _started(make, "online" if online else "offline", settings)


def guarded(logger: Logger, **settings: Any) -> Logger | None:
    """The user's own logger; a `WandbLogger` is started, with ``settings`` where it leaves them open.

    Returns:
        None if W&B is disabled or does not work, or another run is active in this process.
    """
    settings = {"project": os.environ.get("WANDB_PROJECT", PROJECT), **settings}
    return _started(lambda: logger, "online", settings) if isinstance(logger, WandbLogger) else logger


def _started(make: Callable[[], WandbLogger], default: str, settings: Mapping[str, Any]) -> WandbLog | None:
    try:
        import wandb

        if wandb.run is not None and _mode("offline") != "disabled":  # Lightning would take it, and `finish` end it
            raise RuntimeError("another run is active in this process; wandb.finish() ends it")
        inner = make()
        mode = "offline" if is_offline(inner) else _mode(default)
        if mode == "disabled":
            return None
        # No copy of the console, of the code or of the load: an offline run starts in 0.1 s (the first in 0.6 s).
        bare = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True)
        own = {} if "WANDB_RUN_ID" not in os.environ else {"id": None}  # a sweep chooses the id itself
        fill(inner, {**settings, **own, "mode": mode, "settings": bare})
    except Exception as error:  # a broken or missing wandb is no reason not to train
        _warn(error)
        return None
    log = WandbLog(inner)  # the run starts now, so that an error shows before training
    log.use(lambda run: [run.define_metric(name, summary=best) for name, best in BEST.items()])
    return None if log.failed else log


def _warn(error: Exception) -> None:
    rank_zero_warn(f"W&B is off for this run: {str(error).splitlines()[0] if str(error) else repr(error)}")


def _mode(default: str) -> str:
    """WANDB_MODE if it is set; online only with an account that needs no asking."""
    import wandb

    mode = os.environ.get("WANDB_MODE") or ("online" if "WANDB_SWEEP_ID" in os.environ else default)
    if mode in ("online", "run", "shared") and not wandb.login(prompt=False):
        rank_zero_warn("W&B has no account here (wandb login, or WANDB_API_KEY): this run is logged offline")
        return "offline"
    return mode
