"""A log prepared in partitions has the bytes of one prepared whole."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
import small
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from recalign.errors import InputError
from recalign.events import Log
from recalign.sequences import EventDataModule, High, LeaveLast, Split, TimeSplit, Where
from recalign.sequences import prepare as prepare_file

SPLITS = [LeaveLast(1, 1), TimeSplit((0.5, 0.75)), TimeSplit((0.5, "1970-01-01T00:00:40+00:00")), Where("good", 0.3)]
HIGHS = [None, High("reward >= 3"), High(quantile=0.5), High(quantile=0.5, within="length", bins=2)]
USERS = {"numbers": lambda u: 7 * u - 3, "text": lambda u: f"u{u}", "floats": float}


@st.composite
def logs(draw: st.DrawFn) -> pl.DataFrame:
    """Up to 60 events of up to 8 users; some rows are empty, some rewards and lengths are missing."""
    row = st.tuples(
        st.integers(1, 8),
        st.integers(1, 12),
        st.integers(0, 60),
        st.sampled_from([1.0, 2.0, 3.0, 4.0, None]),
        st.sampled_from([10, 20, None]),
    )
    rows = draw(st.lists(row, min_size=15, max_size=60))
    ids = USERS[draw(st.sampled_from(sorted(USERS)))]
    named = [(ids(user), f"film {item}", *rest) for user, item, *rest in rows]
    empty = [(None,) * 5] * draw(st.integers(0, 2))
    return pl.DataFrame(named + empty, schema=["user", "item", "timestamp", "stars", "length"], orient="row")


def module(root: Path, cache: str | bool, **changed: Any) -> EventDataModule:
    log = Log("small", ["a.parquet", "b.parquet"], columns={"good": "coalesce(stars > 3, false)"}, where="length <> 20")
    given_ = {"log": log, "reward": "stars", "split": LeaveLast(1, 1), "high": None, "root": str(root)} | changed
    return EventDataModule(cache=cache and str(root / cache), **given_)


def files_of(root: Path, cache: str) -> dict[str, bytes]:
    (entry,) = [path for path in (root / cache).iterdir() if not path.name.startswith(".")]
    return {path.name: path.read_bytes() for path in entry.iterdir()}


@given(
    log=logs(),
    split=st.sampled_from(SPLITS),
    high=st.sampled_from(HIGHS),
    partitions=st.integers(1, 9),
    min_events=st.integers(1, 2),
    rows=st.sampled_from([5, 1000]),
    cut=st.integers(0, 60),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_partitions_make_the_same_files(monkeypatch, log, split: Split, high, partitions, min_events, rows, cut):
    monkeypatch.setattr(prepare_file, "ROWS", rows)
    with TemporaryDirectory() as folder:
        root = Path(folder)
        log[:cut].write_parquet(root / "a.parquet")
        log[cut:].write_parquet(root / "b.parquet")
        asked = {"split": split, "high": high, "min_events": min_events}
        refused = []
        whole, parts = module(root, "whole", **asked), module(root, "parts", **asked)
        for make in (lambda: whole.sequences, lambda: parts.prepare(partitions)):
            try:
                make()
            except InputError as error:
                refused.append(error.what)
        if refused:
            assert len(refused) == 2
            assert refused[0] == refused[1]
            return
        assert files_of(root, "parts") == files_of(root, "whole")
        assert parts.report == whole.report
