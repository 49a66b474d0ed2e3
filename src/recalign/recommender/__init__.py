"""The generative recommender: the policy protocol, behaviour cloning, and checkpoints between stages."""

from recalign.nn import softmax, topk
from recalign.recommender.averaging import PolynomialAveraging
from recalign.recommender.calibration import CalibratePrior
from recalign.recommender.cloning import Cloning, RecommenderData
from recalign.recommender.module import Recommender
from recalign.recommender.onerec import OneRecRecommender
from recalign.recommender.onerec_policy import CodePolicy
from recalign.recommender.policy import Policy
from recalign.recommender.recommendations import RecommendationsWriter
from recalign.recommender.row_sharding import RowSharding
from recalign.recommender.sequence_policy import SequencePolicy
from recalign.recommender.training import PolicyModule

Policy.lists = topk
PolicyModule.writer = RecommendationsWriter
Cloning.calibration = CalibratePrior
SequencePolicy.softmax = softmax

__all__ = [
    "CalibratePrior",
    "CodePolicy",
    "OneRecRecommender",
    "Policy",
    "PolynomialAveraging",
    "Recommender",
    "RecommenderData",
    "RowSharding",
    "SequencePolicy",
]
