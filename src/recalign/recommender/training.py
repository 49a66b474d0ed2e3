"""Base LightningModules of all stages: optimise, validate, test, predict, save networks for later stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, ClassVar, Self

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torchmetrics import MeanMetric

from recalign.data.sequences import Batch, EventDataModule
from recalign.distributed import row_counts
from recalign.errors import InputError, NonNegative, Positive, check_ranges
from recalign.recommender.checkpoint import Loaded, class_path, readable, recipe
from recalign.recommender.policy import Policy
from recalign.recommender.rank_metrics import RankMetrics

NLL_ITEMS = 100_000  # for larger catalogues, validation skips the NLL, which would take half as long again


def adamw(module: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW with the betas of HSTU's research code; no weight decay on vectors and one-column matrices.

    Fused: for a table of a million items it takes a seventh of the plain kernel's time, and no temporary memory.
    """
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    decayed = [weight for weight in trained if weight.ndim > 1 and weight.shape[-1] > 1]
    others = [weight for weight in trained if weight.ndim < 2 or weight.shape[-1] < 2]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=(0.9, 0.98), fused=True)
    # Fused optimisers claim to unscale float16 gradients, and Lightning then refuses to clip them.
    optimizer._step_supports_amp_scaling = False
    return optimizer


def logs_now(trainer: Trainer) -> bool:
    """Whether the current optimiser step is logged."""
    return (trainer.global_step + 1) % max(trainer.log_every_n_steps, 1) == 0  # type: ignore[attr-defined]


class StageModule(LightningModule):
    """A LightningModule whose checkpoints tell later stages how to rebuild its networks.

    Attributes:
        datamodule: the log; None before `bind`.
        events: training targets so far, over all processes and epochs.
    """

    UPSTREAM: ClassVar[dict[str, str]] = {}
    """Argument that names another stage's checkpoint -> that stage."""
    saved_networks: tuple[str, ...] = ()
    """Names of the attributes that hold networks for later stages."""

    def __init__(self) -> None:
        super().__init__()
        self.events = 0
        self.datamodule: EventDataModule | None = None

    @classmethod
    def check_settings(cls, given: Mapping[str, Any]) -> None:
        """Refuse constructor arguments outside their ranges (`recalign.errors`) with an InputError.

        The command calls it before anything runs; `prepare_data`, Lightning's first hook, calls it in Python.
        """
        check_ranges(cls, given, "model")

    def prepare_data(self) -> None:
        self.check_settings(self.hparams)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.events += sum(row_counts(len(batch.target_T), batch.target_T.device))

    def test_step(self, batch: Batch, batch_idx: int) -> Any:
        return self.validation_step(batch, batch_idx)

    def log_histogram(self, name: str, values: Tensor) -> None:
        """Log the finite values to loggers with histograms. It synchronises: call it only if `logs_now`."""
        for logger in self.loggers:
            if hasattr(logger, "log_histogram"):
                logger.log_histogram(name, values[values.isfinite()].float().cpu().numpy(), self.global_step)

    def bind(self, data: EventDataModule) -> Self:
        """Give the module its log, as passing a DataModule to a Trainer does. Without it, it sees only batches."""
        self.datamodule = data
        return self

    @property
    def data(self) -> EventDataModule:
        """The log; an InputError before `bind`."""
        if self.datamodule is None:
            what, remedy = "needs the log, not only batches", "call module.bind(data), or fit it with datamodule=data"
            raise InputError(f"{type(self).__name__} {what}", where="Trainer", remedy=remedy)
        return self.datamodule

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"datamodule": None}  # copies, such as averages, do not hold it

    def facts(self) -> dict[str, Any]:
        """Plain values for later stages, stored beside the weights."""
        return {"events": self.events} | (self.datamodule.facts() if self.datamodule else {})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.events = checkpoint["facts"]["events"]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Networks become plain values, which weights_only can load. An upstream checkpoint of None (the network was
        # given in Python) is left out, or --ckpt_path would compare it.
        given = checkpoint.get("hyper_parameters", {}).items()
        values = {k: readable(v) for k, v in given if v is not None or k not in self.UPSTREAM}
        own: dict[str, Any] = {"_class_path": class_path(type(self))}
        if self.datamodule:
            own["num_items"] = self.datamodule.num_items
            checkpoint["catalogue"] = self.datamodule.sequences.catalogue
            checkpoint["users"] = asdict(self.datamodule.cohort)
        checkpoint["hyper_parameters"] = own | values
        checkpoint["recipes"] = {name: recipe(getattr(self, name)) for name in self.saved_networks}
        checkpoint["facts"] = self.facts()

    def hand_over(self, name: str) -> Loaded:
        """The ``policy`` or ``reward`` that a later stage would load from this module's checkpoint; not copied."""
        checkpoint: dict[str, Any] = {}
        self.on_save_checkpoint(checkpoint)
        return Loaded.from_checkpoint(getattr(self, name), checkpoint, f"the {name} given")


class PolicyModule(StageModule):
    """Train ``self.policy`` in place; subclasses write `training_step`.

    Logs ``rank/{all,high}/{hr@10,ndcg@10,mrr}`` on validation and ``rank/test/...`` on test events, over the full
    catalogue without items that the user had seen; and ``rank/nll``, the mean -log pi of the targets in the catalogue,
    if that has at most `NLL_ITEMS` items.
    """

    writer: ClassVar[Callable[[], Callback]]
    """Makes the callback that writes predictions; the package sets it to `RecommendationsWriter`."""
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

    def configure_callbacks(self) -> list[Callback]:
        return [type(self).writer()]

    def visible(self, batch: Batch) -> Batch:
        """The batch without the rewards that this module may not see."""
        return batch

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        batch = self.visible(batch)
        state = self.policy.encode(batch)
        rank_T = self.policy.ranks(state, batch.target_T, batch.unranked_N)
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

    def predict_step(self, batch: Batch, batch_idx: int) -> tuple[Tensor, Tensor, Tensor]:
        """Each target's user, and the scores and items of its best unseen ones. Shape: (T,), (T, K), (T, K)."""
        k = min(self.top_k, self.policy.num_items)
        score_TK, item_TK = self.policy.top_k(self.policy.encode(batch), k, batch.seen_N)
        return batch.user_B[batch.row_T], score_TK, item_TK
