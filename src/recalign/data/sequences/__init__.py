"""From a checked event table to batches: splits, user groups, mean rewards, placebos, windows."""

from recalign.data.sequences.batch import Batch
from recalign.data.sequences.data import EventDataModule
from recalign.data.sequences.means import reward_means
from recalign.data.sequences.other_splits import TimeSplit, Where
from recalign.data.sequences.placebo import correlation_within_users, permuted_rewards
from recalign.data.sequences.preparation import LogPreparation
from recalign.data.sequences.relative import RelativeTo
from recalign.data.sequences.splits import High, LeaveLast, Split, UserGroups
from recalign.data.sequences.store import Sequences, UserCohort, build_sequences
from recalign.data.sequences.windows import AnyWindows, Windows

__all__ = [
    "AnyWindows",
    "Batch",
    "EventDataModule",
    "High",
    "LeaveLast",
    "LogPreparation",
    "RelativeTo",
    "Sequences",
    "Split",
    "TimeSplit",
    "UserCohort",
    "UserGroups",
    "Where",
    "Windows",
    "build_sequences",
    "correlation_within_users",
    "permuted_rewards",
    "reward_means",
]
