"""Candidate rewards of one log, compared before anything is trained on them."""

from recalign.reward.candidates.comparison import compare_log_rewards, compare_rewards

__all__ = ["compare_log_rewards", "compare_rewards"]
