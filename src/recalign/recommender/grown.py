"""Continue an earlier policy on a grown log: known items keep their weights, new ones keep their initial weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from recalign.data.sequences import EventDataModule
from recalign.errors import InputError
from recalign.recommender.checkpoint import load_net, prior_names
from recalign.recommender.sequence_policy import SequencePolicy

ITEM_TABLE = "item_embedding.weight"
"""The weight with one row per item."""
GROWS_FROM = "grows_from"
"""Name of the argument of models and data that `recalign update` sets."""


def load_earlier(path: str, data: EventDataModule) -> Any:
    """The policy of an earlier run; an InputError if the data do not continue its log."""
    loaded, earlier = load_net(path, "policy"), data.preparation.earlier
    if earlier is None:
        what, remedy = "no earlier log is named", "name the folder of its ids: --data.grows_from FOLDER"
        raise InputError(what, where="data.grows_from", remedy=remedy)
    if loaded.catalogue != earlier.facts["catalogue"]:
        what = f"this checkpoint was not trained on the log whose ids are in {earlier.folder}"
        raise InputError(what, where=path, remedy="give a checkpoint and the folder `ids` of the same chain")
    return loaded.net


@torch.no_grad()
def grow(policy: nn.Module, earlier: nn.Module, where: str) -> None:
    """Copy an earlier policy's weights, but not its item prior; its items come first in the grown catalogue.

    Args:
        policy: changed in place; the rows of new items stay as they are.
        earlier: a policy with the same settings.
        where: the earlier policy's checkpoint, for messages.

    Raises:
        InputError: the two differ in more than their number of items, or are not over item ids.
    """
    if not isinstance(policy, SequencePolicy) or not isinstance(earlier, SequencePolicy):
        wrong = earlier if isinstance(policy, SequencePolicy) else policy
        what = f"a {type(wrong).__name__} cannot grow with the log; only a SequencePolicy, over item ids, can"
        raise InputError(what, where=where, remedy="train a chain on the new log anew")
    own, weights, other = policy.state_dict(), earlier.state_dict(), []
    for name in (own.keys() | weights.keys()) - prior_names(policy) - prior_names(earlier):
        if name not in own or name not in weights:
            other.append(name)
            continue
        into = own[name][: len(weights[name])] if name == ITEM_TABLE else own[name]
        if into.shape == weights[name].shape:
            into.copy_(weights[name])
        else:
            other.append(f"{name}: {tuple(weights[name].shape)} in the checkpoint, {tuple(own[name].shape)} here")
    if other:
        remedy = "go on with the settings of the earlier run, as `recalign update` does, or leave model.grows_from null"
        raise InputError(f"the weights differ: {', '.join(sorted(other)[:3])}", where=where, remedy=remedy)
