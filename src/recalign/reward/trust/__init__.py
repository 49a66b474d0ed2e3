"""How far a reward model can be trusted: its errors beside those of simpler predictors, and one verdict."""

from recalign.reward.trust.errors import Trust, accuracy, trust_of
from recalign.reward.trust.predictions import predict
from recalign.reward.trust.report import compare_predictions, report
from recalign.reward.trust.verdict import verdict

__all__ = ["Trust", "accuracy", "compare_predictions", "predict", "report", "trust_of", "verdict"]
