"""Ids of one table beside those of another."""

from __future__ import annotations

import polars as pl
import pytest

from recalign.data.events import LogMapping
from recalign.data.events.joining import log_ids
from recalign.data.events.table import load_events
from recalign.errors import InputError


@pytest.mark.parametrize(
    ("raw", "known", "expected"),
    [
        (["7.0", "8", "x"], ["7.0", "8", "x"], ["7.0", "8", "x"]),  # text ids of a Parquet log
        (["7.0", "8.0"], ["7", "x"], ["7", "8"]),  # a table that pandas wrote
        (["7.0", "8"], [7, 8], [7, 8]),
        (["007", "7"], [7, 8], [None, 7]),
        ([7.0, 7.5], [7, 8], [7, None]),
        ([7, 8], ["7", "x"], ["7", "8"]),
    ],
)
def test_an_id_is_the_logs_own(raw: list, known: list, expected: list):
    assert log_ids(pl.Series(raw), pl.Series(known)).to_list() == expected


def test_ids_that_one_of_several_files_does_not_hold_exactly_are_refused(tmp_path):
    rest = {"item": [1, 2], "timestamp": [1, 2], "stars": [3, 4]}
    wide = {"user": pl.Series([16_777_216, 16_777_217]), **rest}
    narrow = {"user": pl.Series([5, 16_777_217], dtype=pl.Float32), **rest}
    for name, columns in (("a", narrow), ("b", wide)):
        pl.DataFrame(columns).write_parquet(tmp_path / f"{name}.parquet")
    log = LogMapping("test", ["a.parquet", "b.parquet"])
    with pytest.raises(InputError, match=r"a\.parquet, column user: 16777216: Float32 holds no such id exactly"):
        load_events(log, tmp_path, "stars")
    pl.DataFrame(narrow).head(1).write_parquet(tmp_path / "a.parquet")
    assert load_events(log, tmp_path, "stars").frame.height == 3
