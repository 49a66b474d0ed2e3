"""Layouts, zips and where they are looked for."""

from __future__ import annotations

import gzip
import re
import zipfile
from pathlib import Path

import polars as pl
import pytest

from recalign.data.events import LogMapping, files, load_events
from recalign.errors import InputError

UDATA = "196\t242\t3\t881250949\n186\t302\t3\t891717742\n22\t377\t1\t878887116\n"
DAT = "1::1193::5::978300760\n1::661::3::978302109\n2::1357::3.5::978298709\n"
PAIRS = {"u.data": (UDATA, [(22, 377), (186, 302), (196, 242)]), "ratings.dat": (DAT, [(1, 1193), (1, 661), (2, 1357)])}


def zipped(path: Path, members: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)


def pairs(log: LogMapping, root: Path) -> list[tuple]:
    table = load_events(log, root, "rating")
    users, items = table.users.gather(table.frame["user"]), table.items.gather(table.frame["item"])
    return list(zip(users.to_list(), items.to_list(), strict=True))


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("ending", ["\n", "\r\n"], ids=["unix", "windows"])
def test_movielens_layouts(tmp_path, name, ending):
    text, expected = PAIRS[name]
    (tmp_path / "ml").mkdir()
    (tmp_path / "ml" / name).write_bytes(text.replace("\n", ending).encode())
    assert pairs(LogMapping("ml", [f"ml/{name}"]), tmp_path) == expected


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(
    ("place", "entry"),
    [
        ("ml.zip", "ml/NAME"),
        ("ml.zip", "ml.zip"),
        ("ml.zip", "m*.zip"),
        ("ml/ml.zip", "ml/NAME"),
        ("ml/ml.zip", "ml.zip"),
        ("ml/ml.zip", "ml/ml.zip"),
    ],
)
def test_zips_as_downloaded(tmp_path, name, place, entry):
    text, expected = PAIRS[name]
    zipped(tmp_path / place, {"ml/README": "read me", "ml/movies.dat": "1::Amélie", f"ml/{name}": text})
    assert pairs(LogMapping("ml", [entry.replace("NAME", name)]), tmp_path) == expected


def test_members_of_one_name_are_told_by_their_folder(tmp_path):
    head = "user,item,rating,timestamp\n"
    zipped(tmp_path / "shop.zip", {"2023/e.csv": head + "1,1,1,1\n", "2024/e.csv": head + "2,2,2,2\n2,3,1,3\n"})
    assert pairs(LogMapping("t", ["shop/2024/e.csv"]), tmp_path) == [(2, 2), (2, 3)]
    assert pairs(LogMapping("t", ["shop/2023/e.csv", "shop/2024/e.csv"]), tmp_path) == [(1, 1), (2, 2), (2, 3)]
    with pytest.raises(InputError, match=r"holds 2 files named e\.csv, and 'shop/e\.csv' does not tell which"):
        pairs(LogMapping("t", ["shop/e.csv"]), tmp_path)
    zipped(tmp_path / "other.zip", {"v2/2023/e.csv": head + "1,1,1,1\n", "v2/2024/e.csv": head + "2,2,2,2\n2,3,1,3\n"})
    assert pairs(LogMapping("t", ["other/2024/e.csv"]), tmp_path) == [(2, 2), (2, 3)]


@pytest.mark.parametrize("entry", ["shop", "shop/e-*.parquet"])
def test_folders_of_parquet_are_read_by_pattern_and_below(tmp_path, entry):
    (tmp_path / "shop" / "e-2.parquet").mkdir(parents=True)
    for number, place in ((1, "e-1.parquet"), (2, "e-2.parquet/part-0.parquet")):
        row = {name: [number] for name in ("user", "item", "rating", "timestamp")}
        pl.DataFrame(row).write_parquet(tmp_path / "shop" / place)
    assert pairs(LogMapping("t", [entry]), tmp_path) == [(1, 1), (2, 2)]


