"""Every method's loss as a plain function of tensors: a scalar, and the figures to log. One file a family."""

from recalign.posttrain.losses.figures import Figures
from recalign.posttrain.losses.pairs import PAIR_LOSSES, PairLoss, kto, preference
from recalign.posttrain.losses.weighted import weighted_likelihood

__all__ = ["PAIR_LOSSES", "Figures", "PairLoss", "kto", "preference", "weighted_likelihood"]
