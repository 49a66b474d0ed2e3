"""Go on from an earlier run on a log that has grown: known items keep their weights, new ones are as initialised."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from recalign.errors import InputError
from recalign.recommender.checkpoint import Loaded, load_net, prior_names
from recalign.recommender.sequence_policy import SequencePolicy
from recalign.sequences import EventDataModule

TABLE = "item_embedding.weight"
"""What has a row an item."""
GROWS_FROM = "grows_from"
"""Argument of models and of data that an update sets."""
OTHER = "go on with the settings of the earlier run, as `recalign update` does, or leave model.grows_from null"


def load_earlier(path: str, name: str, data: EventDataModule) -> Any:
    """The ``policy`` or ``reward`` of an earlier run, whose log this one continues.

    Raises:
        InputError: the data continues no log or another one, users would change their group, or it learned another
            reward.
    """
    loaded, earlier = load_net(path, name), data.earlier
    if earlier is None:
        what, remedy = "there is no earlier log to go on from", "name the folder ids of that chain: --data.grows_from"
        raise InputError(what, where="data.grows_from", remedy=remedy)
    if loaded.catalogue != earlier.facts["catalogue"]:
        what = f"this checkpoint was not trained on the log that {earlier.where} remembers"
        raise InputError(what, where=path, remedy="give the checkpoint and the folder ids of one chain")
    _require_reward(loaded, data)
    if loaded.users is not None:
        loaded.users.among(earlier.users["user"], path)
    return loaded.net


def _require_reward(loaded: Loaded, data: EventDataModule) -> None:
    if (known := loaded.facts.get("reward", data.reward)) != data.reward:
        what = f"this reward model predicts {known!r}, and the reward here is {data.reward!r}"
        raise InputError(what, where=loaded.where, remedy="keep the reward, or train a chain anew")


@torch.no_grad()
def grow(policy: nn.Module, earlier: nn.Module, where: str, without: Collection[str] = ()) -> None:
    """Give a policy the weights of an earlier one, whose items are the first of its own; but not its item prior.

    Args:
        policy: changed in place; the rows of further items stay as they are.
        earlier: of the same settings.
        where: its checkpoint, for messages.
        without: names of weights that stay as they are too.

    Raises:
        InputError: the two differ in more than their number of items, or are not over item ids.
    """
    if not isinstance(policy, SequencePolicy) or not isinstance(earlier, SequencePolicy):
        what = f"a {type(policy).__name__} cannot grow; only a SequencePolicy, over item ids, can"
        raise InputError(what, where=where, remedy="train a chain on the new log anew")
    left, more = {*prior_names(policy), *without}, policy.num_items - earlier.num_items
    own, weights = policy.state_dict(), earlier.state_dict()
    if own.keys() != weights.keys():
        what = f"other weights: {', '.join(sorted(own.keys() ^ weights.keys())[:3])}"
        raise InputError(what, where=where, remedy=OTHER)
    for name in own.keys() - left:
        into, weight = own[name], weights[name]
        if into.shape != weight.shape:
            if name != TABLE or into.shape[1:] != weight.shape[1:] or more < 0:
                what = f"{name}: {tuple(weight.shape)} in the checkpoint, {tuple(into.shape)} here"
                raise InputError(what, where=where, remedy=OTHER)
            into = into[: len(weight)]
        into.copy_(weight)
