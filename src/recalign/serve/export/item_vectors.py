"""The items of a bundle, as vectors for semantic ids."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from recalign.data.sequences import EventDataModule
from recalign.errors import InputError
from recalign.recommender.semantic_ids import ItemVectors
from recalign.recommender.semantic_ids.vectors import vector_table
from recalign.serve.server.about import ITEMS, TABLES, BundleConfig, current


class BundleVectors(ItemVectors):
    """The items as a policy over item ids learned them, with those that ``recalign items add`` gave its bundle.

    Args:
        bundle: of a policy over item ids of the same log, which knows new ones by their features; or a folder of
            versions.
    """

    def __init__(self, bundle: Path) -> None:
        self.bundle = Path(bundle)

    def table(self, data: EventDataModule) -> pl.DataFrame:
        from safetensors.numpy import load_file

        folder = current(self.bundle.resolve())
        about = BundleConfig.read(folder)
        if about.kind != "items":
            remedy = "name the bundle of a recommender over item ids"
            raise InputError("its policy is not over item ids", where=str(folder), remedy=remedy)
        if about.log != data.log_.name:
            what = f"a bundle of the log {about.log!r}, not of {data.log_.name!r}"
            raise InputError(what, where=str(folder), remedy="name one of this log")
        tables = load_file(folder / TABLES)
        vector_ND = (tables["unit"] * tables["norm"][:, None])[1:]
        ids = pl.read_parquet(folder / ITEMS, glob=False)["item"].cast(data.sequences.items.dtype, strict=False)
        if ids.null_count():
            what = f"its ids are not {data.sequences.items.dtype}, as this log's are"
            raise InputError(what, where=str(folder), remedy="export the recommender again")
        return vector_table(ids, vector_ND)
