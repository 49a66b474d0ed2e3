"""Base class of post-training methods: the trained policy, its frozen start, and the KL between them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from recalign.data.sequences import Batch, EventDataModule
from recalign.errors import InputError, PositiveUnit
from recalign.posttrain.data import PostTrainingData
from recalign.recommender.checkpoint import Loaded, class_path, load_or_copy
from recalign.recommender.policy import Policy
from recalign.recommender.prior import training_pass
from recalign.recommender.training import PolicyModule, logs_now

KEEP = 0.97
"""Default share of the start's NDCG@10 on validation to keep."""
Metrics = dict[str, Tensor]
"""What to log, by name: scalars, or all values of a histogram."""


class PostTraining(PolicyModule):
    """Fine-tune a copy of a trained policy. Subclasses write `loss`.

    Logs ``train/loss``; the metrics of `loss` as ``<LOG_PREFIX>/<name>``; and, in nats over the catalogue,
    ``policy/kl``, KL(pi || start), and ``policy/entropy``, measured on a few histories of the batch at logged steps.

    Methods that compare pi with the start, or with an earlier pi, set ``use_dropout`` to False: under dropout the ratio
    of two passes differs from 1 even before the first step.

    Args:
        init_from: checkpoint of the starting policy; null in a configuration: the one of this log and seed.
        policy: the starting policy itself, instead of a checkpoint (Python only); copied.
        lr: AdamW's learning rate.
        weight_decay: AdamW's, on matrices only.
        top_k: items per user that `predict` writes.
        keep: share of the start's ``all/ndcg@10`` on validation that the checkpoint must keep (`limiter`). The
            facts then hold its alpha (``reach``). Null: no limit; the checkpoint holds the trained weights.
    """

    UPSTREAM: ClassVar[dict[str, str]] = {"init_from": "recommender"}
    MAX_EPOCHS: ClassVar[int | None] = 5
    """Epochs if ``trainer.max_epochs`` is null, the same for every method."""
    LEARNS_FROM: ClassVar[type[EventDataModule]] = PostTrainingData
    """The DataModule class that the method needs."""
    limiter: ClassVar[type]
    """The callback that ensures ``keep`` by interpolating weights; the package sets `KeepRanking`."""
    drift: ClassVar[Callable[[PostTraining, Batch], Metrics]]
    """Distance of the policy from its start, to log; the package sets `recalign.posttrain.drift`."""
    LOG_PREFIX: ClassVar[str]
    """Prefix of the metrics that `loss` returns."""
    interpolation_alpha: float | None = None
    """Alpha of the checkpointed weights (`KeepRanking`); None: no search was run."""
    use_dropout = True
    """Whether the policy is trained with dropout."""

    def __init__(
        self,
        init_from: str | None = None,
        policy: Policy | Loaded | None = None,
        lr: float = 3e-5,
        weight_decay: float = 0.3,
        top_k: int = 10,
        keep: PositiveUnit | None = KEEP,
    ) -> None:
        start = load_or_copy(init_from, policy, "policy", where="model.init_from", needed_by="post-training")
        super().__init__(start.net, lr, weight_decay, top_k)
        self.save_hyperparameters(logger=False, ignore=["top_k", "policy", "reward_net"])
        self.start_metadata, self.keep = replace(start, net=None), keep
        self.reference = copy.deepcopy(self.policy).eval().requires_grad_(False)
        self.policy.train(self.use_dropout)  # the Trainer leaves the mode as it is

    def configure_callbacks(self) -> list[Callback]:
        return [*super().configure_callbacks(), *([] if self.keep is None else [self.limiter(self.keep)])]

    def facts(self) -> dict[str, Any]:
        return super().facts() | ({} if self.interpolation_alpha is None else {"reach": self.interpolation_alpha})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.interpolation_alpha = checkpoint["facts"].get("reach")

    def setup(self, stage: str) -> None:
        data = self.data
        if stage == "fit" and not isinstance(data, self.LEARNS_FROM):
            text = f"{type(self).__name__} cannot learn from {type(data).__name__}"
            remedy = f"give {class_path(self.LEARNS_FROM)}, as the method's YAML does"
            raise InputError(text, where="data.class_path", remedy=remedy)
        self.start_metadata.check(data)

    def train(self, mode: bool = True) -> PostTraining:
        super().train(mode)
        self.policy.train(mode and self.use_dropout)
        self.reference.eval()
        return self

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics] | None:
        """The loss, a scalar, and metrics to log: scalars, or all values of a histogram; None if no event counts."""
        raise NotImplementedError

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if logs_now(self.trainer):
            self.log_dict({f"policy/{name}": metric for name, metric in self.drift(batch).items()})
        with training_pass(*self.policies()):
            found = self.loss(batch)
        if found is None:
            # A zero loss that reaches all weights: other processes wait for their gradients.
            return torch.stack([0.0 * weight.sum() for weight in self.parameters() if weight.requires_grad]).sum()
        loss, metrics = found
        self.log("train/loss", loss, batch_size=len(batch.target_T))
        for name, metric in metrics.items():
            if not torch.is_tensor(metric) or not metric.dim():
                self.log(f"{self.LOG_PREFIX}/{name}", metric)
            elif logs_now(self.trainer):
                self.log_histogram(f"{self.LOG_PREFIX}/{name}", metric)
        return loss

    def policies(self) -> list[Policy]:
        """The policies of a training step, which runs without their item priors and memories (`training_pass`)."""
        return [self.policy, self.reference]

    def advantages(self, batch: Batch) -> Tensor:
        """Advantage of each target, NaN if it has no reward. Shape: (T,)."""
        assert batch.advantage_T is not None
        return batch.advantage_T

    @torch.no_grad()
    def reference_log_probs(self, batch: Batch, items: Tensor) -> Tensor:
        """log pi_start of items at each state. Shape: int64 (T, C) -> (T, C)."""
        return self.reference.log_probs(self.reference.encode(batch), items)

    def log_ratios(self, batch: Batch, items: Tensor, other: Policy) -> Tensor:
        """log pi - log other of items per state; no gradient flows through other. Shape: int64 (T, C) -> (T, C)."""
        with torch.no_grad():
            other_TC = other.log_probs(other.encode(batch), items)
        return self.policy.log_probs(self.policy.encode(batch), items) - other_TC
