"""The users of a stage: enough to check later that two stages had none in common."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import polars as pl

from recalign.data.sequences.splits import UserGroups
from recalign.data.sequences.store import Group, Sequences
from recalign.errors import InputError


@dataclass(frozen=True)
class UserCohort:
    """The users whose events a stage trained and validated on.

    Checkpoints and manifests hold it. Whoever has the log can draw the group again and compare the digest.

    Attributes:
        group: all, A, B1 or B2.
        share_a: share of the users in A.
        count: how many users.
        digest: of their raw ids.
    """

    group: Group
    share_a: float
    count: int
    digest: str

    @classmethod
    def of(cls, sequences: Sequences, group: Group, share_a: float) -> UserCohort:
        """The users of a group of a log."""
        chosen_U = sequences.users_in(group)
        return cls(group, share_a, int(chosen_U.sum()), _digest(sequences.users, chosen_U))

    def mask(self, sequences: Sequences, where: str) -> np.ndarray:
        """Find these users in a log. Shape: bool (U,). `where` names the checkpoint, for errors.

        Raises:
            InputError: the log's group has other users.
        """
        users = sequences.users
        drawn = UserGroups(self.share_a).assign(users).to_numpy()
        chosen_U = np.full(len(drawn), True) if self.group == "all" else drawn == self.group
        if _digest(users, chosen_U) != self.digest:
            text = f"it was trained on {self.count:,} users that are not group {self.group} of this log"
            raise InputError(text, where=where, remedy="train it again on this log")
        return chosen_U


def _digest(users: pl.Series, chosen_U: np.ndarray) -> str:
    raw = users.filter(chosen_U).to_list()
    return hashlib.sha256("\n".join(map(str, raw)).encode()).hexdigest()
