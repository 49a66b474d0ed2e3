"""What every post-training method shares: a policy to move, its frozen start, and how far it has moved."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from recalign.errors import InputError, require_positive
from recalign.posttrain.data import PostTrainingData
from recalign.posttrain.keep import KeepRanking
from recalign.processes import gathered
from recalign.recommender.checkpoint import Loaded, class_path, load_or_copy
from recalign.recommender.interpolation import KEEP, require_share
from recalign.recommender.policy import Policy
from recalign.recommender.prior import without_prior
from recalign.recommender.training import PolicyModule, logs_now
from recalign.sequences import Batch, EventDataModule

Figures = dict[str, Tensor]
"""Scalars to log, by name."""
PROBE = 4  # histories of a batch on which the KL to the start is measured,
STATES = 32  # at about this many of their targets, evenly spaced


class PostTraining(PolicyModule):
    """Fine-tune a copy of a trained policy. Subclasses write `loss`.

    Logs ``train/loss``; the figures of `loss`, as ``<FIGURES>/<name>``; and ``policy/kl``, KL(pi || start), and
    ``policy/entropy``, that of pi in nats, both over the catalogue, on a few histories of each batch whose step is
    logged.

    Methods that compare pi with the start, or with itself as it was, set ``drops_out`` to False: under dropout the
    ratio of two passes is not 1 even before the first step.

    Args:
        init_from: checkpoint of the starting policy; null in a configuration: that of this log and seed.
        policy: the starting policy itself, instead of a checkpoint (Python only); copied.
        lr: AdamW's learning rate.
        weight_decay: AdamW's, on matrices only.
        top_k: items a user that `predict` writes.
        keep: share of the start's ``all/ndcg@10`` on validation that the checkpoint must keep (`KeepRanking`); null:
            the checkpoint holds the last weights, whatever they keep.
    """

    UPSTREAM: ClassVar[dict[str, str]] = {"init_from": "recommender"}
    MAX_EPOCHS: ClassVar[int | None] = 5
    """Epochs where ``trainer.max_epochs`` is null: the same for every method."""
    LEARNS_FROM: ClassVar[type[EventDataModule]] = PostTrainingData
    """The DataModule that it needs."""
    FIGURES: ClassVar[str]
    """Prefix of what `loss` gives to log."""
    drops_out = True
    """Whether the policy's dropout is on in training."""

    def __init__(
        self,
        init_from: str | None = None,
        policy: Policy | Loaded | None = None,
        lr: float = 3e-5,
        weight_decay: float = 0.3,
        top_k: int = 10,
        keep: float | None = KEEP,
    ) -> None:
        require_share(keep, "model.keep")
        start = load_or_copy(init_from, policy, "policy", where="model.init_from", needed_by="post-training")
        super().__init__(start.net, lr, weight_decay, top_k)
        self.save_hyperparameters(logger=False, ignore=["top_k", "policy", "reward_net"])
        self.start, self.keep = start, keep
        self.reference = copy.deepcopy(self.policy).eval().requires_grad_(False)
        self.policy.train(self.drops_out)  # the Trainer leaves the mode as it is

    @classmethod
    def check_settings(cls, given: Mapping[str, Any]) -> None:
        super().check_settings(given)
        require_positive("model", given, "clip", "samples", "candidates", "refresh", "early", "k", "cap")

    def configure_callbacks(self) -> list[Callback]:
        return [] if self.keep is None else [KeepRanking(self.keep)]

    def setup(self, stage: str) -> None:
        if stage == "fit" and not isinstance(self.data, self.LEARNS_FROM):
            raise InputError(
                f"{type(self).__name__} cannot learn from {type(self.data).__name__}",
                where="data.class_path",
                remedy=f"give {class_path(self.LEARNS_FROM)}, as the method's YAML does",
            )
        self.start.check(self.data)

    def train(self, mode: bool = True) -> PostTraining:
        super().train(mode)
        self.policy.train(mode and self.drops_out)
        self.reference.eval()
        return self

    def loss(self, batch: Batch) -> tuple[Tensor, Figures] | None:
        """The loss, a scalar, and figures to log: scalars, or all values of a histogram; None: no event counts."""
        raise NotImplementedError

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if logs_now(self.trainer):
            self.log_dict({f"policy/{name}": figure for name, figure in self.drift(batch).items()})
        with self.as_cloned():
            found = self.loss(batch)
        if found is None:
            trained = (weight for weight in self.parameters() if weight.requires_grad)
            return torch.stack([0.0 * weight.sum() for weight in trained]).sum()
        loss, figures = found
        self.log("train/loss", loss, batch_size=len(batch.target_T))
        for name, figure in figures.items():
            if not torch.is_tensor(figure) or not figure.dim():
                self.log(f"{self.FIGURES}/{name}", figure)
            elif logs_now(self.trainer):
                self.log_histogram(f"{self.FIGURES}/{name}", figure)
        return loss

    def as_cloned(self) -> AbstractContextManager[None]:
        """Both policies without their item prior, as the start was when its cloning ended.

        Training events ask for no prior, only held-out ones do: with it, a loss on training events would first undo it.
        """
        return without_prior(self.policy, self.reference)

    def advantages(self, batch: Batch) -> Tensor:
        """How much better than expected each target turned out, NaN where it has no reward. Shape: (T,)."""
        assert batch.advantage_T is not None
        return batch.advantage_T

    @torch.no_grad()
    def reference_log_probs(self, batch: Batch, items: Tensor) -> Tensor:
        """log pi_start of some items at each state. Shape: int64 (T, C) -> (T, C)."""
        return self.reference.log_probs(self.reference.encode(batch), items)

    @torch.no_grad()
    def drift(self, batch: Batch) -> Figures:
        """How far the policy has moved: ``kl``, mean KL(pi || start), and ``entropy``, mean of pi's over the catalogue.

        Both on some targets of each process's first histories.
        """
        probe = batch.head(PROBE)
        position_T = torch.arange(len(probe.row_T), device=probe.row_T.device)
        probe = probe.keep(position_T % max(math.ceil(len(position_T) / STATES), 1) == 0)
        mode = self.policy.training
        self.policy.eval()
        start = self.reference.encode(probe)
        kl_T, entropy_T = self.policy.kl_and_entropy(self.policy.encode(probe), self.reference, start)
        self.policy.train(mode)
        return {"kl": gathered(kl_T).mean(), "entropy": gathered(entropy_T).mean()}
