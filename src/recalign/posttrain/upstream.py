"""Networks of earlier stages that data is prepared with."""

from __future__ import annotations

from recalign.errors import InputError
from recalign.recommender.checkpoint import Loaded, check_catalogue, load_net
from recalign.sequences import Sequences


def load_upstream(path: str | None, net: str, sequences: Sequences, where: str, reader: str) -> Loaded:
    """A network in evaluation mode, from a checkpoint of the same catalogue.

    Args:
        path: the checkpoint.
        net: ``policy`` or ``reward``.
        sequences: the log that it has to belong to.
        where: the setting that names it.
        reader: the settings that need it, for the message.

    Raises:
        InputError: none is named, it cannot be read, holds no such network, or belongs to another catalogue.
    """
    if path is None:
        raise InputError(f"{reader} need a checkpoint", where=where, remedy="name one, or run its stage first")
    loaded = load_net(path, net)
    check_catalogue(loaded.catalogue, sequences.catalogue, path)
    loaded.net.eval()
    return loaded
