"""Every method's loss as a plain function of tensors: a scalar, and the figures to log. One file a family."""

from recalign.posttrain.losses.figures import Figures
from recalign.posttrain.losses.weighted import weighted_likelihood

__all__ = ["Figures", "weighted_likelihood"]
