"""Post-training: methods that move a cloned policy towards what users value."""

from recalign.posttrain.data import PostTrainingData
from recalign.posttrain.pairs import KTO, Preferences
from recalign.posttrain.pairs_data import PairData
from recalign.posttrain.weighted import WeightedSFT

__all__ = ["KTO", "PairData", "PostTrainingData", "Preferences", "WeightedSFT"]
