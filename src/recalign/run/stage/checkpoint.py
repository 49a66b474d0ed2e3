"""Write best.ckpt and last.ckpt, and find them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from jsonargparse.typing import PositiveInt
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from recalign.files import rename
from recalign.recommender.checkpoint import write_checkpoint
from recalign.run.stage.loggers import CSVLog


class RunCheckpoint(ModelCheckpoint):
    """Keep ``checkpoints/best.ckpt``, which the next stage loads, and ``last.ckpt``, which continues the run.

    Lightning's ``save_last`` writes only when the best one is written. This writes the last one at the end of every
    epoch, every ``save_last_every_n_steps`` and at a SIGTERM. It writes where Lightning can continue exactly: after a
    batch, or after the validation that follows it. Lightning logs the figures of that batch later, so the file gets its
    name at the next hook. A run that is killed in between continues from the file before, and `CSVLog` drops the rows
    after it.

    Args:
        monitor: figure that chooses the best epoch; null: the newest is the best.
        mode: whether a small (``min``) or a large (``max``) figure is good.
        save_last_every_n_steps: write ``last.ckpt`` within long epochs too; null: at their end only.
    """

    def __init__(
        self,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        save_last_every_n_steps: PositiveInt | None = None,
    ) -> None:
        super().__init__(
            filename="best",
            monitor=monitor,
            mode=mode,
            auto_insert_metric_name=False,
            enable_version_counter=False,
            # Lightning would wait for a validation, which may come before the last epochs or never.
            save_on_train_epoch_end=True if monitor is None else None,
        )
        self.save_last_every_n_steps = save_last_every_n_steps
        self._last_step = -1
        self._after_validation = False  # write then
        self._unnamed: Path | None = None  # written, and not yet last.ckpt
        # Whether the checkpoint ends an epoch and max_steps is not reached; max_steps, put aside until on_train_start.
        self._continues, self._max_steps = False, -1

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score. Lightning drops it if the folder was moved."""

        def here(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        if Path(here(state_dict["best_model_path"])).is_file():
            paths = {key: here(state_dict[key]) for key in ("best_model_path", "kth_best_model_path")}
            scores = {here(path): score for path, score in state_dict["best_k_models"].items()}
            state_dict = state_dict | paths | {"best_k_models": scores, "dirpath": self.dirpath}
        else:  # of another run, whose files are not this one's to write
            state_dict = state_dict | {"best_model_path": ""}
        super().load_state_dict(state_dict)
        self.current_score = state_dict["current_score"]  # Lightning forgets it

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            epoch = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
            whole = epoch["processed"] == epoch["ready"]
            self._continues = whole and checkpoint["global_step"] < trainer.max_steps

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._continues:  # with max_steps Lightning would take the finished epoch for one to be repeated
            self._max_steps, trainer.fit_loop.epoch_loop.max_steps = trainer.max_steps, -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self._continues:
            self._continues, trainer.fit_loop.epoch_loop.max_steps = False, self._max_steps
        stopped = (one.stopping_reason for one in trainer.early_stopping_callbacks)
        if any(reason is not EarlyStoppingReason.NOT_STOPPED for reason in stopped):
            trainer.should_stop = True  # Lightning forgets it, and would train an epoch more at each continuation
        for logger in trainer.loggers:
            if isinstance(logger, CSVLog):
                logger.drop_from(trainer.global_step)

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self._name(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *args)
        steps, done = self.save_last_every_n_steps, trainer.global_step
        if trainer.is_last_batch or not self._is_new(trainer):
            return
        if trainer.should_stop or done == trainer.max_steps:  # a moment later the epoch counts as finished
            self._write_last(trainer)
            trainer.should_stop = True  # then Lightning validates what it ends with, as it does at max_time
        elif steps and done % steps == 0:
            if validates_now(trainer):
                self._after_validation = True
            else:
                self._write_last(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        asked = self._after_validation or (trainer.received_sigterm and not trainer.is_last_batch)
        if asked and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and self._is_new(trainer):
            self._write_last(trainer)
        self._after_validation = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if trainer.is_last_batch or trainer.global_step != self._last_step:
            self._write_last(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        self._name(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        super().on_exception(trainer, pl_module, exception)
        # Raised after a batch or an epoch, when all is logged. A run that is done continues from the file before:
        # of this one Lightning would train nothing, and so not call on_train_end either.
        if isinstance(exception, SIGTERMException) and not trainer.fit_loop.done:
            if self._is_new(trainer) and not validates_now(trainer):
                self._write_last(trainer)
            self._name(trainer)

    def _is_new(self, trainer: Trainer) -> bool:
        """Whether the optimiser has just made a step that is not written yet."""
        accumulated = (trainer.fit_loop.batch_idx + 1) % trainer.accumulate_grad_batches == 0
        return accumulated and trainer.global_step not in (0, self._last_step)

    def _write_last(self, trainer: Trainer) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._last_step = trainer.global_step
            self._unnamed = Path(str(self.dirpath)) / ".last.ckpt"
            trainer.save_checkpoint(self._unnamed)

    def _name(self, trainer: Trainer) -> None:
        if self._unnamed:
            last = self._unnamed.with_name("last.ckpt")
            if trainer.is_global_zero:
                rename(self._unnamed, last)
            self.last_model_path = str(last)
            self._unnamed = None


def validates_now(trainer: Trainer) -> bool:
    """Whether the batch that just ended is followed by validation."""
    return trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher)  # type: ignore[arg-type]


class WholeCheckpointIO(TorchCheckpointIO):
    """Write checkpoints by `write_checkpoint`: whole or not at all, and none whose weights are not finite.

    Lightning writes to the temporary folder and copies from there; on another file system the copy may be cut short.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        write_checkpoint(checkpoint, path)
