"""Callbacks of every training run: checkpoints, a stop at a NaN, seeds of each batch, speed and rates."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse.typing import PositiveInt
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.optim import Optimizer

from recalign.errors import TrainingError
from recalign.files import rename
from recalign.recommender.checkpoint import write_checkpoint
from recalign.recommender.row_sharding import gradient_norm
from recalign.recommender.training import logs_now
from recalign.run.stage.loggers import CSVLog


def batches_done(trainer: Trainer) -> int:
    """Training batches since the start of the run, those before a resume and the current one included."""
    return trainer.fit_loop.total_batch_idx + 1


class NaNGuard(Callback):
    """Stop at a loss that is NaN or infinite; name its step, its batch and the last checkpoint before it.

    The first bad batch is noted on the device; it is read back only every ``log_every_n_steps`` steps, at the end of
    an epoch and before a checkpoint is written, so that no step waits for the device and no bad weights are saved.

    Args:
        last: where the last good checkpoint lies, if one was written.
    """

    def __init__(self, last: Path) -> None:
        self.last = last
        self.first_bad: Tensor | None = None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if loss is None:  # the module skipped this batch
            return
        loss = loss.detach()
        if self.first_bad is None:
            self.first_bad = torch.full((), -1, device=loss.device)
        bad = (self.first_bad < 0) & ~torch.isfinite(loss).all()
        self.first_bad = torch.where(bad, batches_done(trainer) - 1, self.first_bad)
        if batches_done(trainer) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._check(trainer)

    def _check(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        if self.first_bad is None or (number := int(self.first_bad)) < 0:
            return
        epoch, batch = divmod(number, int(trainer.num_training_batches))
        step = number // trainer.accumulate_grad_batches
        last = f"the last good checkpoint is {self.last}" if self.last.exists() else "no checkpoint was written yet"
        raise TrainingError(
            f"the loss became NaN or infinite at step {step} (epoch {epoch}, batch {batch}); {last}\n"
            "  -> lower the learning rate, clip gradients (--trainer.gradient_clip_val 1), or train in fp32"
        )

    on_train_epoch_end = on_save_checkpoint = _check


class StepSeeds(Callback):
    """Seed torch before every batch with a function of (seed, batch number, process).

    Dropout and sampled negatives then depend on neither validation nor where a run was interrupted: Lightning does
    not restore random states, and without this a continued run would differ from one that was never interrupted.

    Args:
        seed: the run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        rank = trainer.global_rank * 0xBF58476D1CE4E5B9  # dropout differs between processes
        seed = (self.seed * 0x9E3779B97F4A7C15 + rank + batches_done(trainer)) % 2**63
        # torch.manual_seed asks every kind of device and takes 0.1 ms, which a short step would notice.
        torch.default_generator.manual_seed(seed)
        device = trainer.strategy.root_device
        if device.type == "cuda":
            torch.cuda.default_generators[device.index].manual_seed(seed)


class TrainingMonitor(Callback):
    """Log ``train/{lr,grad_norm}``, ``speed/{step_seconds,events_per_second,memory_gb}``.

    Only logged steps do extra work and read from the device, so that no other step waits for it. The gradient's norm is
    the 2-norm over all parameters, before clipping. A step's time is the mean since the last row, without validation;
    memory is this process's peak, of the GPU or else of the machine.
    """

    def __init__(self) -> None:
        self._began = (0.0, 0, 0)  # time; steps and events until then

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if logs_now(trainer):
            pl_module.log("train/grad_norm", gradient_norm(pl_module))
            pl_module.log("train/lr", optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        began, before, events = self._began
        steps = trainer.global_step - before  # 0 while a step accumulates batches
        if steps and trainer.global_step % max(trainer.log_every_n_steps, 1) == 0:  # type: ignore[attr-defined]
            seconds, events = time.monotonic() - began, getattr(pl_module, "events", 0) - events
            if trainer.strategy.root_device.type == "cuda":
                memory = torch.cuda.max_memory_allocated(trainer.strategy.root_device) / 1e9
            else:
                memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)
            speed = {"speed/step_seconds": seconds / steps, "speed/events_per_second": events / max(seconds, 1e-9)}
            pl_module.log_dict(speed | {"speed/memory_gb": memory})
            self._restart(trainer, pl_module)

    def _restart(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = time.monotonic(), trainer.global_step, getattr(pl_module, "events", 0)

    # on_train_start too: a run resumed within an epoch skips on_train_epoch_start
    on_train_start = on_train_epoch_start = on_validation_end = _restart


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
        self._after_validation = False  # write last.ckpt then
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
        else:  # of another run, whose files must not be overwritten
            state_dict = state_dict | {"best_model_path": ""}
        super().load_state_dict(state_dict)
        self.current_score = state_dict["current_score"]  # Lightning forgets it

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            epoch = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
            self._continues = epoch["processed"] == epoch["ready"] and checkpoint["global_step"] < trainer.max_steps

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._continues:  # with max_steps Lightning would repeat the finished epoch
            self._max_steps, trainer.fit_loop.epoch_loop.max_steps = trainer.max_steps, -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self._continues:
            self._continues, trainer.fit_loop.epoch_loop.max_steps = False, self._max_steps
        stopped = (one.stopping_reason for one in trainer.early_stopping_callbacks)
        if any(reason is not EarlyStoppingReason.NOT_STOPPED for reason in stopped):
            trainer.should_stop = True  # Lightning forgets it, and would train one more epoch at each resume
        for logger in trainer.loggers:
            if isinstance(logger, CSVLog):
                logger.drop_from(trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *args)
        steps, done = self.save_last_every_n_steps, trainer.global_step
        if trainer.is_last_batch or not self._is_new(trainer):
            return
        if trainer.should_stop or done == trainer.max_steps:  # later Lightning counts the epoch as finished
            self._write_last(trainer)
            trainer.should_stop = True  # then Lightning validates the final weights, as at max_time
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
        # Raised after a batch or an epoch, when all is logged. A run that is done keeps the file before: from a new one
        # Lightning would train nothing, and so not call on_train_end either.
        if isinstance(exception, SIGTERMException) and not trainer.fit_loop.done:
            if self._is_new(trainer) and not validates_now(trainer):
                self._write_last(trainer)
            self._name(trainer)

    def _is_new(self, trainer: Trainer) -> bool:
        accumulated = (trainer.fit_loop.batch_idx + 1) % trainer.accumulate_grad_batches == 0
        return accumulated and trainer.global_step not in (0, self._last_step)

    def _write_last(self, trainer: Trainer) -> None:
        self._last_step = trainer.global_step
        self._unnamed = Path(str(self.dirpath)) / ".last.ckpt"
        trainer.save_checkpoint(self._unnamed)

    def _name(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        if self._unnamed:
            last = self._unnamed.with_name("last.ckpt")
            if trainer.is_global_zero:
                rename(self._unnamed, last)
            self.last_model_path = str(last)
            self._unnamed = None

    on_train_batch_start = _name


def validates_now(trainer: Trainer) -> bool:
    """Whether the batch that just ended is followed by validation."""
    return trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher)  # type: ignore[arg-type]


class WholeCheckpointIO(TorchCheckpointIO):
    """Write checkpoints by `write_checkpoint`: atomically, and none whose weights are not finite.

    Lightning writes to the temporary folder and copies from there; on another file system the copy may be cut short.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        write_checkpoint(checkpoint, path)
