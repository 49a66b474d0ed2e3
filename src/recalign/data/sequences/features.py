"""Features of the catalogue's items as codes and numbers, and the encoder for them and for items that come later.

One embedding table holds a row for each category, feature after feature. The first row of a feature is its code 0: the
value is missing, or no item in training has it, so that nothing was learned about it.

Shape suffixes: V items of the catalogue, N codes of all of them, W numbers of an item.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recalign.data.events import ItemValues
from recalign.data.sequences.store import number_items
from recalign.files import read_json, write_json

FEATURES = "features.json"
FAR = 10.0
"""Standardised numbers are clipped to +- this many standard deviations, so that one wrong value of a new item does not
outweigh its other features. (A wrong value in training widens the standard deviation itself.)"""


@dataclass(frozen=True)
class FeatureCoder:
    """How raw values become codes and numbers; fitted on the items that have training events.

    Attributes:
        plans: plain values, one mapping per feature: its ``name`` and ``kind``; also ``categories`` (of a category),
            ``edges`` (of binned numbers), or ``mean`` and ``scale`` (of standardised numbers and vectors).
    """

    plans: list[dict[str, Any]]

    @classmethod
    def fit(cls, values: ItemValues, warm: pl.Series) -> FeatureCoder:
        """Fit categories, bin edges, means and scales on the items ``warm`` (raw ids), which have training events.

        Edges are lower bounds of bins that hold about as many numbers each; a scale is the root mean square distance
        from the mean.
        """
        own = values.of(warm)
        plans = []
        for name, kind in values.kinds.items():
            known = own[name].drop_nulls()
            plan: dict[str, Any] = {"name": name, "kind": kind}
            if kind == "category":
                plan["categories"] = known.explode(empty_as_null=False).unique().sort().to_list()
            elif kind == "number" and (bins := values.specified[name].bins):
                number_N, shares = known.to_numpy(), np.arange(1, bins) / bins
                found = np.quantile(number_N, shares, method="higher") if len(number_N) else number_N
                plan["edges"] = np.unique(found[found > number_N.min(initial=np.inf)]).tolist()
            else:
                known_NW, plan["mean"], plan["scale"] = _matrix(known), [0.0] * _width(values.values[name]), 1.0
                if len(known_NW):
                    mean_W = known_NW.mean(axis=0)
                    scale = float(np.sqrt(np.square(known_NW - mean_W).sum(axis=1).mean()))
                    plan["mean"], plan["scale"] = mean_W.tolist(), scale or 1.0
            plans.append(plan)
        return cls(plans)

    @property
    def sizes(self) -> list[int]:
        """Rows of each feature in the embedding table."""
        bins = [1 + len(plan["edges"]) if "edges" in plan else len(plan.get("categories", ())) for plan in self.plans]
        return [1 + number for number in bins]

    @property
    def width(self) -> int:
        """W: numbers per item, those of all standardised features and vectors."""
        return sum(len(plan.get("mean", ())) for plan in self.plans)

    def unknown(self, values: pl.DataFrame) -> dict[str, pl.Series]:
        """By feature, the rows of items none of whose categories occur in training. ``values`` as in `encode`."""
        found = {}
        for plan in self.plans:
            if "categories" in plan:
                known = values[plan["name"]].list.eval(pl.element().is_in(plan["categories"])).list.any()
                if not known.all():
                    found[plan["name"]] = (~known).fill_null(False).arg_true()
        return found

    def encode(self, values: pl.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """``code``, ``weight``, ``offset`` and ``number`` of `ItemFeatures`; ``values`` as in `ItemValues.values`."""
        rows, codes, counts, numbers = [], [], [], [np.zeros((len(values), 0), np.float32)]
        for plan, first in zip(self.plans, np.cumsum([0, *self.sizes]), strict=False):
            row, code = _codes(plan, values[plan["name"]])
            count = np.bincount(row, minlength=len(values))
            rows.append(row)
            codes.append(first + code)
            counts.append(count[row])
            if "mean" in plan:
                numbers.append(_standardised(plan, values[plan["name"]]))
        row, code, count = (np.concatenate(parts) for parts in (rows, codes, counts))
        order = np.argsort(row, kind="stable")
        offset = np.concatenate([[0], np.bincount(row, minlength=len(values)).cumsum()])
        weight = (1 / np.sqrt(count[order])).astype(np.float32)
        return code[order].astype(np.int64), weight, offset.astype(np.int64), np.concatenate(numbers, axis=1)


@dataclass(frozen=True)
class ItemFeatures:
    """Encoded features of the items 1..V of a catalogue.

    Attributes:
        coder: the encoder that made the codes and numbers.
        warm: the items 1..warm have training events; items warm + 1..V are cold: they have only features.
        code: int64 (N,), rows of the embedding table, item after item.
        weight: float32 (N,), weight of each code: 1 / sqrt(number of codes of its item and feature).
        offset: int64 (V + 1,), where each item's codes begin.
        number: float32 (V, W), standardised numbers and vectors; 0 if absent.
    """

    coder: FeatureCoder
    warm: int
    code: np.ndarray
    weight: np.ndarray
    offset: np.ndarray
    number: np.ndarray

    @classmethod
    def encode(cls, values: ItemValues, items: pl.Series, warm: int) -> ItemFeatures:
        """Encode the features of a catalogue, given as raw ids; the first ``warm`` items have training events."""
        coder = FeatureCoder.fit(values, items.head(warm))
        return cls(coder, warm, *coder.encode(values.of(items)))

    def save(self, folder: Path) -> None:
        """Write the features into a folder, for `load`."""
        arrays = {name: x for name, x in vars(self).items() if isinstance(x, np.ndarray)}
        np.savez(folder / "features.npz", **arrays)  # type: ignore[arg-type]
        write_json(folder / FEATURES, {"plans": self.coder.plans, "warm": self.warm})

    @classmethod
    def load(cls, folder: Path) -> ItemFeatures:
        """Read what `save` wrote."""
        facts = read_json(folder / FEATURES)
        with np.load(folder / "features.npz") as arrays:
            return cls(FeatureCoder(facts["plans"]), facts["warm"], **arrays)

    @property
    def plan(self) -> dict[str, Any]:
        """The sizes of the embedding table and of the arrays, as plain values."""
        return {"sizes": self.coder.sizes, "width": self.coder.width, "codes": len(self.code), "warm": self.warm}


def number_with_features(values: ItemValues, items: pl.Series, warm_I: np.ndarray) -> tuple[pl.Series, np.ndarray, int]:
    """The `Numbering` of a catalogue with cold items: those with any feature follow the warm items, sorted by id."""
    warm, number_I, count = number_items(items, warm_I)
    known = values.ids.filter(values.known())
    cold = known.filter(~known.is_in(warm.implode())).sort()
    numbers = np.arange(count + 1, count + len(cold) + 1, dtype=np.int32)
    of_cold_I = items.replace_strict(cold, numbers, default=0, return_dtype=pl.Int32).to_numpy()
    return pl.concat([warm, cold]), np.where(warm_I, number_I, of_cold_I), count


def _codes(plan: dict[str, Any], column: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (row, code) of one feature; every row has at least one. Shape: int64 (N,), (N,)."""
    row = np.arange(len(column))
    if "mean" in plan:  # a standardised feature has one code: missing
        missing = column.is_null().to_numpy()
        return row[missing], np.zeros(missing.sum(), np.int64)
    if "edges" in plan:
        value = column.fill_null(float("nan")).to_numpy()
        return row, np.where(np.isnan(value), 0, 1 + np.searchsorted(plan["edges"], value, side="right"))
    number = {category: code for code, category in enumerate(plan["categories"], start=1)}
    flat = pl.DataFrame({"row": row, "value": column}).explode("value")
    code = flat["value"].replace_strict(number, default=0, return_dtype=pl.Int64)
    pairs = pl.DataFrame({"row": flat["row"], "code": code}).unique(maintain_order=True)  # several unknown are one
    known = pl.col("code") > 0
    pairs = pairs.filter(known | ~known.any().over("row"))
    return pairs["row"].to_numpy(), pairs["code"].to_numpy()


def _width(column: pl.Series) -> int:
    """Numbers per item: 1, or the length of a vector; 0 without any vector."""
    return int(column.list.len().max() or 0) if isinstance(column.dtype, pl.List) else 1  # type: ignore[arg-type]


def _matrix(column: pl.Series) -> np.ndarray:
    """The numbers or vectors that are not null. Shape: -> float64 (rows, 1 or length of a vector)."""
    known = column.drop_nulls()
    if not isinstance(known.dtype, pl.List):
        return known.cast(pl.Float64).to_numpy()[:, None]
    return known.cast(pl.Array(pl.Float64, _width(known))).to_numpy()


def _standardised(plan: dict[str, Any], column: pl.Series) -> np.ndarray:
    """(x - mean) / scale, for numbers clipped to +-`FAR`; 0 if absent. Shape: -> float32 (rows, W)."""
    found = np.zeros((len(column), len(plan["mean"])), np.float32)
    known = column.is_not_null().to_numpy()
    if known.any():
        found[known] = (_matrix(column) - plan["mean"]) / plan["scale"]
    return found.clip(-FAR, FAR) if plan["kind"] == "number" else found
