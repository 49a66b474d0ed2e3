"""From a checked event table to batches: splits, user groups, means, placebos, windows."""

from recalign.sequences.batch import Batch
from recalign.sequences.cohort import UserCohort
from recalign.sequences.data import EventDataModule
from recalign.sequences.means import reward_means
from recalign.sequences.placebo import correlation_within_users, permuted_rewards
from recalign.sequences.relative import RelativeTo
from recalign.sequences.splits import High, LeaveLast, Split, TimeSplit, UserGroups, Where
from recalign.sequences.store import Sequences, build
from recalign.sequences.windows import NextEvents, Windows

__all__ = [
    "Batch",
    "EventDataModule",
    "High",
    "LeaveLast",
    "NextEvents",
    "RelativeTo",
    "Sequences",
    "Split",
    "TimeSplit",
    "UserCohort",
    "UserGroups",
    "Where",
    "Windows",
    "build",
    "correlation_within_users",
    "permuted_rewards",
    "reward_means",
]
