"""ML-100K from wherever it can be had; nothing here touches the network."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import subprocess
import zipfile
from pathlib import Path

import polars as pl
import pytest
import yaml

from recalign.data.events import Feature, ItemTable, LogMapping, fetch, load_events, read_features, read_titles
from recalign.errors import InputError

UDATA = b"196\t242\t3\t881250949\n186\t302\t3\t891717742\n22\t242\t1\t878887116\n"
ITEM = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "242\tKolya\t1996\tComedy\n302\tV\tV\tDrama Western\n"
)
INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + UDATA.decode()
LOG = LogMapping("ml-100k", ["ml-100k/u.data"], fetch="ml-100k")


def archive(members: dict[str, bytes | str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return buffer.getvalue()


def wheel_with(ratings: str) -> bytes:
    return archive({f"{fetch.WHEEL_MEMBER}.inter": ratings, f"{fetch.WHEEL_MEMBER}.item": ITEM})


@pytest.fixture
def web(monkeypatch, tmp_path):
    """A publisher and a package index, both out of reach until a test gives them something to send."""
    monkeypatch.chdir(tmp_path)
    sent: dict[str, bytes | None] = {"publisher": None, "wheel": None}
    asked: list[str] = []

    def urlopen(url: str, timeout: float) -> io.BytesIO:
        asked.append("publisher")
        assert timeout <= 15
        if sent["publisher"] is None:
            raise OSError("Name or service not known")
        return io.BytesIO(sent["publisher"])

    def run(command: list[str], **_: object) -> None:
        asked.append("wheel")
        assert command[-1] == "recbole==1.2.1"
        assert "--no-deps" in command
        if sent["wheel"] is None:
            raise subprocess.CalledProcessError(1, command, stderr="WARNING: x\nERROR: no distribution found\n")
        folder = Path(command[command.index("--dest") + 1])
        (folder / "recbole-1.2.1-py3-none-any.whl").write_bytes(sent["wheel"])

    monkeypatch.setattr(fetch.urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(fetch.subprocess, "run", run)
    monkeypatch.setattr(fetch, "SIZE", (3, 3, 2))
    zipped = archive({"ml-100k/u.data": UDATA})
    monkeypatch.setattr(fetch, "MD5", hashlib.md5(zipped).hexdigest())
    return sent, asked, zipped


def users(root: Path) -> list[int]:
    return load_events(LOG, root, "rating").users.to_list()


@pytest.mark.parametrize("name", ["ml-100k/u.data", "ml-100k.zip", "ml-100k/ml-100k.zip"])
def test_a_copy_in_the_data_root_comes_first(web, tmp_path, name):
    _, asked, zipped = web
    path = tmp_path / "mine" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(zipped if name.endswith("zip") else UDATA)
    assert users(tmp_path / "mine") == [22, 186, 196]
    assert not asked
    assert not (tmp_path / "data").exists()


def test_then_the_publisher_and_then_what_was_downloaded(web, tmp_path):
    sent, asked, zipped = web
    sent["publisher"] = zipped
    assert users(tmp_path / "mine") == [22, 186, 196]
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()] == ["mine/downloads/ml-100k.zip"]
    assert users(tmp_path / "mine") == [22, 186, 196]
    assert asked == ["publisher"]


@pytest.mark.parametrize("answer", [None, b"not the file"], ids=["out of reach", "another file"])
def test_then_the_wheel(web, tmp_path, answer):
    sent, asked, _ = web
    sent["publisher"], sent["wheel"] = answer, wheel_with(INTER)
    assert users(tmp_path / "mine") == [22, 186, 196]
    assert (tmp_path / "mine/downloads/ml-100k/u.data").read_bytes() == UDATA
    assert users(tmp_path / "mine") == [22, 186, 196]
    assert asked == ["publisher", "wheel"]


def test_the_wheel_has_years_and_genres(web, tmp_path):
    sent, _, _ = web
    sent["wheel"] = wheel_with(INTER)
    settings = yaml.safe_load((Path(__file__).parents[3] / "conf/data/ml-100k-items.yaml").read_text())["data"]["log"]
    features = {
        name: Feature(**one) if isinstance(one, dict) else one for name, one in settings["items"]["features"].items()
    }
    log = dataclasses.replace(LOG, name="ml-100k-items", items=ItemTable("ml-100k/u.item", features=features))
    found = read_features(log, tmp_path / "mine", pl.Series([242, 302]))
    assert found.values["year"].to_list() == [1996, None]
    assert found.values["genre"].to_list() == [["5"], ["8", "18"]]


def test_the_wheel_has_titles_and_an_earlier_download_without_them_is_made_whole(web, tmp_path):
    sent, asked, _ = web
    sent["wheel"] = wheel_with(INTER)
    (tmp_path / "mine/downloads/ml-100k").mkdir(parents=True)
    (tmp_path / "mine/downloads/ml-100k/u.data").write_bytes(UDATA)
    (tmp_path / "mine/downloads/ml-100k/u.item").write_bytes(b"242|Kolya (1996)" + b"|" * 22)
    log = dataclasses.replace(LOG, items=ItemTable("ml-100k/u.item"))
    for _ in range(2):
        titles, _ = read_titles(log, tmp_path / "mine", pl.Series([242, 302, 303]))
        assert titles.to_list() == ["Kolya (1996)", "V (V)", "303"]
    assert asked == ["publisher", "wheel"]


def test_else_one_error_says_where_to_put_the_file(web, tmp_path):
    with pytest.raises(InputError) as caught:
        users(tmp_path / "mine")
    message = str(caught.value)
    assert "Name or service not known" in message
    assert "ERROR: no distribution found" in message
    assert "mine/ml-100k/u.data" in message
    assert not list(tmp_path.rglob("u.data*"))


def test_a_wheel_with_other_data_is_refused(web, tmp_path):
    sent, _, _ = web
    sent["wheel"] = wheel_with(INTER + "1\t1\t1\t1\n")
    with pytest.raises(InputError, match=r"\(4, 4, 3\) ratings, users and items, not \(3, 3, 2\)"):
        users(tmp_path / "mine")


def test_a_download_that_cannot_be_written_is_never_taken_for_whole(web, tmp_path, monkeypatch):
    sent, _, zipped = web
    sent["publisher"] = zipped

    def full(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[:5])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="No space left"):
        users(tmp_path / "mine")
    monkeypatch.undo()
    assert not (tmp_path / "mine/downloads/ml-100k.zip").exists()


@pytest.mark.parametrize("inherited", [None, "ml-100k"])
def test_other_logs_fetch_nothing(web, tmp_path, inherited):
    with pytest.raises(InputError, match="there is no file"):
        load_events(LogMapping("mine", ["mine/u.data"], fetch=inherited), tmp_path, None)
    assert not web[1]
