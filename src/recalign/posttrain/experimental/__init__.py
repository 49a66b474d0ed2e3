"""Experimental post-training methods: they run from their YAML files, but are in no default chain."""

from recalign.posttrain.experimental.kto import KTO, KTOData
from recalign.posttrain.experimental.reinforce import Reinforce
from recalign.posttrain.experimental.values import AWAC, IQL

__all__ = ["AWAC", "IQL", "KTO", "KTOData", "Reinforce"]
