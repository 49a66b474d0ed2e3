"""What every post-training method has: a policy to move, the policy it started from, and how far it has moved."""

from __future__ import annotations

import copy
import math
from typing import ClassVar

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from recalign.errors import InputError
from recalign.posttrain.data import PostTrainingData
from recalign.posttrain.keep import KeepRanking
from recalign.recommender.checkpoint import check_catalogue, load_net
from recalign.recommender.interpolation import require_share
from recalign.recommender.policy import Policy, rows_at_once
from recalign.recommender.training import PolicyModule
from recalign.sequences import Batch, EventDataModule

PROBE = 4  # histories of a batch on which the KL to the starting policy is watched
STATES = 32  # of their targets, evenly spread, or a few less


class PostTraining(PolicyModule):
    """Moves a policy from where a checkpoint left it. Subclasses write `training_step`.

    Logs ``policy/kl``, KL(pi || start) over the catalogue, on a few histories of every batch whose step is logged.

    A method that compares pi with the starting policy or with itself as it was sets ``drops_out`` to False: a ratio of
    two passes that drop out different units is not 1 even where nothing has moved.

    Args:
        init_from: checkpoint whose policy is the start; null in a configuration: the newest of this log.
        policy: a policy to start from instead of a checkpoint's (Python only).
        lr: AdamW's learning rate.
        weight_decay: AdamW's, on matrices only.
        top_k: items that `predict` writes for each user.
        keep: share of the start's ``all/ndcg@10`` on validation that what is handed over keeps (`KeepRanking`); None:
            training's last weights are handed over, whatever they keep.
    """

    UPSTREAM: ClassVar[dict[str, str]] = {"init_from": "recommender"}
    LEARNS_FROM: ClassVar[type[EventDataModule]] = PostTrainingData
    """What its data has to be."""
    drops_out = True
    """Whether the policy's dropout is on in training."""

    def __init__(
        self,
        init_from: str | None,
        policy: Policy | None,
        lr: float,
        weight_decay: float,
        top_k: int,
        keep: float | None = None,
    ) -> None:
        require_share(keep, "model.keep")
        catalogue = None
        if policy is None:
            if init_from is None:
                raise InputError(
                    "post-training needs a policy to start from",
                    where="model.init_from",
                    remedy="name a checkpoint, or run first: recalign fit --config conf/recommender.yaml",
                )
            loaded = load_net(init_from, "policy")
            policy, catalogue = loaded.net, loaded.catalogue
        super().__init__(policy, lr, weight_decay, top_k)
        self.start, self.catalogue, self.keep = init_from, catalogue, keep
        self.reference = copy.deepcopy(policy).eval().requires_grad_(False)
        self.policy.train(self.drops_out)  # the Trainer leaves the mode as it finds it

    def configure_callbacks(self) -> list[Callback]:
        return [] if self.keep is None else [KeepRanking(self.keep)]

    def setup(self, stage: str) -> None:
        if stage == "fit" and not isinstance(self.data, self.LEARNS_FROM):
            needed = f"{self.LEARNS_FROM.__module__.rpartition('.')[0]}.{self.LEARNS_FROM.__name__}"
            raise InputError(
                f"{type(self).__name__} cannot learn from {type(self.data).__name__}",
                where="data.class_path",
                remedy=f"give {needed}, as the method's YAML does",
            )
        if self.start is not None:
            check_catalogue(self.catalogue, self.data.sequences.catalogue, self.start)

    def train(self, mode: bool = True) -> PostTraining:
        super().train(mode)
        self.policy.train(mode and self.drops_out)
        self.reference.eval()  # the reference never drops units out
        return self

    def advantages(self, batch: Batch) -> Tensor:
        """How much better than expected each target turned out, NaN where it has no reward. Shape: (T,)."""
        assert batch.advantage_T is not None
        return batch.advantage_T

    @torch.no_grad()
    def reference_log_probs(self, batch: Batch, items: Tensor) -> Tensor:
        """log pi_start of some items at each state. Shape: int64 (T, C) -> (T, C)."""
        return self.reference.log_probs(self.reference.encode(batch), items)

    def idle(self, batch: Batch) -> Tensor:
        """The loss of a batch without an event that counts, a scalar: 0, with gradients of 0."""
        return 0.0 * self.policy.encode(batch).sum()

    def log_drift(self, batch: Batch) -> None:
        """Log ``policy/kl`` if this step's figures are written."""
        every = max(self.trainer.log_every_n_steps, 1)  # type: ignore[attr-defined]
        if (self.trainer.global_step + 1) % every == 0:
            self.log("policy/kl", self.drift(batch))

    @torch.no_grad()
    def drift(self, batch: Batch) -> Tensor:
        """Mean KL(pi || start) over the catalogue, on some targets of the first histories of a batch, a scalar."""
        probe, mode, rows = _probe(batch), self.policy.training, rows_at_once(self.policy.num_items)
        self.policy.eval()
        states = zip(self.policy.encode(probe).split(rows), self.reference.encode(probe).split(rows), strict=True)
        kl_T = torch.cat([_kl(self.policy.log_probs(now), self.reference.log_probs(start)) for now, start in states])
        self.policy.train(mode)
        return kl_T.mean()


def _probe(batch: Batch) -> Batch:
    few = batch.head(PROBE)
    position_T = torch.arange(len(few.row_T), device=few.row_T.device)
    return few.keep(position_T % math.ceil(len(position_T) / STATES) == 0)


def _kl(logp_TV: Tensor, start_TV: Tensor) -> Tensor:
    return (logp_TV.exp() * (logp_TV - start_TV)).sum(dim=1)
