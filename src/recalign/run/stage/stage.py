"""``recalign fit asft ml-100k``: prepare, build, record and run a parsed stage, in this order."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback


@dataclass(frozen=True)
class FinishedRun:
    """A finished `fit`, as its run folder records it.

    Attributes:
        folder: its run folder.
        checkpoint: its result, for the next stage.
        seconds: training time.
        reads_reward_model: whether it was trained with a reward model.
    """

    folder: Path
    checkpoint: Path
    seconds: float
    reads_reward_model: bool


class RunnableStage(Protocol):
    """The steps of `run_stage`, which `recalign.run.stage.command.Stage` implements."""

    @property
    def verb(self) -> str:
        """``fit``, ``validate``, ``test`` or ``predict``."""

    @property
    def seed(self) -> int: ...

    def prepared(self) -> AbstractContextManager[None]:
        """Refuse what cannot run; inside the context, the run folder is locked, and errors name settings."""

    def build(self, callbacks: Sequence[Callback]) -> tuple[Trainer, LightningModule, LightningDataModule, Path | None]:
        """Make what the settings describe, and refuse what does not fit together.

        Args:
            callbacks: added to the configured ones, and not recorded.

        Returns:
            Trainer, model, data, and the checkpoint to load into them, or None.
        """

    def recorded(self, trainer: Trainer, data: LightningDataModule) -> AbstractContextManager[None]:
        """Write configuration, metrics and manifest to the run folder; the manifest records how the context ended."""

    def result(self) -> Path | None:
        """The best checkpoint of a `fit`; for other commands, the checkpoint that was loaded."""


@dataclass(frozen=True)
class StageResult:
    """A command that has run in this process: its objects, and the checkpoint (`RunnableStage.result`)."""

    checkpoint: Path | None
    trainer: Trainer
    model: LightningModule
    datamodule: LightningDataModule


def run_stage(stage: RunnableStage, *callbacks: Callback) -> StageResult:
    """Run ``recalign fit|validate|test|predict`` in this process.

    Args:
        stage: parsed.
        *callbacks: added to the configured ones, and not recorded.

    Raises:
        InputError: before training, for input that cannot be used.
        TrainingError: training cannot go on: the loss is NaN, for example, or another process is gone.
    """
    with stage.prepared():
        seed_everything(stage.seed, workers=True, verbose=False)
        trainer, model, data, checkpoint = stage.build(callbacks)
        with stage.recorded(trainer, data):
            options = {"return_predictions": False} if stage.verb == "predict" else {}  # written as they come
            run = getattr(trainer, stage.verb)
            run(model, datamodule=data, ckpt_path=checkpoint, weights_only=True, **options)
    return StageResult(stage.result(), trainer, model, data)