def test_the_unpacked_file_comes_first(tmp_path):
    zipped(tmp_path / "ml.zip", {"ml/u.data": "1\t1\t1\t1\n"})
    (tmp_path / "ml").mkdir()
    (tmp_path / "ml" / "u.data").write_text(UDATA)
    assert pairs(LogMapping("ml", ["ml/u.data"]), tmp_path) == PAIRS["u.data"][1]


def test_csv_tsv_and_a_zip_of_one(tmp_path):
    text = "user,item,rating,timestamp\n5,6,3,7\n5,7,4,8\n"
    (tmp_path / "a.csv").write_text("\ufeff" + text)
    (tmp_path / "b.tsv").write_text(text.replace(",", "\t"))
    zipped(tmp_path / "c.zip", {"README.txt": "", "__MACOSX/._events.csv": "", "events.csv": text})
    (tmp_path / "d[1].csv").write_text(text)
    for entry in ("a.csv", "b.tsv", "c.zip"):
        assert pairs(LogMapping("test", [entry]), tmp_path) == [(5, 6), (5, 7)]


def test_numbers_after_the_first_hundred_rows_keep_their_fraction(tmp_path):
    rows = [f"1,{item},{item},5" for item in range(200)] + ["1,200,200,4.5"]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,timestamp,rating", *rows]))
    assert load_events(LogMapping("test", ["log.csv"]), tmp_path, "rating").frame["reward"][-1] == 4.5


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("u.data", UDATA.replace("891717742", "later"), "holds 'later' in row 2 of"),
        ("u.data", UDATA.replace("186\t302\t3\t891717742", "186\t302"), "4 fields a row are expected, but row 2 has 2"),
        ("ratings.dat", DAT.replace("::978302109", "::978302109::1"), "4 fields a row are expected, but row 2 has 5"),
        ("ratings.dat", DAT.replace("1::661", "::661"), "user is empty, null or NaN in row 2 of"),
        ("u.data", "", "the log is empty"),
    ],
)
def test_bad_movielens_rows(tmp_path, name, text, found):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        load_events(LogMapping("ml", [name]), tmp_path, "rating")
    assert found in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize("kept", [0, 10, 0.5, -30])
def test_truncated_zip(tmp_path, kept):
    zipped(tmp_path / "ml.zip", {"ml/u.data": UDATA * 100})
    whole = (tmp_path / "ml.zip").read_bytes()
    (tmp_path / "ml.zip").write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(InputError, match=r"ml\.zip: cannot be read as zip"):
        load_events(LogMapping("ml", ["ml/u.data"]), tmp_path, "rating")


def test_damaged_member(tmp_path):
    zipped(tmp_path / "ml.zip", {"ml/u.data": UDATA * 100})
    whole = bytearray((tmp_path / "ml.zip").read_bytes())
    whole[60:70] = b"\xff" * 10
    (tmp_path / "ml.zip").write_bytes(bytes(whole))
    with pytest.raises(InputError, match="cannot be read as zip"):
        load_events(LogMapping("ml", ["ml/u.data"]), tmp_path, "rating")


@pytest.mark.parametrize("entry", ["two.zip", "two/u.data"])
def test_a_zip_without_the_log(tmp_path, entry):
    zipped(tmp_path / "two.zip", {"a.csv": "x", "b.csv": "x"})
    with pytest.raises(InputError, match=r"it holds: a\.csv, b\.csv"):
        load_events(LogMapping("test", [entry]), tmp_path, None)


def test_unknown_kinds_and_encodings(tmp_path):
    (tmp_path / "log.xlsx").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"files named 'log\.xlsx' cannot be read"):
        load_events(LogMapping("test", ["log.xlsx"]), tmp_path, None)
    (tmp_path / "log.csv").write_bytes("user,item,timestamp\nJosé,1,1\n".encode("latin-1"))
    with pytest.raises(InputError, match="must be UTF-8"):
        load_events(LogMapping("test", ["log.csv"]), tmp_path, None)
    (tmp_path / "log.csv").write_text('user,item,timestamp\n"x,1,1\ny,2,2\n')
    with pytest.raises(InputError, match=r"log\.csv"):
        load_events(LogMapping("test", ["log.csv"]), tmp_path, None)


