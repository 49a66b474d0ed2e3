"""Rows that were shown but not chosen (skipped rows); they are in no history."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from recalign.data.events import EventTable
from recalign.data.events.rows import TIED
from recalign.data.sequences.earlier import places
from recalign.data.sequences.relative import RelativeTo
from recalign.data.sequences.splits import TRAIN, Split
from recalign.data.sequences.store import ADDED, TIE_GROUP, Sequences
from recalign.errors import InputError


def with_skipped(made: Sequences, table: EventTable, split: Split, relative_to: RelativeTo | None) -> Sequences:
    """Add a table's skipped rows (`Sequences.skipped`) to the log that was made from its chosen rows.

    A row is in the split of its request's choices, the latest if they are in several. Without a choice, it is in the
    split by `Split.of_rows`, or else in that of the user's last choice before it. Its history is the user's known
    events before its request, in its split or an earlier one. In training, rows of items that are not warm are dropped.

    Raises:
        InputError: rewards are ranked (``data.relative_to``), which is not supported for skipped rows.
    """
    assert table.skipped is not None
    if relative_to is not None:
        what, remedy = "is not supported for rows shown but not chosen", "rank them in data.reward, or leave it out"
        raise InputError(what, where="data.relative_to", remedy=remedy)
    number_I, chosen = places(table.items, made.items, 1), made.frame
    skipped = table.skipped.drop(ADDED, strict=False)
    firsts = pl.col(sorted({"known_before", TIE_GROUP} & {*chosen.columns})).min()
    of_request = chosen.group_by("request").agg(pl.col("split").max(), firsts)
    of_choice = skipped.select("request").join(of_request, on="request", how="left", maintain_order="left")
    number = pl.Series(number_I[skipped["item"].to_numpy()])
    part = of_choice["split"].fill_null(_split_alone(table.skipped, chosen, table, split))
    skipped = skipped.with_columns(pl.lit(False).alias(TIED), item_id=number, split=part, high=pl.lit(False))
    if TIE_GROUP in chosen:  # that of the request's choices, or a new one
        skipped = skipped.with_columns(of_choice[TIE_GROUP].fill_null(skipped["request"] + len(chosen)))
    before = _among(chosen, skipped, ["user", "split", "at"], pl.col("known").cum_sum().over("user"))
    skipped = skipped.with_columns(known_before=pl.min_horizontal(of_choice["known_before"], before))
    skipped = skipped.filter((pl.col("split") != TRAIN) | pl.col("item_id").is_between(1, made.num_warm))
    skipped = skipped.with_row_index("event", len(chosen))
    return replace(made, skipped=skipped.select(chosen.columns).cast(dict(chosen.schema)))  # type: ignore[arg-type]


def _split_alone(skipped: pl.DataFrame, chosen: pl.DataFrame, table: EventTable, split: Split) -> pl.Series:
    """The split of each skipped row, regardless of its request's choices: u8."""
    if (rule := split.of_rows(table)) is not None:
        return rule.assign(replace(table, frame=skipped))
    unknown = skipped.with_columns(split=pl.lit(None, pl.UInt8))
    return _among(chosen, unknown, ["user", "at"], pl.col("split").forward_fill().over("user").fill_null(TRAIN))


def _among(chosen: pl.DataFrame, skipped: pl.DataFrame, order: list[str], figure: pl.Expr) -> pl.Series:
    """``figure`` of each skipped row, evaluated over all rows sorted by ``order``; of ties, skipped rows are first."""
    columns = {"user": "user", "split": "split"}
    of_skipped = skipped.select(**columns, at="began", known=pl.lit(0), place=pl.int_range(pl.len()))
    of_chosen = chosen.select(**columns, at="timestamp", known=(pl.col("item_id") > 0).cast(pl.Int32), place=None)
    both = pl.concat([of_skipped, of_chosen], how="vertical_relaxed")
    both = both.sort(*order, "place", nulls_last=True, maintain_order=True).with_columns(figure.alias("figure"))
    return both.filter(pl.col("place").is_not_null()).sort("place")["figure"]
