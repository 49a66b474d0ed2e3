"""Encoders, losses and exact ranking in plain torch: no Lightning, no Polars, nothing else of recalign."""

from .encoder import Encoder, Rebuildable
from .hstu import HSTU
from .onerec_decoder import Decoder, LazyContext
from .onerec_encoder_decoder import EncoderDecoder
from .onerec_lazy_decoder import LazyDecoder
from .onerec_node_logits import AllCodes, NodeLogits, OwnVectors, SharedCodes
from .onerec_trie import Trie
from .pooled import Pooled
from .sasrec import SASRec
from .softmax import log_prob, sampled_log_prob, weighted_nll
from .topk import ranks_from_scores, target_ranks, top_k, top_k_from_scores
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
    "Rebuildable",
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