NAMES = ["user", "item", "rating", "timestamp"]


@pytest.mark.parametrize("separator", [",", "\t", ";", "|", "::"])
@pytest.mark.parametrize("header", [True, False], ids=["header", "headerless"])
@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_separators_are_found_with_and_without_a_header(tmp_path, separator, header, kind):
    rows = [["u1", "007", "3.5", "7"], ["u1", '"a, b"', "4", "8"]]
    lines = [separator.join(row) for row in ([NAMES] if header else []) + rows]
    (tmp_path / f"log.{kind}").write_text("\n".join(lines) + "\n")
    log = LogMapping("test", [f"log.{kind}"], header=None if header else NAMES)
    assert pairs(log, tmp_path) == [("u1", "007"), ("u1", "a, b")]


def test_a_separator_can_be_named_and_other_endings_read(tmp_path):
    (tmp_path / "log.txt").write_text("user#item#timestamp#rating\n1#2#3#4\n1#3#4#5\n")
    assert pairs(LogMapping("test", ["log.txt"], separator="#"), tmp_path) == [(1, 2), (1, 3)]
    with pytest.raises(InputError, match=r"set data\.log\.separator"):
        load_events(LogMapping("test", ["log.txt"]), tmp_path, None)


@pytest.mark.parametrize(
    ("header", "text", "found"),
    [
        (
            None,
            UDATA,
            "data.log.user: there is no column 'user' in .*first row looks like data.*196.*header.*init FILE",
        ),
        (None, "anna,chair,2026-03-01\n", "there is no column 'user'.*looks like data"),
        (None, "who,what,when\na,b,1\n", "there is no column 'user'.*there is: who, what, when"),
        (NAMES[:3], UDATA, "data.log.header: 3 columns are named, but .*log.csv has 4.*196, 242, 3, 881250949"),
        (["user", "item", "at", "by"], UDATA, "data.log.timestamp: there is no column 'timestamp'"),
        (NAMES, "1,2,3,4\n1,2,3\n", "4 fields a row are expected, but row 2 has 3"),
        (NAMES, "1,2,3,4\n1,2,3,4,5\n", "4 fields a row are expected, but row 2 has 5"),
        (NAMES, "1,2,3,4\n,2,3,4\n", r"user is empty, null or NaN in row 2 of .*log\.csv\n"),
        (NAMES, "", "is empty"),
    ],
)
def test_bad_headerless_files(tmp_path, header, text, found):
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        load_events(LogMapping("test", ["log.csv"], header=header), tmp_path, None)
    assert re.search(found, str(caught.value), re.DOTALL)
    assert "header not counted" not in str(caught.value)


def test_a_name_given_twice_is_refused():
    with pytest.raises(InputError, match="a name appears twice"):
        LogMapping("test", ["log.csv"], header=["user", "item", "item"])


CSV = "user,item,timestamp,rating\n1,2,3,4\n1,3,4,5\n"


@pytest.mark.parametrize(
    "name", ["log.csv.gz", "log.tsv.gz", "log[1].csv", "log*.csv", "a 'b' [red].csv", "^log.*$.csv"]
)
def test_names_and_compression(tmp_path, name):
    text = CSV.replace(",", "\t") if ".tsv" in name else CSV
    (tmp_path / "log1.csv").write_text(CSV.replace("1,2", "9,9"))  # what the name would match as a pattern
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    assert pairs(LogMapping("own", [name]), tmp_path) == [(1, 2), (1, 3)]


