"""Post-training: methods that move a cloned policy towards what users value."""

from recalign.posttrain.data import PostTrainingData
from recalign.posttrain.weighted import WeightedSFT

__all__ = ["PostTrainingData", "WeightedSFT"]
