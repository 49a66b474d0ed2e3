"""Keep judges independent: their users are not evaluated, and no judged network was trained on them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from recalign.data.sequences import Sequences
from recalign.errors import InputError
from recalign.recommender.checkpoint import Loaded


def require_apart(judges: Iterable[Loaded], other: Loaded, sequences: Sequences) -> None:
    """Refuse judges that share users with the table (users A), with one another, or with another network.

    Args:
        judges: reward models.
        other: the training reward model or a post-trained policy. Not the cloned policy: it read everybody's choices,
            and rewards of users A at most.
        sequences: the log that is evaluated.

    Raises:
        InputError: they share users, or a checkpoint does not say who its users were.
    """
    known = [
        ("the users that the table is about (A)", sequences.users_in("A")),
        (other.where, _users(other, sequences)),
    ]
    for judge in judges:
        own_U = _users(judge, sequences)
        for whose, others_U in known:
            if shared := int((own_U & others_U).sum()):
                text = f"this judge was trained on {shared:,} users who are also those of {whose}"
                remedy = "train judges on users of their own, B1 or B2 (data.users), by one division (data.share_a)"
                raise InputError(text, where=judge.where, remedy=remedy)
        known.append((judge.where, own_U))


def _users(loaded: Loaded, sequences: Sequences) -> np.ndarray:
    if loaded.users is None:
        text = "this checkpoint does not say whose events it was trained on"
        raise InputError(text, where=loaded.where, remedy="train it again with this version of recalign")
    return loaded.users.mask(sequences, loaded.where)
