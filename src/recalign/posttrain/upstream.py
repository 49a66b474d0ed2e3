"""Networks of earlier stages that data is prepared with."""

from __future__ import annotations

from typing import Any

from recalign.errors import InputError
from recalign.recommender.checkpoint import Loaded, check_catalogue, load_net
from recalign.sequences import EventDataModule


def load_upstream(path: str | None, net: str, data: EventDataModule, where: str, reader: str) -> Loaded:
    """A network in evaluation mode, from a checkpoint of the same catalogue and, if it predicts one, the same reward.

    Args:
        path: the checkpoint.
        net: ``policy`` or ``reward``.
        data: the log and the reward that it has to belong to.
        where: the setting that names it.
        reader: the settings that need it, for the message.

    Raises:
        InputError: none is named, it cannot be read, holds no such network, or belongs to another catalogue or reward.
    """
    if path is None:
        raise InputError(f"{reader} need a checkpoint", where=where, remedy="name one, or run its stage first")
    loaded = load_net(path, net)
    check_catalogue(loaded.catalogue, data.sequences.catalogue, path)
    if net == "reward":
        check_reward(loaded.facts, data.reward, path)
    loaded.net.eval()
    return loaded


def check_reward(facts: dict[str, Any], current: str | None, where: str) -> None:
    """Refuse a reward model of another reward: the two would be mixed, or one measured in the other's unit.

    Args:
        facts: of its checkpoint.
        current: the reward's expression here.
        where: the checkpoint.

    Raises:
        InputError: the expressions differ, or the checkpoint does not say.
    """
    if "reward" not in facts:
        raise InputError(
            "this checkpoint does not say which reward it predicts",
            where=where,
            remedy="it is of an earlier version of recalign: run its stage again",
        )
    if facts["reward"] != current:
        raise InputError(
            f"this reward model predicts {facts['reward']!r}, and the reward here is {current!r}",
            where=where,
            remedy=f"give data.reward {facts['reward']!r} here, or train a reward model with data.reward {current!r}",
        )
