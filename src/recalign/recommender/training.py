"""Base LightningModules of all stages: optimise, validate, test, predict, hand over."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

import polars as pl
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter, Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torchmetrics import MeanMetric

from recalign.data.events import data_root, read_titles
from recalign.data.sequences import Batch, EventDataModule
from recalign.distributed import counts, gathered
from recalign.errors import InputError
from recalign.files import replacing
from recalign.ranges import NonNegative, Positive, check_ranges
from recalign.recommender.checkpoint import Loaded, class_path, readable, recipe
from recalign.recommender.policy import Policy
from recalign.recommender.rank_metrics import RankMetrics

RECOMMENDATIONS = "recommendations.parquet"
NLL_ITEMS = 100_000  # of a larger catalogue, validation computes ranks only: a likelihood takes half as long again


def adamw(module: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW with the betas of HSTU's research code; no decay of biases and one-column tables.

    Fused: for a table of a million items it takes a seventh of the plain kernel's time, and no temporary memory.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if _is_matrix(p)], "weight_decay": weight_decay},
        {"params": [p for p in trained if not _is_matrix(p)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=(0.9, 0.98), fused=True)
    # Fused optimisers claim to unscale float16 gradients, and Lightning then refuses to clip them.
    optimizer._step_supports_amp_scaling = False
    return optimizer


def _is_matrix(p: nn.Parameter) -> bool:
    return p.ndim > 1 and p.shape[-1] > 1


def logs_now(trainer: Trainer) -> bool:
    """Whether the current optimiser step is logged."""
    return (trainer.global_step + 1) % max(trainer.log_every_n_steps, 1) == 0  # type: ignore[attr-defined]


class StageModule(LightningModule):
    """A LightningModule whose checkpoints tell later stages how to rebuild its networks.

    Logs ``speed/events_per_second``: targets trained on over seconds of training, validation left out.

    Attributes:
        datamodule: the log, if it is known (`bind`).
    """

    UPSTREAM: ClassVar[dict[str, str]] = {}
    """Arguments that name another stage's checkpoint, and that stage."""
    saved_networks: tuple[str, ...] = ()
    """Names of the attributes that hold networks for later stages."""

    def __init__(self) -> None:
        super().__init__()
        self.events = 0  # trained on by all processes, repetitions counted
        self._epoch_began: tuple[float, int] | None = None  # time, events until then
        self.datamodule: EventDataModule | None = None

    @classmethod
    def check_settings(cls, given: Mapping[str, Any]) -> None:
        """Refuse constructor arguments outside their ranges (`recalign.ranges`).

        The command calls it before anything runs, so that a chain does not train four stages before the fifth fails;
        `prepare_data`, Lightning's first hook, calls it in Python.

        Raises:
            InputError: names the argument and its range.
        """
        check_ranges(cls, given, "model")

    def prepare_data(self) -> None:
        self.check_settings(self.hparams)

    def on_train_epoch_start(self) -> None:
        self._epoch_began = time.monotonic(), self.events

    def on_validation_start(self) -> None:
        self._paused = time.monotonic()

    def on_validation_end(self) -> None:
        if self._epoch_began is not None:
            self._epoch_began = self._epoch_began[0] + time.monotonic() - self._paused, self._epoch_began[1]

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if self._epoch_began is None:  # a run that is continued within an epoch starts none
            self._epoch_began = time.monotonic(), self.events
        self.events += sum(counts(len(batch.target_T), batch.target_T.device))

    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        if self.trainer.is_last_batch and self._epoch_began is not None:
            began, events = self._epoch_began
            self.log("speed/events_per_second", (self.events - events) / max(time.monotonic() - began, 1e-9))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def log_histogram(self, name: str, values: Tensor) -> None:
        """Log a distribution where a logger can show one: W&B and TensorBoard. NaN is left out.

        It reads the device, so a step calls it only where `logs_now` says so. Values may have any shape.
        """
        for logger in self.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_histogram(name, values[values.isfinite()], self.global_step)
            elif hasattr(logger, "log_histogram"):
                logger.log_histogram(name, values[values.isfinite()].float().cpu().numpy(), self.global_step)

    def bind(self, data: EventDataModule) -> Self:
        """Tell the module of its log: counts, moments, windows. A DataModule given to a Trainer does so itself.

        Without a log, a module trains on batches alone if it needs nothing else, and its checkpoint names no catalogue.
        """
        self.datamodule = data
        return self

    @property
    def data(self) -> EventDataModule:
        """The log.

        Raises:
            InputError: nobody told (`bind`).
        """
        if self.datamodule is None:
            what, remedy = "needs the log, not only batches", "call module.bind(data), or fit it with datamodule=data"
            raise InputError(f"{type(self).__name__} {what}", where="Trainer", remedy=remedy)
        return self.datamodule

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"datamodule": None}  # copies, such as averages, are without it

    def facts(self) -> dict[str, Any]:
        """Plain values for later stages, stored beside the weights."""
        return {"events": self.events} | (self.datamodule.facts() if self.datamodule else {})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.events = checkpoint["facts"]["events"]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Networks become plain values, so that the checkpoint can be read with weights_only. An upstream checkpoint
        # that was not named (its network was given in Python) is left out, or --ckpt_path would compare it.
        given = checkpoint.get("hyper_parameters", {})
        kept = {k: v for k, v in given.items() if v is not None or k not in self.UPSTREAM}
        values = {k: readable(v) for k, v in kept.items()}
        own: dict[str, Any] = {"_class_path": class_path(type(self))}
        if self.datamodule:
            own["num_items"] = self.datamodule.num_items
            checkpoint["catalogue"] = self.datamodule.sequences.catalogue
            checkpoint["users"] = asdict(self.datamodule.cohort)
        checkpoint["hyper_parameters"] = own | values
        checkpoint["recipes"] = {name: recipe(getattr(self, name)) for name in self.saved_networks}
        checkpoint["facts"] = self.facts()

    def hand_over(self, name: str) -> Loaded:
        """The ``policy`` or ``reward`` that a later stage would load from this module's checkpoint.

        The network is not copied here; the stage that takes it does.
        """
        checkpoint: dict[str, Any] = {}
        self.on_save_checkpoint(checkpoint)
        return Loaded.from_checkpoint(getattr(self, name), checkpoint, f"the {name} given")


