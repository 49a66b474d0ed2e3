"""Reward models, judges, and the report on how far to trust them."""

from recalign.reward.data import RewardData
from recalign.reward.distribution_heads import OrdinalHead, QuantileHead
from recalign.reward.heads import Head, MeanHead
from recalign.reward.judge import Judge
from recalign.reward.module import RewardModel
from recalign.reward.net import RewardEnsemble, RewardNet, member_deviation
from recalign.reward.placebo import PermutedRewardData

__all__ = [
    "Head",
    "Judge",
    "MeanHead",
    "OrdinalHead",
    "PermutedRewardData",
    "QuantileHead",
    "RewardData",
    "RewardEnsemble",
    "RewardModel",
    "RewardNet",
    "member_deviation",
]
