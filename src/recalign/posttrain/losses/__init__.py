"""Every method's loss as a function of tensors: a scalar, and figures to log. One file a family."""

from recalign.posttrain.losses.actions import clipped_surrogate, group_advantages, kl_estimate, top_k_reinforce
from recalign.posttrain.losses.figures import Figures
from recalign.posttrain.losses.pairs import PAIR_LOSSES, PairLoss, kto, preference
from recalign.posttrain.losses.values import (
    actor_critic_weights,
    conservative,
    expectile,
    exponential_weights,
    mean_known,
    squared_error,
)
from recalign.posttrain.losses.weighted import weighted_likelihood

__all__ = [
    "PAIR_LOSSES",
    "Figures",
    "PairLoss",
    "actor_critic_weights",
    "clipped_surrogate",
    "conservative",
    "expectile",
    "exponential_weights",
    "group_advantages",
    "kl_estimate",
    "kto",
    "mean_known",
    "preference",
    "squared_error",
    "top_k_reinforce",
    "weighted_likelihood",
]