class PolicyModule(StageModule):
    """Train ``self.policy`` in place; subclasses write `training_step`.

    Logs ``rank/{all,high}/{hr@10,ndcg@10,mrr}`` on validation and ``rank/test/...`` on the test events, over the full
    catalogue without the items that the user had met; and ``rank/nll``, mean -log pi of the targets, over the full
    catalogue, if that has at most `NLL_ITEMS` items.
    """

    saved_networks = ("policy",)

    def __init__(
        self, policy: Policy, lr: NonNegative[float], weight_decay: NonNegative[float], top_k: Positive[int]
    ) -> None:
        super().__init__()
        self.policy = policy
        self.lr, self.weight_decay, self.top_k = lr, weight_decay, top_k
        self.rank_all, self.rank_high, self.nll = RankMetrics(ks=(10,)), RankMetrics(ks=(10,)), MeanMetric()

    def prepare_data(self) -> None:
        self.check_settings({**self.hparams, "top_k": self.top_k})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adamw(self.policy, self.lr, self.weight_decay)

    def visible(self, batch: Batch) -> Batch:
        """The batch without the rewards that this module may not see."""
        return batch

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        batch = self.visible(batch)
        state = self.policy.encode(batch)
        rank_T = self.policy.ranks(state, batch.target_T, batch.seen_N)
        self.rank_all.update(rank_T)
        self.rank_high.update(rank_T[batch.high_T])
        if self.policy.num_items <= NLL_ITEMS:
            logp_T = self.policy.log_prob(state, batch.target_T.clamp(min=1))
            self.nll.update(-logp_T, weight=(batch.target_T > 0).to(logp_T))

    def on_validation_epoch_end(self) -> None:
        self._log_ranks("rank")

    def on_test_epoch_end(self) -> None:
        self._log_ranks("rank/test")

    def _log_ranks(self, prefix: str) -> None:
        for name, metric in (("all", self.rank_all), ("high", self.rank_high)):
            values = {k: v for k, v in metric.compute().items() if not v.isnan()}
            self.log_dict({f"{prefix}/{name}/{k}": v for k, v in values.items()}, sync_dist=True)
            metric.reset()
        if self.policy.num_items <= NLL_ITEMS:
            self.log(f"{prefix}/nll", self.nll.compute(), sync_dist=True)
            self.nll.reset()

    def configure_callbacks(self) -> list[Callback]:
        return [RecommendationsWriter()]

    def predict_step(self, batch: Batch, batch_idx: int) -> tuple[Tensor, Tensor, Tensor]:
        """Each target's user, and the scores and items of its best unseen ones. Shape: (T,), (T, K), (T, K)."""
        k = min(self.top_k, self.policy.num_items)
        score_TK, item_TK = self.policy.top_k(self.policy.encode(batch), k, batch.seen_N)
        return batch.user_B[batch.row_T], score_TK, item_TK


