"""Titles of items: whose they are, which one counts, and what cannot be one."""

from __future__ import annotations

import dataclasses
import zipfile

import polars as pl
import pytest

from recalign.errors import InputError
from recalign.events import LogMapping, Titles, fingerprint, read_titles

ITEMS = pl.Series("item", [7, 8, 9])


def log_with(file: str = "names.csv", **columns) -> LogMapping:
    return LogMapping("test", ["log.csv"], titles=Titles(file, **columns))


@pytest.fixture
def root(tmp_path):
    (tmp_path / "log.csv").write_text("user,item,timestamp\n1,7,1\n")
    return tmp_path


def test_titles_are_aligned_and_a_missing_one_is_the_id(root):
    (root / "names.csv").write_text(
        "year,title,item\n1999,Nine,9\n2000,Seven,7\n2001,Again seven,7\n2002,,8\n2003,Six,6\n"
    )
    titles, counts = read_titles(log_with(), root, ITEMS)
    assert titles.to_list() == ["Seven", "8", "Nine"]
    assert list(counts.values()) == [2, 1, 1]


def test_a_log_without_titles_shows_ids(root):
    titles, counts = read_titles(LogMapping("test", ["log.csv"]), root, ITEMS)
    assert (titles.to_list(), counts) == (["7", "8", "9"], {})


@pytest.mark.parametrize(
    ("ids", "items"),
    [
        ([7, 8], ["7", "8"]),
        ([7.0, 8.0], ["7", "8"]),
        (["7", "8"], [7, 8]),
        (["7", "x"], [7, 9]),
        ([7.0, None], [7, 8]),
        (pl.Series(["7", "8"], dtype=pl.Categorical), [7, 8]),
    ],
)
def test_ids_are_read_as_the_logs_are(root, ids, items):
    pl.DataFrame({"sku": ids, "name": ["seven", "eight"]}).write_parquet(root / "names.parquet")
    log = log_with("names.parquet", id="sku", title="name")
    assert read_titles(log, root, pl.Series(items))[0][0] == "seven"


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("u.item", "7|Amélie, Le (2001)|01-Jan-2001||http://x" + "|0" * 19),
        ("movies.dat", '7::Amélie: a "film" (2001)::Comedy'),
    ],
)
def test_movielens_layouts(root, name, text, zipped):
    if zipped:
        with zipfile.ZipFile(root / "ml.zip", "w") as archive:
            archive.writestr(f"ml/{name}", text.encode("latin-1"))
    else:
        (root / "ml").mkdir()
        (root / "ml" / name).write_bytes(text.encode("latin-1"))
    titles, _ = read_titles(log_with(f"ml/{name}"), root, ITEMS)
    assert titles[0].startswith("Amélie")
    assert titles[0].endswith("(2001)")


@pytest.mark.parametrize(
    ("text", "columns", "found"),
    [
        (None, {}, r"data\.log\.titles\.file: there is no file 'names\.csv'"),
        ("item,title\n7,Seven\n", {"id": "itme"}, r"data\.log\.titles\.id: there is no column 'itme'.*mean 'item'"),
        ("item,title\n7,Seven\n", {"title": "name"}, r"data\.log\.titles\.title: there is no column 'name'"),
        ("7,Seven\n8,Eight\n", {}, "first row looks like data"),
        ("item,title\n107,Seven\n", {}, r"data\.log\.titles: .*title of none of the 3 items.*\[107\].*\[7, 8, 9\]"),
        ("", {}, "the file is empty"),
    ],
)
def test_bad_titles(root, text, columns, found):
    if text is not None:
        (root / "names.csv").write_text(text)
    with pytest.raises(InputError, match=f"(?s){found}") as caught:
        read_titles(log_with(**columns), root, ITEMS)
    assert caught.value.remedy


def test_titles_do_not_change_the_fingerprint(root):
    (root / "names.csv").write_text("item,title\n7,Seven\n")
    log = log_with()
    before = fingerprint(log, root, None)
    (root / "names.csv").write_text("item,title\n7,Another\n")
    assert fingerprint(log, root, None) == before
    assert fingerprint(dataclasses.replace(log, titles=None), root, None) == before
    assert fingerprint(dataclasses.replace(log, name="other"), root, None) != before
