"""Post-training: methods that move a cloned policy towards what users value."""

from recalign.posttrain.data import PostTrainingData
from recalign.posttrain.grpo import GRPO
from recalign.posttrain.pairs import KTO, Preferences
from recalign.posttrain.pairs_data import PairData
from recalign.posttrain.ppo import PPO
from recalign.posttrain.values import CQL, IQL
from recalign.posttrain.weighted import WeightedSFT

__all__ = ["CQL", "GRPO", "IQL", "KTO", "PPO", "PairData", "PostTrainingData", "Preferences", "WeightedSFT"]
