"""Write what a log needs that continues this one (`recalign.data.sequences.earlier`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from recalign import artifacts
from recalign.data.sequences.data import EventDataModule
from recalign.data.sequences.earlier import FACTS, ITEMS, USERS, event_digests, meaning
from recalign.files import digest, write_json


def remember(data: EventDataModule, folder: Path) -> None:
    """Write what a log needs that continues this one (`EarlierLog`), unless it lies there already.

    Args:
        data: the log.
        folder: is published whole (`recalign.artifacts`). It holds raw ids, and no event.
    """
    sequences, settings = data.sequences, data.reward_settings | {"share_a": data.groups.share}
    refusal = "its items are known by their features" if sequences.features is not None else ""
    if sequences.by_time is not sequences:
        refusal = "its split does not follow time"
    known = np.diff(sequences.offset)
    columns = {"item": sequences.item, "timestamp": sequences.time, "reward": sequences.reward}
    events, rewards = event_digests(pl.DataFrame({"user": np.repeat(np.arange(len(known)), known)} | columns))
    facts = {
        "read_by": {key: digest(value) for key, value in (meaning(data.log_) | settings).items()},
        "events": events,
        "event_rewards": rewards,
        "ranked": data.relative_to is not None,
        "refusal": refusal,
        "name": data.log_.name,
        "catalogue": sequences.catalogue,
        "rewards": sequences.rewards,
    }
    if artifacts.check(folder, key := {"log": sequences.fingerprint, "facts": digest(facts)}).fresh:
        return
    with artifacts.publish(folder, key) as part:
        users = pl.DataFrame({"user": sequences.users, "known": known, "trained": sequences.trained})
        users.write_ipc(part / USERS)
        sequences.items.alias("item").to_frame().write_ipc(part / ITEMS)
        write_json(part / FACTS, facts)
