"""Encoders, losses and exact ranking in plain torch: no Lightning, no Polars, nothing else of recalign."""

from .attention import TiledAttention
from .encoder import Encoder, Rebuildable
from .hstu import HSTU, HSTULayer
from .layers import unit
from .onerec_decoder import LazyContext, LazyDecoder
from .onerec_trie import NodeLogits, Trie
from .pooled import Pooled
from .ranks import ranks_from_scores, target_ranks
from .sampled_softmax import sampled_log_prob
from .sasrec import SASRec
from .softmax import log_prob, weighted_nll
from .topk import top_k, top_k_from_scores
from .window import Window

HSTULayer.attention = TiledAttention()

__all__ = [
    "HSTU",
    "Encoder",
    "LazyContext",
    "LazyDecoder",
    "NodeLogits",
    "Pooled",
    "Rebuildable",
    "SASRec",
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