@pytest.mark.parametrize("name", ["log.csv.zst", "log.csv.bz2", "log.xlsx", "log.json", "log.7z"])
def test_files_that_cannot_be_read_are_refused_by_name(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x28\xb5\x2f\xfd")
    with pytest.raises(InputError, match=re.escape(f"files named {name!r} cannot be read")) as caught:
        load_events(LogMapping("own", [name]), tmp_path, None)
    assert "unpack" in str(caught.value.remedy)


def link(archive: zipfile.ZipFile) -> None:
    info = zipfile.ZipInfo("log.csv")
    info.external_attr = 0o120777 << 16
    archive.writestr(info, "/etc/passwd")


@pytest.mark.parametrize(
    "put",
    [
        lambda archive: archive.writestr("../log.csv", CSV),
        lambda archive: archive.writestr("/tmp/log.csv", CSV),
        lambda archive: archive.writestr("a/../../log.csv", CSV),
        link,
    ],
    ids=["above", "absolute", "through", "link"],
)
def test_zips_that_point_outside(tmp_path, put):
    with zipfile.ZipFile(tmp_path / "log.zip", "w") as archive:
        put(archive)
    with pytest.raises(InputError, match="points outside the zip"):
        load_events(LogMapping("own", ["log.zip"]), tmp_path, "rating")


@pytest.mark.parametrize("kind", ["zip", "csv.gz"])
def test_what_unpacks_without_end_is_refused(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(files, "MAX_UNPACKED", 1000)
    content = b"1,1,1,1\n" * 100_000
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "log.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("log.csv", content)
    else:
        (tmp_path / "log.csv.gz").write_bytes(gzip.compress(content))
    with pytest.raises(InputError, match="unpack to more than"):
        load_events(LogMapping("own", [f"log.{kind}"]), tmp_path, "rating")


def test_a_zip_with_a_password(tmp_path):
    zipped(tmp_path / "log.zip", {"log.csv": CSV})
    content = bytearray((tmp_path / "log.zip").read_bytes())
    content[6] |= 1  # the flag that says encrypted, in the member's own header and in the directory
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "log.zip").write_bytes(content)
    with pytest.raises(InputError, match="password"):
        load_events(LogMapping("own", ["log.zip"]), tmp_path, "rating")


def test_a_separator_within_quotes_is_text(tmp_path):
    (tmp_path / "log.csv").write_text('user::item::timestamp\n1::"a::b"::3\n1::"c"::4\n')
    log = LogMapping("test", ["log.csv"])
    assert load_events(log, tmp_path, None).items.to_list() == ["a::b", "c"]
    (tmp_path / "log.csv").write_text('"us::er"::item::timestamp\n007::2::3\n')
    assert load_events(LogMapping("test", ["log.csv"], user="us::er"), tmp_path, None).users.to_list() == ["007"]


def test_lines_that_end_in_cr_alone_are_named(tmp_path):
    (tmp_path / "log.csv").write_bytes(b"user,item,timestamp\r1,2,3\r1,3,4\r")
    with pytest.raises(InputError, match=r"log\.csv: its lines end in CR alone"):
        load_events(LogMapping("test", ["log.csv"]), tmp_path, None)
    (tmp_path / "log.csv").write_bytes(b'user,item,timestamp,rating,"te\rxt"\n1,2,3,4,x\n1,3,4,5,y\n')
    assert pairs(LogMapping("test", ["log.csv"]), tmp_path) == [(1, 2), (1, 3)]


def test_a_blank_first_line_and_a_field_of_any_length(tmp_path):
    (tmp_path / "log.csv").write_text("\nuser;item;timestamp;rating\n1;2;3;4\n1;3;4;5\n")
    assert load_events(LogMapping("test", ["log.csv"]), tmp_path, "rating").frame["reward"].to_list() == [4, 5]
    (tmp_path / "log.csv").write_text("\nuser,item,timestamp,rating\n1,2,3,4\n1,3,4\n")
    with pytest.raises(InputError, match="row 2 has 3"):
        load_events(LogMapping("test", ["log.csv"]), tmp_path, "rating")
    long = "x" * 140_000
    (tmp_path / "log.csv").write_text(f"user,item,timestamp,rating,text,last\n1,2,3,4,{long},\n1,3,4,5,b,c\n")
    assert pairs(LogMapping("test", ["log.csv"]), tmp_path) == [(1, 2), (1, 3)]
