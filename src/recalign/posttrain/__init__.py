"""Post-training: methods that move a cloned policy towards what users value."""

from recalign.posttrain.actions import GRPO, PPO
from recalign.posttrain.base import PostTraining
from recalign.posttrain.binary import GBPO, WBC
from recalign.posttrain.data import PostTrainingData
from recalign.posttrain.drift import drift
from recalign.posttrain.ipa import IPA
from recalign.posttrain.keep import KeepRanking
from recalign.posttrain.pairs import Preferences
from recalign.posttrain.pairs_data import PairData
from recalign.posttrain.placebo import PermutedPostTrainingData, ShuffledPostTrainingData
from recalign.posttrain.shown_data import ShownData
from recalign.posttrain.signed import SignedSFT
from recalign.posttrain.state_values import state_values
from recalign.posttrain.values import CQL
from recalign.posttrain.weighted import WeightedSFT

PostTraining.drift = drift
PostTraining.limiter = KeepRanking
PostTrainingData.state_values = state_values

__all__ = [
    "CQL",
    "GBPO",
    "GRPO",
    "IPA",
    "PPO",
    "WBC",
    "PairData",
    "PermutedPostTrainingData",
    "PostTrainingData",
    "Preferences",
    "ShownData",
    "ShuffledPostTrainingData",
    "SignedSFT",
    "WeightedSFT",
]
