"""Generated tables, clean and dirty: rows are used or reported, values are those of the file, no tracebacks."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing.parametric import column, dataframes

from recalign.data.events import EventTable, LogMapping, load_events
from recalign.errors import InputError

COLUMNS = ["who", "what", "when", "stars", "note"]
ODD = st.sampled_from(
    ["", "NULL", r"\N", "nan", "a,b", "two\nlines", 'a "b" c', '"', "'", "007", "1.0", "[/b]", "é", " 7", "^.*$"]
)
IDS = st.integers(-3, 9).map(str) | st.sampled_from(["9007199254740993", "18446744073709551615", "x1", "7.0"]) | ODD
TIMES = st.sampled_from(["10", "20", "881250949", "1.5", "2026-01-02", "2026-01-02T03:04:05Z", "", "soon", "-1"])
STARS = st.sampled_from(["1", "2", "3", "4.5", "", "NULL", "five", "inf", "nan"])
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=5) | ODD


@st.composite
def rows(draw) -> list[list[str]]:
    """Rows of text. Each column is clean, or may hold anything."""
    clean = [st.integers(1, 9).map(str), st.sampled_from(["x1", "b 2", "7"]), st.integers(1, 99).map(str)]
    clean += [st.integers(1, 5).map(str), st.just("n")]
    pairs = zip(clean, [IDS, IDS, TIMES, STARS, TEXT], strict=True)
    columns = [one if draw(st.integers(0, 4)) else one | dirty for one, dirty in pairs]
    table = draw(st.lists(st.tuples(*columns).map(list), min_size=draw(st.sampled_from([0, 1, 3, 3, 3])), max_size=12))
    if table and not draw(st.integers(0, 14)):  # a row with a field too few or too many
        row = draw(st.sampled_from(table))
        row[:] = row[:-1] if draw(st.booleans()) else [*row, "more"]
    return table


@st.composite
def files(draw) -> tuple[str, bytes]:
    """A table as a file: its name and bytes."""
    table, kind = draw(rows()), draw(st.sampled_from(["csv", "tsv", "csv.gz"]))
    separator = "\t" if kind == "tsv" else draw(st.sampled_from([",", ",", ";"]))
    ending = draw(st.sampled_from(["\n", "\r\n"]))
    if draw(st.integers(0, 4)):
        text = io.StringIO()
        quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
        csv.writer(text, delimiter=separator, lineterminator=ending, quoting=quoting).writerows([COLUMNS, *table])
        content = text.getvalue()
    else:  # quotes are not escaped, as scripts write that join fields
        content = "".join(separator.join(row) + ending for row in [COLUMNS, *table])
    content = draw(st.sampled_from(["", "", "\ufeff"])) + content + draw(st.sampled_from(["", "", ending]))
    return f"log.{kind}", content.encode()


def parsed(name: str, content: bytes) -> list[list[str]]:
    """What Python's own reader finds in the file."""
    text = content.decode("utf-8-sig")
    head = text.split("\n")[0]
    separator = "\t" if name.endswith("tsv") else ";" if ";" in head else ","
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))[1:]


def load(folder: Path, name: str) -> EventTable | InputError:
    try:
        return load_events(LogMapping("test", [name], user="who", item="what", timestamp="when"), folder, None)
    except InputError as error:
        return error


def same(read: object, written: str) -> bool:
    """Whether a value is what stood in the file."""
    if read is None:
        return written in ("", "NULL", r"\N") or written.lower() == "nan"
    if isinstance(read, str):
        return read == written
    if isinstance(read, int):
        return Decimal(written) == read
    return written != "" and (read == float(written) or written == "nan")


