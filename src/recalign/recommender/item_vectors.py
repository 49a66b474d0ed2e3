"""The item table of a trained recommender, as vectors for semantic ids."""

from __future__ import annotations

import polars as pl

from recalign.data.sequences import EventDataModule
from recalign.errors import InputError
from recalign.recommender.checkpoint import load_net
from recalign.recommender.semantic_ids import ItemVectors
from recalign.recommender.semantic_ids.vectors import vector_table
from recalign.recommender.sequence_policy import SequencePolicy


class RecommenderVectors(ItemVectors):
    """The items as a recommender over item ids learned them.

    Args:
        checkpoint: of that recommender, trained on the same log and split.
    """

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint

    def table(self, data: EventDataModule) -> pl.DataFrame:
        loaded = load_net(self.checkpoint, "policy")
        loaded.check(data)
        if not isinstance(loaded.net, SequencePolicy):
            text = f"its policy, {type(loaded.net).__name__}, is not over item ids"
            remedy = "give the checkpoint of a recommender over item ids: recalign fit recommender LOG"
            raise InputError(text, where=self.checkpoint, remedy=remedy)
        return vector_table(data.sequences.items, loaded.net.eval().item_table()[1:].detach().numpy())
