"""Sources of item vectors for semantic ids."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path

import numpy as np
import polars as pl

from recalign.data.events.items import log_ids
from recalign.data.events.messages import did_you_mean
from recalign.data.events.sources import read_errors
from recalign.data.sequences import EventDataModule
from recalign.data.sequences.splits import TRAIN
from recalign.errors import InputError, require_positive
from recalign.recommender.checkpoint import load_net
from recalign.recommender.cooccurrence import cooccurrence_embedding
from recalign.recommender.sequence_policy import SequencePolicy


class ItemVectors(ABC):
    """A source of item vectors."""

    @abstractmethod
    def table(self, data: EventDataModule) -> pl.DataFrame:
        """The vectors of a log's items; items may be missing.

        Returns:
            ``item``, unique raw ids of the catalogue's type; ``vector``, an array of numbers.

        Raises:
            InputError: there are none, or they cannot be used.
        """


class Cooccurrence(ItemVectors):
    """Co-occurrence embeddings of items, from the training split (`recalign.recommender.cooccurrence`).

    Args:
        dimensions: number of dimensions of a vector.
    """

    def __init__(self, dimensions: int = 64) -> None:
        require_positive("vectors", {"dimensions": dimensions}, "dimensions")
        self.dimensions = dimensions

    def table(self, data: EventDataModule) -> pl.DataFrame:
        train = data.sequences.frame.filter(pl.col("split") == TRAIN)
        user_N, item_N = train["user"].to_numpy(), train["item_id"].to_numpy() - 1
        vector_VD = cooccurrence_embedding(user_N, item_N, data.num_items, self.dimensions)
        return vector_table(data.sequences.items, vector_VD)


class RecommenderVectors(ItemVectors):
    """The item vectors of a trained recommender over item ids.

    Args:
        checkpoint: the recommender's, trained on the same log and split.
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


class ParquetVectors(ItemVectors):
    """Vectors of your own, such as embeddings of texts or images.

    Args:
        file: a Parquet file, one row per item. It may hold items that the log lacks.
        item: the column of raw item ids.
        column: the column of vectors: lists or arrays of numbers, all of one length.
    """

    def __init__(self, file: Path, item: str = "item", column: str = "vector") -> None:
        self.file, self.item, self.column = Path(file), item, column

    def table(self, data: EventDataModule) -> pl.DataFrame:
        if not self.file.is_file():
            raise InputError("there is no such file of vectors", where=str(self.file), remedy="name a Parquet file")
        with read_errors(str(self.file)):
            frame = pl.read_parquet(self.file, glob=False)
        for key, name in (("vectors.item", self.item), ("vectors.column", self.column)):
            if name not in frame.columns:
                what, remedy = f"there is no column {name!r} in {self.file}", did_you_mean(name, frame.columns)
                raise InputError(what, where=key, remedy=remedy)
        ids = log_ids(frame[self.item], data.sequences.items)
        for wrong, what in ((ids.is_null(), "is not of this log's id type"), (ids.is_duplicated(), "appears twice")):
            if wrong.any():
                text = f"the item {frame[self.item].filter(wrong)[0]!r} {what}"
                remedy = "give each item one row, with its id as the log has it"
                raise InputError(text, where=f"{self.file}, column {self.item}", remedy=remedy)
        with suppress(pl.exceptions.PolarsError):
            lists = frame[self.column].cast(pl.List(pl.Float64))
            width_N = lists.list.len()
            if frame[self.column].dtype.is_nested() and width_N.min() and width_N.n_unique() == 1:
                return vector_table(ids, lists.list.to_array(width_N[0]).to_numpy())
        what = "vectors have to be lists of numbers, all of one length"
        remedy = "give every item a vector of the same model"
        raise InputError(what, where=f"{self.file}, column {self.column}", remedy=remedy)


def vector_table(items: pl.Series, vector_ND: np.ndarray) -> pl.DataFrame:
    """Items and their vectors as a source returns them."""
    vector = pl.Series(vector_ND.astype(np.float32), dtype=pl.Array(pl.Float32, vector_ND.shape[1]))
    return pl.DataFrame({"item": items, "vector": vector})


def matrix(table: pl.DataFrame, items: pl.Series, source: str) -> np.ndarray:
    """The vectors of some items, scaled to unit length (except zero vectors), then centred.

    Args:
        table: what a source returned.
        items: raw ids.
        source: for messages.

    Shape: -> float32 (N, D).

    Raises:
        InputError: an item has no vector, or one with NaN or infinity.
    """
    found = items.alias("item").to_frame().join(table, on="item", how="left", maintain_order="left")
    if missing := found["vector"].null_count():
        first = items.filter(found["vector"].is_null())[0]
        text = f"{missing:,} of {len(items):,} items have no vector, such as {first!r}"
        raise InputError(text, where=source, remedy="give a vector for each item")
    x_ND: np.ndarray = found["vector"].to_numpy().astype(np.float32)
    if not (finite_N := np.isfinite(x_ND).all(axis=1)).all():
        raise InputError(
            f"the vector of the item {items.filter(~pl.Series(finite_N))[0]!r} has a NaN or infinite value "
            f"({(~finite_N).sum():,} items have one)",
            where=source,
            remedy="replace NaN and infinity, or leave those items out of the log",
        )
    length_N1 = np.linalg.norm(x_ND, axis=1, keepdims=True)
    x_ND = x_ND / np.where(length_N1 > 0, length_N1, 1)
    return np.ascontiguousarray(x_ND - x_ND.mean(axis=0))
