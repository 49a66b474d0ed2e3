"""An item prior: log counts of the items, scaled by one number.

    log pi(v | h) = s_v(h) + c log(n_v + 1/2) - log sum_u exp(s_u(h) + c log(n_u + 1/2))

n_v counts the training events of item v, c is the prior's strength. A policy trained on few events, or with dropout,
shrinks the logits of common items towards those of rare ones; held-out events favour undoing some of that. Adding a
multiple of the log prior to the logits: Menon et al., Long-tail learning via logit adjustment, arXiv 2007.07314 (there
to favour rare classes).

Serving, ranking, evaluation and comparison use the prior. **Post-training learns without it**: with it, sampled items
are more popular than logged ones, and a loss that contrasts the two would undo the prior, whatever the rewards are
(docs/methods.md, which policy where).

Shape suffixes: T states, V items of the catalogue, N items to score, D width, X width with the prior's columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recalign.recommender.policy import Policy

ALIGNED = 8  # matrix products are fast if widths are a multiple of it


class ItemPrior(nn.Module):
    """Add c log(n_v + 1/2) as a further column of a dot product. Nothing here is trained, averaged or interpolated.

    Attributes:
        log_count_V: log(n_v + 1/2) minus its maximum: small logits lose less in bfloat16. Zeros before `set_counts`.
        strength: c; 0: vectors stay bit-identical. A Python float, so that no step synchronises with the device.
    """

    PRIOR_STATE = ("log_count_V", "_extra_state")
    """Names in the state_dict that belong to the prior (`recalign.recommender.checkpoint.prior_names`)."""
    log_count_V: Tensor

    def __init__(self, num_items: int) -> None:
        super().__init__()
        self.register_buffer("log_count_V", torch.zeros(num_items))
        self.strength = self.spread = 0.0

    def set_counts(self, count_V: Tensor) -> None:
        """Set the number of training events of each item. Shape: (V,)."""
        log_count_V = (count_V.double() + 0.5).log()
        self.log_count_V.copy_(log_count_V - log_count_V.max())
        self.spread = float(log_count_V.max() - log_count_V.min())

    def bound(self, scale: float) -> float:
        """Upper bound of what the prior adds to a dot product that is multiplied by ``scale``."""
        return abs(self.strength) * self.spread / scale

    def augment_queries(self, query_TD: Tensor) -> Tensor:
        """Widen queries: their products with items of `augment_items` include the prior. Shape: -> (T, X)."""
        zeros = ALIGNED - 1 - query_TD.shape[1] % ALIGNED
        return F.pad(F.pad(query_TD, (0, 1), value=1.0), (0, zeros)) if self.strength else query_TD

    def augment_items(self, item_ND: Tensor, scale: float, rows: slice | Tensor) -> Tensor:
        """Widen the items in some rows of the catalogue; ``scale``: factor on the dot products. Shape: -> (N, X)."""
        if not self.strength:
            return item_ND
        zeros = ALIGNED - 1 - item_ND.shape[1] % ALIGNED
        prior_N1 = (self.strength / scale * self.log_count_V[rows])[:, None]
        return torch.cat([item_ND, prior_N1, prior_N1.new_zeros(len(prior_N1), zeros)], dim=1)

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.strength, self.spread], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        self.strength, self.spread = state.tolist()


@contextmanager
def training_pass(*policies: Policy) -> Iterator[None]:
    """Context of a training step's forward passes: no item prior, no memory, no cold items in the softmax.

    (No training event says whether users would have chosen a cold item.) Strengths of priors are restored after it.
    Nested contexts join the outer one.
    """
    begun = [policy for policy in policies if not policy.in_training_pass]
    strengths = [policy.prior_strength for policy in begun]
    try:
        for policy in begun:
            policy.prior_strength = 0.0
            policy.in_training_pass = True
            policy.begin_step()
        yield
    finally:
        for policy, strength in zip(begun, strengths, strict=True):
            policy.prior_strength = strength
            policy.in_training_pass = False
            policy.end_step()
