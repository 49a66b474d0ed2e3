"""Encoders, losses and exact ranking in plain torch: no Lightning, no Polars, nothing else of recalign."""

from .encoder import Encoder, Recorded
from .hstu import HSTU
from .pooled import Pooled
from .sasrec import SASRec
from .softmax import log_prob, sampled_log_prob, weighted_nll
from .topk import ranks_from_scores, target_ranks, top_k, top_k_from_scores
from .unit import unit

__all__ = [
    "HSTU",
    "Encoder",
    "Pooled",
    "Recorded",
    "SASRec",
    "log_prob",
    "ranks_from_scores",
    "sampled_log_prob",
    "target_ranks",
    "top_k",
    "top_k_from_scores",
    "unit",
    "weighted_nll",
]
