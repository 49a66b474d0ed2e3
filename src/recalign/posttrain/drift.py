"""How far post-training has moved a policy: the KL to its start, and its entropy.

Shape suffixes: T targets of some histories of a batch, V items of the catalogue.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recalign.data.sequences import Batch
from recalign.distributed import all_gather_rows, row_counts
from recalign.posttrain.base import Metrics, PostTraining
from recalign.recommender.policy import chunks

KL_HISTORIES = 4  # histories per batch and process to measure on
KL_TARGETS = 32  # use about this many of their targets, evenly spaced


@torch.no_grad()
def drift(method: PostTraining, batch: Batch) -> Metrics:
    """Mean ``kl``, KL(pi || start), and mean ``entropy`` of pi, on some targets of each process's first histories."""
    probe = batch.head(KL_HISTORIES)
    position_T = torch.arange(len(probe.row_T), device=probe.row_T.device)
    probe = probe.keep(position_T % max(math.ceil(len(position_T) / KL_TARGETS), 1) == 0)
    policy, start = method.policy, method.reference
    mode = policy.training
    policy.eval()
    state, start_state = policy.encode(probe), start.encode(probe)
    most = max(row_counts(len(state), probe.row_T.device))  # all processes need the same number of calls
    parts = [
        kl_and_entropy(policy.log_probs(state[part]), start.log_probs(start_state[part]))
        for part in chunks(most, policy.num_items)
    ]
    policy.train(mode)
    kl_T, entropy_T = torch.cat(parts, dim=1)
    return {"kl": all_gather_rows(kl_T).mean(), "entropy": all_gather_rows(entropy_T).mean()}


def kl_and_entropy(logp_TV: Tensor, other_TV: Tensor) -> Tensor:
    """KL(pi || other) and the entropy of pi, in nats, from log-probabilities over the catalogue. Shape: -> (2, T)."""
    p_TV = logp_TV.exp()
    return torch.stack([(p_TV * (logp_TV - other_TV)).sum(dim=1), -(p_TV * logp_TV).sum(dim=1)])
