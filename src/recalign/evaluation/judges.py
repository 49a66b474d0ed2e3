"""Keep judges independent: their users are not evaluated, and no judged network was trained on them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from recalign.data.sequences import EventDataModule, Sequences
from recalign.data.sequences.relative import RelativeTo
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


def data_of_judges(judges: Iterable[Loaded], data: EventDataModule) -> list[EventDataModule]:
    """The data as each judge reads it: with its own reward in histories if it has one, else ``data`` itself.

    Raises:
        InputError: the rewards are not those that a judge was trained on.
    """
    known = {data.sequences.rewards: data}  # several judges mostly have the same
    found = []
    for judge in judges:
        rewards = judge.facts.get("rewards", data.sequences.rewards)
        if rewards not in known:
            relative = judge.facts.get("relative_to")
            own = data.rewarded(judge.facts["reward"], RelativeTo(**relative) if relative else None)
            if own.sequences.rewards != rewards:
                what = f"the rewards by {judge.facts['reward']!r} are not those that it was trained on"
                remedy = "train the judges on this log, by this version of recalign"
                raise InputError(what, where=judge.where, remedy=remedy)
            known[rewards] = own
        found.append(known[rewards])
    return found


def _users(loaded: Loaded, sequences: Sequences) -> np.ndarray:
    if loaded.users is None:
        text = "this checkpoint does not say whose events it was trained on"
        raise InputError(text, where=loaded.where, remedy="train it again with this version of recalign")
    return loaded.users.mask(sequences, loaded.where)
