"""Logs of `benchmarks.items.run`: some items are held out of training; what is known of them takes several forms."""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds

import recalign as ra
from benchmarks.lib import CONF
from recalign.data.events import Feature, ItemValues, read_features, read_titles
from recalign.data.sequences import EventDataModule, Sequences, Split
from recalign.data.sequences.splits import TEST, TRAIN, VALIDATION
from recalign.data.simulation import World, simulate
from recalign.files import write_text
from recalign.run.stage import parse_stage

WORLD = "world"
BLOCK, CHOOSE, HELD = 20, 1, 3
"""Of so many items of like popularity, one is held out to choose on, and those up to the third to test."""
EVENTS: dict[str, Any] = {name: name for name in ("user", "item", "timestamp", "reward")} | {"high": "is_high"}
"""Columns of a log that is written."""
GRAMS, BUCKETS, DIMENSIONS = (3, 4, 5), 2**16, 64
"""Letters of the n-grams of a title, hash buckets that they share, numbers of a title's vector."""


@dataclass(frozen=True)
class HeldOut:
    """A log, what is known of its items, and the items held out of it.

    Attributes:
        whole: the log, split.
        values: of the items' features.
        titles: of the rows of ``values``; None where the log has none.
        choose, test: items held out, numbers from 0.
    """

    whole: Sequences
    values: ItemValues
    titles: pl.Series | None
    choose: np.ndarray
    test: np.ndarray

    @property
    def cold(self) -> pl.Series:
        """Raw ids of the items to test on."""
        return self.whole.items.gather(self.test)

    def trained(self) -> np.ndarray:
        """Which rows of ``values`` are not held out. Shape: bool (rows,)."""
        held = self.whole.items.gather(np.concatenate([self.choose, self.test]))
        return ~self.values.ids.is_in(held.implode()).to_numpy()


def known_log(given: argparse.Namespace, seed: int) -> HeldOut:
    """A log, split, with other items held out for each seed."""
    if given.log == WORLD:
        settings = {"users": 400, "items": 600, "events": 30_000} | yaml.safe_load(given.world)
        made = simulate(World(seed=1000 + seed, **settings))
        folder = given.runs / WORLD / f"seed-{seed}"
        items = pl.DataFrame({"item": made.items, "position": made.people.position_ID.tolist()})
        log = ra.Log.from_frame(
            made.events.rename({"high": "is_high"}),
            **EVENTS,
            items=items,
            features={"position": "position"},
            folder=folder / "whole",
            split={"class_path": "recalign.data.sequences.TimeSplit", "init_args": {"cuts": [0.8, 0.9]}},
        )
        words = [f"--config={log.yaml}"]
    else:
        words = [f"--config={CONF / 'logs' / given.log}-items.yaml"]
        words += [f"--data.root={given.data}"] if given.data else []
    stage = parse_stage(["fit", f"--config={CONF / 'stages/recommender.yaml'}", *words])
    data: EventDataModule = stage.datamodule()  # type: ignore[assignment]
    root = Path(data.root) if data.root else None
    values = read_features(data.log_, root, data.table.items)
    assert values is not None
    titles = None if given.log == WORLD else read_titles(data.log_, root, values.ids)[0]
    return HeldOut(data.sequences, values, titles, *held_out(data.sequences.item_counts(), seed))


