"""Keep judges independent: none of their users is evaluated, or was trained on by what they judge."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from recalign.errors import InputError
from recalign.recommender.checkpoint import Loaded
from recalign.sequences import Sequences


def require_apart(judges: Mapping[Path, Loaded], others: Mapping[Path, Loaded], sequences: Sequences) -> None:
    """Refuse judges that share users with the table (users A), with one another, or with other networks.

    Args:
        judges: reward models by checkpoint.
        others: the training reward model and post-trained policies, by checkpoint. Not the cloned policy: it read
            everybody's choices, and rewards of users A at most.
        sequences: the log that is evaluated.

    Raises:
        InputError: they share users, or a judge's checkpoint does not say who its users were.
    """
    trained = {str(path): _users(path, loaded, sequences) for path, loaded in others.items()}
    for path, judge in judges.items():
        own_U = _users(path, judge, sequences)
        for whose, others_U in {"the users that the table is about (A)": sequences.users_in("A"), **trained}.items():
            if shared := int((own_U & others_U).sum()):
                raise InputError(
                    f"this judge was trained on {shared:,} users who are also those of {whose}",
                    where=str(path),
                    remedy="train judges on users of their own: --data.users B1 to select, B2 to report",
                )
        trained[str(path)] = own_U


def _users(path: Path, loaded: Loaded, sequences: Sequences) -> np.ndarray:
    if loaded.users is None:
        raise InputError(
            "this checkpoint does not say whose events it was trained on",
            where=str(path),
            remedy="train it again with this version of recalign",
        )
    return loaded.users.among(sequences, str(path))
