"""Encoders, losses and exact ranking in plain torch: no Lightning, no Polars, nothing else of recalign."""

from .decoder import Decoder, LazyContext
from .encoder import Encoder, Recorded
from .encoder_decoder import EncoderDecoder
from .hstu import HSTU
from .lazy_decoder import LazyDecoder
from .node_logits import AllCodes, NodeLogits, OwnVectors, SharedCodes
from .pooled import Pooled
from .sasrec import SASRec
from .softmax import log_prob, sampled_log_prob, weighted_nll
from .topk import ranks_from_scores, target_ranks, top_k, top_k_from_scores
from .trie import Trie
from .unit import unit
from .window import Window

__all__ = [
    "HSTU",
    "AllCodes",
    "Decoder",
    "Encoder",
    "EncoderDecoder",
    "LazyContext",
    "LazyDecoder",
    "NodeLogits",
    "OwnVectors",
    "Pooled",
    "Recorded",
    "SASRec",
    "SharedCodes",
    "Trie",
    "Window",
    "log_prob",
    "ranks_from_scores",
    "sampled_log_prob",
    "target_ranks",
    "top_k",
    "top_k_from_scores",
    "unit",
    "weighted_nll",
]
