"""Compare candidate rewards of one log before training on any of them."""

from recalign.reward.candidates.comparison import compare_log_rewards, compare_rewards

__all__ = ["compare_log_rewards", "compare_rewards"]
