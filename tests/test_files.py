"""Files whole or not at all, and digests."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from recalign import files
from recalign.cli import main
from recalign.errors import InputError
from recalign.files import atomic_write, digest, sha256, write_json, write_text


def test_failed_write_leaves_the_old_file(tmp_path: Path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text(f"half {1 // 0}")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def hidden(number: int) -> None:
    """As `torch.save` does: raise another error while the system's is handled."""
    try:
        raise OSError(number, os.strerror(number))
    except OSError:
        raise RuntimeError("unexpected pos 351552 vs 351440")  # noqa: B904


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_disk_errors_hidden_by_writers_are_named(tmp_path: Path, number: int):
    with pytest.raises(OSError, match=os.strerror(number)) as caught, atomic_write(tmp_path / "a"):
        hidden(number)
    assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path / "a"))
    with pytest.raises(RuntimeError, match="unexpected pos"), atomic_write(tmp_path / "a"):
        hidden(errno.EIO)
    with pytest.raises(OSError, match=os.strerror(number)), atomic_write(tmp_path / "a"):  # as Polars says it
        raise pl.exceptions.ComputeError(f"{os.strerror(number)} (os error {number})")


@pytest.mark.parametrize(("total", "free", "said"), [(9, 0, "No space left"), (9, 1, "odd"), (0, 0, "odd")])
def test_unexplained_errors_on_a_full_disk_are_disk_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, total: int, free: int, said: str
):
    """NumPy says that it wrote less than it should, without a number. Some file systems tell no size."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=total, free=free))
    for error in (OSError("odd"), RuntimeError("odd")):
        with pytest.raises((OSError, RuntimeError), match=said), atomic_write(tmp_path / "new" / "a"):
            raise error
    with pytest.raises(InputError, match="odd"), atomic_write(tmp_path / "a"):
        raise InputError("odd")
    with pytest.raises(PermissionError), atomic_write(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "no")


@pytest.mark.parametrize("name", ["there", "."])
def test_folder_in_place_of_a_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    """What was named is a path beside it, which nobody had given."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    with pytest.raises(IsADirectoryError) as refused, atomic_write(Path(name)):
        pass
    assert refused.value.filename == name


def test_commands_name_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    monkeypatch.setattr("recalign.cli._run", lambda *_: write_text(tmp_path / "a", "text"))
    assert main(["compare", "runs"]) == 2
    assert f"recalign compare: {tmp_path / 'a'}: cannot be written: No space left on device" in capsys.readouterr().err
    monkeypatch.setattr("recalign.cli._run", lambda *_: (tmp_path / "nowhere").read_text())
    with pytest.raises(FileNotFoundError):
        main(["compare", "runs"])
    monkeypatch.setattr("recalign.cli._run", full)  # not of a file: standard output, say
    assert main(["compare", "runs"]) == 2
    assert "No space left on device (disk mounted at " in capsys.readouterr().err


def test_broken_pipe_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """As `head` leaves; it counts as an OSError too."""

    def left(*_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    monkeypatch.setattr("recalign.cli._run", left)
    with open(tmp_path / "out", "w") as out:
        monkeypatch.setattr("sys.stdout", out)
        assert main(["configs"]) == 141


def test_stale_temporary_files_are_removed_once_old(tmp_path: Path):
    """A younger one may be of a process that lives, perhaps on another machine."""
    old, young, others = ("[a].txt.9001", "[a].txt.9002.earlier"), "[a].txt.9003", ("[a].txt.lock", "a.txt.9004")
    for name in (*old, young, *others):
        (tmp_path / f".{name}").write_text("half")
    (tmp_path / ".[a].txt.9005").mkdir()
    week_ago = time.time() - 7.1 * 86_400
    for path in tmp_path.iterdir():
        if path.name != f".{young}":
            os.utime(path, (week_ago, week_ago))
    write_text(tmp_path / "[a].txt", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"[a].txt", f".{young}", *(f".{name}" for name in others)}


def test_write_text_makes_folders_and_writes_utf8(tmp_path: Path):
    write_json(tmp_path / "b" / "c.json", {"ü": 1})
    assert (tmp_path / "b" / "c.json").read_bytes().decode() == '{\n  "ü": 1\n}\n'


def test_digest_depends_on_values_only(tmp_path: Path):
    assert digest({"a": 1, "b": [2]}, None) == digest({"b": [2], "a": 1}, None)
    assert digest({"a": 1}) != digest({"a": "1"})
    write_text(tmp_path / "x", "abc")
    assert sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_sha256_is_cached_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, reads = tmp_path / "x", []
    hashed = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: reads.append(file.name) or hashed(file, name))
    path.write_text("abc")
    first = [sha256(path), sha256(path)]
    assert len(reads) == 2  # it had just been written, so a clock may not tell a second write
    monkeypatch.setattr(files, "SETTLED", -1.0)
    assert [sha256(path), sha256(path)] == first
    assert len(reads) == 3
    before = path.stat()
    path.write_text("abd")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a copy that keeps times
    assert sha256(path) not in first


def test_folder_without_write_permission_is_named(tmp_path: Path):
    with pytest.raises(PermissionError) as caught, atomic_write(tmp_path / "lists.parquet"):
        raise PermissionError("Permission denied (os error 13): .lists.parquet.7")  # as Polars does
    assert (caught.value.errno, caught.value.filename) == (errno.EACCES, str(tmp_path / "lists.parquet"))
