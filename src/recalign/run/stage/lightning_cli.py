"""LightningCLI with a stage's settings beside model, data and trainer, in two steps: parse, then build."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal

from jsonargparse.typing import NonNegativeFloat, PositiveFloat, PositiveInt
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, ProgressBar, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy

from recalign.recommender.checkpoint import class_path, load_net
from recalign.recommender.training import PolicyModule
from recalign.run.stage.callbacks import NaNGuard, RunCheckpoint, StepSeeds, TrainingMonitor, WholeCheckpointIO
from recalign.run.stage.console import LineProgress
from recalign.run.stage.folder import RunConfig
from recalign.run.stage.parsed import ParsedStage
from recalign.run.stage.settings import CONFIG, VARIABLES, Parser, SettingsFile, constructing
from recalign.run.words import imported, listed

RANK_TIMEOUT = timedelta(seconds=300)
"""Timeout of collective calls: how long processes wait for one that is silent."""
_PARSER: list[LightningArgumentParser] = []


def stage_trainer(
    *,
    accelerator: Literal["auto", "cpu", "gpu", "cuda"] = "auto",
    strategy: Literal["auto", "ddp"] | DDPStrategy | ModelParallelStrategy | SingleDeviceStrategy = "auto",
    devices: list[int] | str | int = 1,
    num_nodes: PositiveInt = 1,
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    max_epochs: PositiveInt | Literal[-1] | None = None,
    max_steps: PositiveInt | Literal[-1] = -1,
    limit_train_batches: PositiveInt | PositiveFloat | None = None,
    check_val_every_n_epoch: PositiveInt | None = 1,
    log_every_n_steps: PositiveInt = 10,
    enable_model_summary: bool = False,
    accumulate_grad_batches: PositiveInt = 1,
    gradient_clip_val: NonNegativeFloat | None = None,
    **settings: Any,
) -> Trainer:
    """Lightning's Trainer, with narrower types for settings where a stage supports only some values.

    16-bit weights lose small updates, float16 overflows in the softmax over the catalogue (2^logit), and Lightning's
    double precision cannot convert a `Batch`. Other strategies hold no whole model in a process. ``overfit_batches``
    does not work with batches of several users, and ``fast_dev_run`` records nothing (`conf/trainer/debug.yaml`).
    """
    if strategy == "ddp":
        strategy = DDPStrategy(broadcast_buffers=False, timeout=RANK_TIMEOUT)  # no buffer changes in training
    typed = {name: value for name, value in locals().items() if name != "settings"}
    return Trainer(**typed, **settings, overfit_batches=0.0, barebones=False, fast_dev_run=False)


class EvaluatedPolicy(PolicyModule):
    """The policy of a checkpoint, without what it was trained from: its start and its reward model may be gone.

    Args:
        checkpoint: of any stage that trains a policy.
        top_k: items per user that `predict` writes.
    """

    takes_row_sharding = True

    def __init__(self, checkpoint: str, top_k: int = 10) -> None:
        loaded = load_net(checkpoint, "policy")
        super().__init__(loaded.net, 0.0, 0.0, top_k)
        self.loaded = loaded

    def setup(self, stage: str) -> None:
        self.loaded.check(self.data)


class StageCLI(LightningCLI):
    """LightningCLI that parses a stage's settings and, once they are parsed, builds the stage's objects.

    Args:
        args: command-line arguments, or all settings by nested key.
    """

    parser: Parser
    stage: ParsedStage
    callbacks: Sequence[Callback]

    def __init__(self, args: Sequence[str] | dict[str, Any]) -> None:
        super().__init__(
            LightningModule,
            LightningDataModule,
            trainer_class=stage_trainer,
            save_config_callback=None,  # the run folder has its own config.yaml
            trainer_defaults={},
            parser_kwargs={"parser_mode": "omegaconf+"},
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=args if isinstance(args, dict) else list(args),
            run=False,  # else a checkpoint's hyper-parameters, even its class, override the configured
        )

    @classmethod
    def parse(cls, words: Sequence[str]) -> tuple[dict[str, Any], frozenset[str]]:
        """All settings of a command, as plain values, and the environment variables that they name."""
        VARIABLES.clear()
        if _PARSER:
            _PARSER[0].prog = f"recalign {words[0]}"
        cli = cls(words[1:])
        cli.config.pop("config", None)
        # it has just been parsed, and JSON is read faster than YAML
        config = json.loads(cli.parser.dump(cli.config, format="json", skip_unset=False, skip_validation=True))
        return config, frozenset(VARIABLES)

    def setup_parser(self, *args: Any) -> None:
        """Make the parser once per process: adding all arguments takes as long as parsing."""
        if not _PARSER:
            super().setup_parser(*args)
            _PARSER.append(self.parser)
        self.parser = _PARSER[0]  # type: ignore[assignment]

    def init_parser(self, **kwargs: Any) -> Parser:
        parser = Parser(**kwargs)
        parser.add_argument("-c", "--config", action=SettingsFile, help=CONFIG)
        return parser

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--seed_everything", type=int, default=0, help="Random seed; it also names the run folder.")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(RunConfig, "run")
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.add_argument(
            "--early_stopping", type=EarlyStopping | None, help="Stop training when a metric no longer improves."
        )
        parser.add_argument(
            "--ckpt_path", type=str | None, help="Checkpoint to resume or evaluate: last, best or a file."
        )
        parser.add_argument(
            "--threads",
            type=PositiveInt | None,
            help="Torch threads; null: one per idle core, or as before if resumed.",
        )
        parser.link_arguments("data.num_items", "model.init_args.num_items", apply_on="instantiate")

    def parse_arguments(self, parser: Parser, args: Any) -> None:  # type: ignore[override]
        self.config = parser.parse_object(args) if isinstance(args, dict) else parser.read(args)

    def _set_seed(self) -> None:
        """Do nothing: `run_stage` seeds."""

    def instantiate_classes(self) -> None:
        """Do nothing yet: `build` does it."""

    @classmethod
    def build(
        cls, stage: ParsedStage, callbacks: Sequence[Callback]
    ) -> tuple[Trainer, LightningModule, LightningDataModule]:
        """Instantiate what a stage configures, with further callbacks.

        Raises:
            InputError: a constructor refuses a value.
        """
        config = copy.deepcopy(stage.config)
        if not stage.training and issubclass(imported(config["model"]["class_path"]), PolicyModule):
            arguments = {"checkpoint": str(stage.checkpoint), "top_k": config["model"]["init_args"]["top_k"]}
            config["model"] = {"class_path": class_path(EvaluatedPolicy), "init_args": arguments}
        cli = cls(config)
        cli.stage, cli.callbacks = stage, callbacks
        cli.config_dump = stage.config  # what LightningCLI records as hyper-parameters
        with constructing():
            LightningCLI.instantiate_classes(cli)
        return cli.trainer, cli.model, cli.datamodule

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        stage, config = self.stage, self.config_init["trainer"]
        self.config_init["checkpoint"].dirpath = str(stage.folder.checkpoints.resolve())
        callbacks = [NaNGuard(stage.folder.last), StepSeeds(stage.seed), TrainingMonitor(), *self.callbacks]
        drawn = any(isinstance(one, ProgressBar) for one in listed(config.callbacks))
        if config.enable_progress_bar is not False and not drawn:
            bar = RichProgressBar(console_kwargs={"stderr": True})
            callbacks.append(bar if sys.stderr.isatty() else LineProgress(stage.run.name))
        self.trainer_defaults["callbacks"] = [*callbacks, *listed(self.config_init["early_stopping"])]
        trainer = super().instantiate_trainer(
            logger=False,  # `recorded` adds them, when the run folder is ready for them
            default_root_dir=str(stage.folder.path),
            plugins=[*listed(config.plugins), WholeCheckpointIO()],
            **kwargs,
        )
        trainer.loggers = [logger for logger in listed(config.logger) if not isinstance(logger, bool)]
        # Lightning's `checkpoint_callback` is the first: it has to be the one whose file is handed over.
        trainer.callbacks.sort(key=lambda one: isinstance(one, Checkpoint) and not isinstance(one, RunCheckpoint))  # type: ignore[attr-defined]
        return trainer
