"""What every post-training method has: a policy to move, the policy it started from, and how far it has moved."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from torch import Tensor

from recalign.errors import InputError
from recalign.recommender.checkpoint import check_catalogue, load_net
from recalign.recommender.policy import Policy
from recalign.recommender.training import PolicyModule
from recalign.sequences import Batch

PROBE = 4  # histories a step on which the KL to the starting policy is watched


class PostTraining(PolicyModule):
    """Moves a policy from where a checkpoint left it. Subclasses write `training_step`.

    Logs ``policy/kl``, KL(pi || start) over the catalogue, on a few histories of every training batch.

    Args:
        init_from: checkpoint whose policy is the start; null in a configuration: the newest of this log.
        policy: a policy to start from instead of a checkpoint's (Python only).
        lr: AdamW's learning rate.
        weight_decay: AdamW's, on matrices only.
        top_k: items that `predict` writes for each user.
    """

    UPSTREAM: ClassVar[dict[str, str]] = {"init_from": "recommender"}

    def __init__(
        self, init_from: str | None, policy: Policy | None, lr: float, weight_decay: float, top_k: int
    ) -> None:
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
        self.start, self.catalogue = init_from, catalogue
        self.reference = copy.deepcopy(policy).eval().requires_grad_(False)

    def setup(self, stage: str) -> None:
        if self.start is not None:
            check_catalogue(self.catalogue, self.data.sequences.catalogue, self.start)

    def train(self, mode: bool = True) -> PostTraining:
        super().train(mode)
        self.reference.eval()  # the reference never drops units out
        return self

    def advantages(self, batch: Batch) -> Tensor:
        """How much better than expected each target turned out, NaN where it has no reward. Shape: (T,)."""
        if batch.advantage_T is None:
            raise TypeError(f"{type(self).__name__} needs advantages: use recalign.posttrain.PostTrainingData")
        return batch.advantage_T

    @torch.no_grad()
    def reference_log_probs(self, batch: Batch, items: Tensor) -> Tensor:
        """log pi_start of some items at each state. Shape: int64 (T, C) -> (T, C)."""
        return self.reference.log_probs(self.reference.encode(batch), items)

    @torch.no_grad()
    def drift(self, batch: Batch) -> Tensor:
        """Mean KL(pi || start) over the catalogue, on the first histories of a batch, a scalar."""
        probe, mode = batch.head(PROBE), self.policy.training
        self.policy.eval()
        logp_TV = self.policy.log_probs(self.policy.encode(probe))
        self.policy.train(mode)
        start_TV = self.reference.log_probs(self.reference.encode(probe))
        return (logp_TV.exp() * (logp_TV - start_TV)).sum(dim=1).mean()
