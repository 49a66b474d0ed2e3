"""Write what is remembered of a log (`recalign.data.sequences.earlier`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recalign import artifacts
from recalign.data.events import LogMapping
from recalign.data.sequences.earlier import FACTS, ITEMS, USERS, mapping, sums
from recalign.data.sequences.store import Sequences
from recalign.files import digest, write_json


def remember(sequences: Sequences, folder: Path, log: LogMapping, settings: Mapping[str, Any]) -> None:
    """Write the ids of a log, and digests of each user's events, unless they lie there already.

    Args:
        sequences: the log; its users and the items of its catalogue, in order.
        folder: is published whole (`recalign.artifacts`). It holds raw ids, and no event.
        log: how it is read.
        settings: ``reward``, ``relative_to`` and ``share_a`` of `EventDataModule`.
    """
    read_by = {key: digest(value) for key, value in (mapping(log) | dict(settings)).items()}
    facts: dict[str, Any] = {"read_by": read_by, "catalogue": sequences.catalogue, "rewards": sequences.rewards}
    facts |= {"ranked": settings["relative_to"] is not None, "name": log.name, "updatable": _refusal(sequences)}
    if artifacts.check(folder, key := {"log": sequences.fingerprint, "facts": digest(facts)}).fresh:
        return
    known = np.diff(sequences.offset)
    sums_U2 = sums(sequences.item, sequences.time, sequences.reward, sequences.offset[:-1], known)
    columns = {"known": known, "trained": sequences.trained, "events": sums_U2[:, 0], "rewards": sums_U2[:, 1]}
    with artifacts.publish(folder, key) as part:
        pl.DataFrame({"user": sequences.users, **columns}).write_ipc(part / USERS)
        sequences.items.alias("item").to_frame().write_ipc(part / ITEMS)
        write_json(part / FACTS, facts)


def _refusal(sequences: Sequences) -> str:
    """Why no log can continue this one; empty if one can."""
    if sequences.features is not None:
        return "its items are known by their features"
    steps = np.diff(sequences.time)
    within = np.ones(len(steps), bool)
    ends = sequences.offset[1:-1]
    within[ends[(ends > 0) & (ends < len(sequences.time))] - 1] = False
    return "its split does not follow time" if (steps[within] < 0).any() else ""