def check(folder: Path, name: str, content: bytes) -> None:
    """Rows in are rows used and rows reported, and values are those of the file."""
    (folder / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    table = load(folder, name)
    if isinstance(table, InputError):
        assert table.where
        assert table.remedy
        return
    written = parsed(name, content)
    assert sum(table.report.files.values()) == len(written)
    left = sum(note.count for note in table.report.notes if "left out" in note.reason)
    assert table.report.used == table.frame.height == len(written) - left
    for user, item, row, *feedback in table.frame.select("user", "item", "row", "stars", "note").rows():
        values = [table.users[user], table.items[item], *feedback]
        fields = written[row - 1]
        assert all(map(same, values, [*fields[:2], *fields[3:]])), (values, fields)


TYPES = [pl.Int8, pl.Int64, pl.UInt64, pl.Float32, pl.Float64, pl.String, pl.Categorical, pl.Boolean, pl.Date]
TYPES += [pl.Datetime("us"), pl.Datetime("ns", "UTC"), pl.Decimal, pl.List(pl.Int64), pl.Binary]
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=4)
CLEAN = {
    "who": [(pl.Int64, st.integers(-3, 2**62)), (pl.String, NAMES), (pl.Categorical, NAMES)],
    "what": [(pl.UInt64, st.integers(0, 2**64 - 1)), (pl.String, NAMES)],
    "when": [(pl.Int64, st.integers(0, 2_000_000_000)), (pl.Float64, st.integers(0, 2_000_000_000).map(float))],
    "stars": [(pl.Float32, st.integers(1, 5).map(float))],
    "note": [(pl.String, None)],
}


@st.composite
def typed(draw) -> pl.DataFrame:
    """A table whose columns have types. Each is clean, or may hold nulls, extremes and NaN."""
    columns = []
    for name in COLUMNS:
        clean = draw(st.integers(0, 5)) > 0
        dtype, values = draw(st.sampled_from(CLEAN[name])) if clean else (draw(st.sampled_from(TYPES)), None)
        columns.append(column(name, dtype=dtype, strategy=values, allow_null=not clean))
    return draw(dataframes(columns, max_size=8))


def check_typed(folder: Path, frame: pl.DataFrame) -> None:
    """The same of a Parquet file, whose columns have types."""
    frame.write_parquet(folder / "log.parquet")
    table = load(folder, "log.parquet")
    if isinstance(table, InputError):
        assert table.where
        assert table.remedy
        return
    left = sum(note.count for note in table.report.notes if "left out" in note.reason)
    assert table.report.used == table.frame.height == frame.height - left
    for user, item, row in table.frame.select("user", "item", "row").rows():
        assert [table.users[user], table.items[item]] == [frame["who"][row - 1], frame["what"][row - 1]]
    for name in ("stars", "note"):
        kept = frame[name].gather(table.frame["row"] - 1)
        assert table.frame[name].cast(kept.dtype).equals(kept, null_equal=True)


SETTINGS = {"deadline": None, "suppress_health_check": list(HealthCheck)}


def many(tables: st.SearchStrategy, check: Callable[[Any], None], count: int, report: Callable[[int], None]) -> None:
    """Check so many tables, and report how many there were until one failed."""
    made = 0

    @settings(max_examples=count, **SETTINGS)
    @given(tables)
    def every(table: Any) -> None:
        nonlocal made
        made += 1
        check(table)

    try:
        every()
    finally:
        report(made)


@settings(max_examples=60, **SETTINGS)
@given(files())
def test_text(tmp_path, file):
    check(tmp_path, *file)


@pytest.mark.long
def test_many_text(tmp_path, trial, share):
    report = partial(trial, "No row is lost silently", "generated tables: text")
    many(files(), lambda file: check(tmp_path, *file), share(80_000), report)


@settings(max_examples=60, **SETTINGS)
@given(typed())
def test_parquet(tmp_path, frame):
    check_typed(tmp_path, frame)


@pytest.mark.long
def test_many_parquet(tmp_path, trial, share):
    report = partial(trial, "No row is lost silently", "generated tables: Parquet")
    many(typed(), lambda frame: check_typed(tmp_path, frame), share(20_000), report)
