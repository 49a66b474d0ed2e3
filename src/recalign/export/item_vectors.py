"""The items of a bundle, as vectors for semantic ids."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from recalign.errors import InputError
from recalign.export.command import FEATURES
from recalign.semantic_ids import ItemVectors
from recalign.semantic_ids.vectors import vector_table
from recalign.sequences import EventDataModule
from recalign.serving.about import ITEMS, TABLES, About, current


class BundleVectors(ItemVectors):
    """The items as a policy over item ids learned them, with those that ``recalign items add`` gave its bundle.

    Args:
        bundle: of a policy that knows items by their features, of the same log; or a folder of versions.
    """

    def __init__(self, bundle: Path) -> None:
        self.bundle = Path(bundle)

    def table(self, data: EventDataModule) -> pl.DataFrame:
        from safetensors.numpy import load_file

        folder = current(self.bundle.resolve())
        about = About.read(folder)
        if not (folder / FEATURES).is_file() or about.log != data.log_.name:
            what = f"no bundle of a policy that knows the items of the log {data.log_.name!r} by their features"
            remedy = "export a recommender over item ids of this log, which has data.log.items.features"
            raise InputError(what, where=str(folder), remedy=remedy)
        tables = load_file(folder / TABLES)
        vector_ND = (tables["unit"] * tables["norm"][:, None])[1:]
        return vector_table(pl.read_parquet(folder / ITEMS, glob=False)["item"], vector_ND)
