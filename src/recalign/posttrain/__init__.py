"""Post-training: methods that move a cloned policy towards what users value."""

from recalign.posttrain.actions import GRPO, PPO
from recalign.posttrain.binary import WBC
from recalign.posttrain.bounded import GBPO
from recalign.posttrain.data import PostTrainingData
from recalign.posttrain.ipa import IPA
from recalign.posttrain.pairs import KTO, Preferences
from recalign.posttrain.pairs_data import PairData
from recalign.posttrain.reinforce import Reinforce
from recalign.posttrain.values import AWAC, CQL, IQL
from recalign.posttrain.weighted import WeightedSFT

__all__ = [
    "AWAC",
    "CQL",
    "GBPO",
    "GRPO",
    "IPA",
    "IQL",
    "KTO",
    "PPO",
    "WBC",
    "PairData",
    "PostTrainingData",
    "Preferences",
    "Reinforce",
    "WeightedSFT",
]
