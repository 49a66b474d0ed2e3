"""``recalign fit asft ml-100k``: prepare, build, record and run a parsed stage, in this order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback


@dataclass(frozen=True)
class TrainedStage:
    """A stage that has run.

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


@dataclass(frozen=True)
class AbstractStage(ABC):
    """A stage whose command was parsed (`recalign.run.stage.parse_stage`).

    Attributes:
        words: the command line after ``recalign`` that runs it alone.
        config: every setting, by nested key.
    """

    words: list[str]
    config: dict[str, Any]

    @property
    def subcommand(self) -> str:
        """``fit``, ``validate``, ``test`` or ``predict``."""
        return self.words[0]

    @property
    def seed(self) -> int:
        return self.config["seed_everything"]

    @abstractmethod
    def prepared(self) -> AbstractContextManager[None]:
        """Refuse what cannot run; inside the context, the run folder is locked, and errors name settings."""

    @abstractmethod
    def build(self, callbacks: Sequence[Callback]) -> tuple[Trainer, LightningModule, LightningDataModule, Path | None]:
        """Make what the settings describe, and refuse what does not fit together.

        Args:
            callbacks: added to the configured ones, and not recorded.

        Returns:
            Trainer, model, data, and the checkpoint to load into them, or None.
        """

    @abstractmethod
    def recorded(self, trainer: Trainer, data: LightningDataModule) -> AbstractContextManager[None]:
        """Write configuration, metrics and manifest to the run folder; the manifest records how the context ended."""

    @abstractmethod
    def result(self) -> Path | None:
        """The best checkpoint of a `fit`; for other commands, the checkpoint that was loaded."""


@dataclass(frozen=True)
class StageResult:
    """A stage that has run in this process: its objects, and the checkpoint (`AbstractStage.result`)."""

    checkpoint: Path | None
    trainer: Trainer
    model: LightningModule
    datamodule: LightningDataModule


def run_stage(stage: AbstractStage, *callbacks: Callback) -> StageResult:
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
            more = {"return_predictions": False} if stage.subcommand == "predict" else {}  # written as they come
            run = getattr(trainer, stage.subcommand)
            run(model, datamodule=data, ckpt_path=checkpoint, weights_only=True, **more)
    return StageResult(stage.result(), trainer, model, data)
