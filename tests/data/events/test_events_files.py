"""Where a log's files are looked for, and which text is read, or refused with its row and the line that converts it."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import polars as pl
import pytest

from recalign.data.events import LogMapping, load_events
from recalign.errors import InputError

NAMES = ["user", "item", "rating", "timestamp"]
CSV = "user,item,timestamp,rating\n1,2,3,4\n1,3,4,5\n"
ROWS = "196\t242\t3\t881250949\n186\t302\t3\t891717742\n"


def pairs(log: LogMapping, root: Path) -> list[tuple]:
    table = load_events(log, root, "rating")
    users, items = table.users.gather(table.frame["user"]), table.items.gather(table.frame["item"])
    return list(zip(users.to_list(), items.to_list(), strict=True))


def refused(root: Path, content: str | bytes, name: str = "log.csv", **log) -> InputError:
    (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError) as caught:
        load_events(LogMapping("test", [name], **log), root, None)
    assert name in str(caught.value)
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize("entry", ["shop", "shop/e-*.parquet"])
def test_folders_of_parquet_are_read_by_pattern_and_below(tmp_path, entry):
    (tmp_path / "shop" / "e-2.parquet").mkdir(parents=True)
    for number, place in ((1, "e-1.parquet"), (2, "e-2.parquet/part-0.parquet")):
        row = {name: [number] for name in NAMES}
        pl.DataFrame(row).write_parquet(tmp_path / "shop" / place)
    assert pairs(LogMapping("t", [entry]), tmp_path) == [(1, 1), (2, 2)]


@pytest.mark.parametrize("entry", ["**/*.csv", "ev/**/*.csv", "ev/**"])
def test_two_stars_match_files_in_all_folders_below(tmp_path, entry):
    """As at object stores. Folders that match are not read themselves."""
    for place in ("ev/2026/01/b.csv", "ev/2026/a.csv", "ev/c.csv"):
        (file := tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        file.write_text(CSV.replace("\n1,", f"\n{file.stem},"))
    (tmp_path / "ev/x.parquet").mkdir()
    found = [user for user, _ in pairs(LogMapping("t", [entry]), tmp_path)]
    assert found == ["a", "a", "b", "b", "c", "c"]


def test_file_named_by_two_paths_is_read_once(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a.csv").write_text(CSV)
    (tmp_path / "link.csv").symlink_to("d/a.csv")
    log = LogMapping("t", ["d/a.csv", "d/../d/a.csv", "d/*.csv", "link.csv"])
    assert pairs(log, tmp_path) == [(1, 2), (1, 3)]
    assert list(load_events(log, tmp_path, None).report.files) == [str(tmp_path / "d/a.csv")]


def test_file_in_a_folder_that_is_a_table_too_is_refused(tmp_path):
    (folder := tmp_path / "d/day=1").mkdir(parents=True)
    pl.DataFrame({name: [1] for name in NAMES}).write_parquet(folder / "a.parquet")
    with pytest.raises(InputError, match="read twice"):
        load_events(LogMapping("t", ["d", "d/**/*.parquet"]), tmp_path, None)


@pytest.mark.parametrize(
    "name",
    [
        *("log.csv", "log.tsv", "log.csv.gz", "log.tsv.gz", "log.txt"),
        *("log[1].csv", "log*.csv", "a 'b' [red].csv", "^log.*$.csv"),
    ],
)
def test_compressed_files_and_unusual_names_are_read(tmp_path, name):
    text = "\ufeff" + (CSV.replace(",", "\t") if ".tsv" in name else CSV)
    (tmp_path / "log1.csv").write_text(CSV.replace("1,2", "9,9"))  # what the name would match as a pattern
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    assert pairs(LogMapping("own", [name]), tmp_path) == [(1, 2), (1, 3)]


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
@pytest.mark.parametrize("header", [True, False], ids=["header", "headerless"])
@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_separators_are_found_with_and_without_a_header(tmp_path, separator, header, kind):
    rows = [["u1", "007", "3.5", "7"], ["u1", '"a, b"', "4", "8"]]
    lines = [separator.join(row) for row in ([NAMES] if header else []) + rows]
    (tmp_path / f"log.{kind}").write_text("\n".join(lines) + "\n")
    log = LogMapping("test", [f"log.{kind}"], header=None if header else NAMES)
    assert pairs(log, tmp_path) == [("u1", "007"), ("u1", "a, b")]


def test_longer_separators_are_refused_with_a_conversion_that_works(tmp_path, monkeypatch):
    (tmp_path / "log.txt").write_text(CSV.replace(",", "#"))
    assert pairs(LogMapping("test", ["log.txt"], separator="#"), tmp_path) == [(1, 2), (1, 3)]
    with pytest.raises(InputError, match=r"separator: '::' is not one byte") as caught:
        pairs(LogMapping("test", ["log.txt"], separator="::"), tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.dat").write_text("1::7::5::10\n2::8::3::20\n")
    exec(caught.value.remedy.split('python -c "')[1].removesuffix('"'), {})
    log = LogMapping("test", ["new.parquet"], user="field_0", item="field_1", timestamp="field_3")
    assert load_events(log, tmp_path, None).users.to_list() == ["1", "2"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("log.csv", "user,item,timestamp\nJosé,1,1\n".encode("latin-1")),
        ("log.csv", "usér,item,timestamp\nJ,1,1\n".encode("latin-1")),
        ("log.csv", CSV.encode("utf-16")),
        ("log.dat", "user::item::timestamp\n1::2::3\n"),
        ("log.csv.zst", b"\x28\xb5\x2f\xfd" + bytes(range(256))),
        ("log.xlsx", b"PK\x03\x04\x14\x00\x06\x00" + bytes(range(256))),
        ("log.zip", b"PK\x03\x04\x14\x00\x06\x00" + bytes(range(256))),
        ("log.csv.gz", gzip.compress(CSV.encode() * 1000)[:-20]),
        ("log.csv.gz", CSV.encode()),
    ],
)
def test_other_encodings_are_refused_with_a_conversion_that_works(tmp_path, name, content):
    assert "write_parquet" in refused(tmp_path, content, name).remedy


@pytest.mark.parametrize(
    ("header", "text", "found"),
    [
        (None, ROWS, "data.log.user: .*there is: 196.*header.*init FILE"),
        (None, "anna,chair,2026-03-01\n", "there is no column 'user'.*there is: anna, chair"),
        (None, "user,item,timestamp\r1,2,3\r1,3,4\r", "do not all end in LF"),
        (["user", "item", "item", "timestamp"], ROWS, "data.log.header: 3 columns are named"),
        (NAMES[:3], ROWS, "data.log.header: 3 columns are named, but .*log.csv has 4.*196, 242, 3, 881250949"),
        (["user", "item", "at", "by"], ROWS, "data.log.timestamp: there is no column 'timestamp'"),
        (NAMES, "1,2,3,4\n1,2,3,4,5\n", r"log\.csv: 4 fields a row are expected, but row 2 has 5"),
        (NAMES, "", "is empty"),
        (None, f"{CSV}1,2\n1,3,4,5\n5\n", "4 fields a row are expected, but row 3 has 2, row 5 has 1"),
        (None, f"\n{CSV}1,2,3\n", r"\(header not counted\): 4 fields a row are expected, but row 3 has 3"),
        (None, 'user,item,timestamp\n"x,1,1\ny,2,2\n', "row 1 has a quote"),  # ends inside quotes
        (None, 'user,item,timestamp\nx,1,1\ny,2,"25', "row 2 has a quote"),  # for which Polars takes 2
        (None, 'user,item,timestamp,note\n1,7,1,"\n1,7,1,a "b" c\n1,7,1,"\n', "row 1 has a quote"),
    ],
)
def test_bad_csv_rows_are_named(tmp_path, header, text, found):
    message = str(refused(tmp_path, text, header=header))
    assert re.search(found, message, re.DOTALL), message


def test_mixing_text_and_parquet_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text(CSV)
    pl.DataFrame({name: [1] for name in NAMES}).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(InputError, match="mixes text files with others, such as Parquet"):
        load_events(LogMapping("test", ["a.csv", "b.parquet"]), tmp_path, None)


def test_blank_first_lines_and_long_fields_are_read(tmp_path):
    (tmp_path / "log.csv").write_text("\nuser;item;timestamp;rating\n1;2;3;4\n1;3;4;5\n")
    assert pairs(LogMapping("test", ["log.csv"]), tmp_path) == [(1, 2), (1, 3)]
    (tmp_path / "log.csv").write_text(f"user,item,timestamp,rating,text,last\n1,2,3,4,{'x' * 140_000},\n1,3,4,5,b,c\n")
    assert pairs(LogMapping("test", ["log.csv"]), tmp_path) == [(1, 2), (1, 3)]