class RecommendationsWriter(BasePredictionWriter):
    """Write what `PolicyModule.predict_step` finds as ``recommendations.parquet`` into ``default_root_dir``.

    Without a log (`StageModule.bind`), nobody knows the raw ids, and nothing is written.
    """

    def __init__(self) -> None:
        super().__init__(write_interval="epoch")

    def write_on_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, predictions: Sequence[Any], batch_indices: Sequence[Any]
    ) -> None:
        assert isinstance(pl_module, PolicyModule)
        if pl_module.datamodule is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        columns = (torch.cat(parts).to(pl_module.device) for parts in zip(*predictions, strict=True))
        user_T, score_TK, item_TK = (gathered(column).cpu() for column in columns)
        if not trainer.is_global_zero:
            return
        frame = recommendations(user_T, score_TK, item_TK, pl_module.datamodule)
        path = Path(trainer.default_root_dir) / RECOMMENDATIONS
        write_parquet(frame, path)
        print(f"recommendations for {frame['user'].n_unique():,} users: {path}")


def recommendations(
    user_T: Tensor, score_TK: Tensor, item_TK: Tensor, data: EventDataModule, items: pl.Series | None = None
) -> pl.DataFrame:
    """A table of recommendations, one row a user and rank.

    Columns: ``user`` (raw id), ``rank`` (1 = best), ``item`` (raw id), ``score`` (log-probability up to a constant),
    and ``title`` if the log has titles. ``items`` are the raw ids of the items; None: the catalogue's.

    Raises:
        InputError: a user has no item, and has not met them all: the scores are NaN, which `top_k` leaves out.
    """
    _require_items(user_T[item_TK[:, 0] == 0], data)
    columns = {
        "user": user_T[:, None].expand_as(item_TK),
        "rank": torch.arange(1, item_TK.shape[1] + 1).expand_as(item_TK),
        "item": item_TK,
        "score": score_TK.float(),
    }
    flat = pl.DataFrame({name: column.flatten().numpy() for name, column in columns.items()})
    flat = flat.filter(pl.col("item") > 0).sort("user", maintain_order=True)
    item = flat["item"] - 1
    titles = data.titles if items is None else read_titles(data.log_, data_root(data.root), items)[0]
    title = [titles.gather(item).alias("title")] if data.log_.items and data.log_.items.title else []
    items = data.sequences.items if items is None else items
    user = data.sequences.users.gather(flat["user"]).alias("user")
    return flat.with_columns(user, items.gather(item).alias("item"), *title)


def _require_items(without_T: Tensor, data: EventDataModule) -> None:
    users = without_T.unique().tolist()
    met = data.sequences.frame.lazy().filter(pl.col("user").is_in(users)).group_by("user").agg(pl.n_unique("item"))
    if users and (lost := (met.collect()["item"] < data.num_items).sum()):
        text = f"the scores of all items are NaN for {lost:,} users"
        remedy = "predict in fp32 (--trainer.precision 32), or with another checkpoint"
        raise InputError(text, where="trainer.precision", remedy=remedy)


def write_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Write a table whole or not at all."""
    with replacing(path) as temporary:
        frame.write_parquet(temporary)
