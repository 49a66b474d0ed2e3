"""Reward models, judges, and the report on how far to trust them."""

from recalign.reward.data import RewardData
from recalign.reward.heads import Head, MeanHead
from recalign.reward.initial_factors import initialise
from recalign.reward.judge import Judge
from recalign.reward.module import RewardModel
from recalign.reward.net import RewardEnsemble, RewardNet
from recalign.reward.ordinal import OrdinalHead
from recalign.reward.placebo import PermutedRewardData
from recalign.reward.trust.callback import TrustReport

RewardModel.initialise = staticmethod(initialise)
RewardModel.reporter = TrustReport

__all__ = [
    "Head",
    "Judge",
    "MeanHead",
    "OrdinalHead",
    "PermutedRewardData",
    "RewardData",
    "RewardEnsemble",
    "RewardModel",
    "RewardNet",
]