def held_out(count_V: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Items (numbers from 0) to choose on and to test on: of each block of like popularity, others for each seed."""
    warm = np.flatnonzero(count_V)
    by_count = warm[np.argsort(-count_V[warm], kind="stable")]
    order = np.random.default_rng(0)
    blocks = [order.permutation(by_count[at : at + BLOCK]) for at in range(0, len(by_count), BLOCK)]
    fold = HELD * (seed % (BLOCK // HELD))
    choose = np.concatenate([block[fold : fold + CHOOSE] for block in blocks])
    return choose, np.concatenate([block[fold + CHOOSE : fold + HELD] for block in blocks])


def written(held: HeldOut, form: str, folder: Path, name: str) -> Path:
    """Write a log without the events that are held out, unless it is there; its YAML.

    Vectors and codes need not come out the same to the last bit on another number of cores, so that a run that goes on
    would begin anew.

    Args:
        held: the log.
        form: of `FORMS`, what is known of its items.
        folder: that it is written to.
        name: what it is called.
    """
    named = folder / f"{name}.yaml"  # so that the chain reads what conf/logs/recommender/ says of the log
    if named.is_file():
        return named
    whole, values = held.whole, FORMS[form](held)
    raw = whole.items.gather(whole.frame["item_id"].clip(1) - 1)  # a catalogue with features has every item
    to_choose, to_test = (raw.is_in(whole.items.gather(part).implode()) for part in (held.choose, held.test))
    part = whole.frame["split"]
    dropped = (to_choose & part.is_in([TRAIN, TEST])) | (to_test & part.is_in([TRAIN, VALIDATION]))
    events = whole.frame.select(
        "timestamp", "reward", user=whole.users.gather(whole.frame["user"]), item=raw, is_high="high", part="split"
    ).filter(~dropped & (whole.frame["item_id"] > 0))
    log = ra.Log.from_frame(
        events,
        **EVENTS,
        **({} if values is None else item_table(values)),
        folder=folder,
        name=name,
        time_unit="s",
        split={"class_path": "benchmarks.items.logs.Marked"},
    )
    write_text(named, log.yaml.read_text())
    return named


class Marked(Split):
    """The split that a log was written with."""

    def assign(self, table: Any) -> pl.Series:
        return table.frame["part"].cast(pl.UInt8)


def item_table(values: ItemValues) -> dict[str, Any]:
    """An item table of values as they are, and how to read it."""
    settings = {
        name: {"value": f'"{name}"', "kind": kind, "bins": values.specified[name].bins}
        for name, kind in values.kinds.items()
    }
    return {"items": values.values.select(values.ids.alias("item"), pl.all()), "features": settings}


def with_titles(held: HeldOut) -> ItemValues:
    """The features and, as a vector, the title."""
    assert held.titles is not None
    column = vector_column("title", title_vectors(held.titles, held.trained()))
    return replace(
        held.values,
        kinds=held.values.kinds | {"title": "vector"},
        values=held.values.values.with_columns(column),
        specified=held.values.specified | {"title": Feature('"title"')},
    )


def without_year(titles: pl.Series) -> pl.Series:
    return titles.str.replace(r"\s*\(\d{4}\)\s*$", "")


def vector_column(name: str, vectors: np.ndarray) -> pl.Series:
    """Vectors as values of a feature. Shape: float32 (rows, W)."""
    return pl.Series(name, vectors, dtype=pl.Array(pl.Float32, vectors.shape[1])).cast(pl.List(pl.Float32))


def title_vectors(titles: pl.Series, trained: np.ndarray) -> np.ndarray:
    """Letters' n-grams, hashed, weighed by tf-idf, and their truncated SVD, both found on some rows.

    The year behind a title is left out, for it is a feature itself. Shape: bool (N,) -> float32 (N, DIMENSIONS).
    """
    text = without_year(titles).str.to_lowercase()
    row, column = [], []
    for number, title in enumerate(text):
        padded = f" {title} "
        found = {padded[at : at + n] for n in GRAMS for at in range(len(padded) - n + 1)}
        column += [zlib.crc32(gram.encode()) % BUCKETS for gram in sorted(found)]
        row += [number] * len(found)
    count = csr_array((np.ones(len(row)), (row, column)), shape=(len(titles), BUCKETS))
    count.data[:] = 1  # of grams in one bucket
    idf = np.log((1 + trained.sum()) / (1 + count[trained].sum(axis=0))) + 1
    weighed = count.multiply(idf[None]).tocsr()
    weighed = weighed.multiply(1 / np.sqrt(weighed.multiply(weighed).sum(axis=1))[:, None]).tocsr()
    width = min(DIMENSIONS, int(trained.sum()) - 1)
    start = np.random.default_rng(0).random(int(min(trained.sum(), BUCKETS)))
    return (weighed @ svds(weighed[trained], k=width, v0=start)[2].T).astype(np.float32)


FORMS: dict[str, Callable[[HeldOut], ItemValues | None]] = {
    "ids": lambda held: None,
    "features": lambda held: held.values,
    "titles": with_titles,
}
"""What policies are told of items."""
