"""Candidate rewards of one log, compared before anything is trained on them."""

from recalign.reward.candidates.comparison import compare_rewards
from recalign.reward.candidates.of_log import compare_log_rewards
from recalign.reward.candidates.reliability import Components, split_half_reliability, variance_components
from recalign.reward.candidates.values import Candidate, RelativeTo

__all__ = [
    "Candidate",
    "Components",
    "RelativeTo",
    "compare_log_rewards",
    "compare_rewards",
    "split_half_reliability",
    "variance_components",
]
