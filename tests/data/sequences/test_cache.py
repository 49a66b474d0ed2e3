from __future__ import annotations

import errno
import hashlib
import importlib
import os
import shutil
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small

from recalign import files
from recalign.data.events import Feature, ItemTable, audit, items
from recalign.data.sequences import EventDataModule, High, LeaveLast, RelativeTo
from recalign.data.sequences import data as data_file
from recalign.data.sequences.audit import audit_log
from recalign.data.sequences.cache import UNUSED_DAYS, CacheEntry, cache_folder
from recalign.errors import InputError


@pytest.fixture
def root(log_root, tmp_path) -> Path:
    """A data root of its own, whose file may be changed."""
    shutil.copy(log_root / "small.csv", tmp_path)
    return tmp_path


@pytest.fixture
def make(root):
    def module(**settings) -> EventDataModule:
        return small.data_of(EventDataModule, root, **{"cache": str(root / "kept"), **settings})

    return module


class Gap(LeaveLast):
    """A split that adds settings to those of ours."""

    def __init__(self, gap: int, days: np.ndarray) -> None:
        super().__init__(2, 2)
        self.gap, self.days = gap, days


def test_fingerprint_includes_settings_of_custom_splits(make):
    days = np.arange(2000)
    others = [Gap(0, days), Gap(0, days.copy()), Gap(30, days), Gap(0, np.where(days == 1000, 0, days))]
    marks = [make(split=split).fingerprint for split in others]
    assert marks[0] == marks[1]
    assert len(set(marks)) == 3


def entries(root: Path) -> list[Path]:
    return sorted((root / "kept").iterdir())


def forbid_reading(monkeypatch) -> None:
    monkeypatch.setattr(data_file, "load_events", lambda *_: pytest.fail("the log was read"))


def assert_same(one: EventDataModule, other: EventDataModule) -> None:
    assert one.sequences.frame.equals(other.sequences.frame)
    assert one.sequences.frame.schema == other.sequences.frame.schema
    assert one.sequences.users.equals(other.sequences.users)
    assert one.sequences.items.equals(other.sequences.items)
    for name in ("group", "offset", "item", "time", "reward", "event"):
        ours, theirs = getattr(one.sequences, name), getattr(other.sequences, name)
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    assert (one.fingerprint, one.sequences.catalogue) == (other.fingerprint, other.sequences.catalogue)
    assert one.report == other.report


def test_cached_log_is_equal_and_reads_no_events(make, monkeypatch):
    first = make()
    sections = audit_log(first)
    of_log = list(audit(first.table))
    forbid_reading(monkeypatch)
    second = make()
    assert_same(second, first)
    assert audit_log(second) == sections
    assert list(sections)[: len(of_log)] == of_log


def test_files_are_hashed_and_item_tables_parsed_once(root, make, monkeypatch):
    (root / "items.csv").write_text("item,title\n" + "".join(f"{item},{item % 3}\n" for item in range(200)))
    table = ItemTable("items.csv", features={"kind": Feature("title", kind="category")})
    done, hashed, parsed = Counter(), hashlib.file_digest, items.read
    monkeypatch.setattr(files, "SETTLED", -1.0)
    monkeypatch.setattr(hashlib, "file_digest", lambda file, _: done.update([Path(file.name).name]) or hashed(file, _))
    monkeypatch.setattr(items, "read", lambda file, text: done.update(["parsed"]) or parsed(file, text))

    def audited() -> tuple[int, int, int]:
        data = make()
        data.log_ = replace(data.log_, items=table)
        audit_log(data)
        return done["small.csv"], done["items.csv"], done["parsed"]

    assert {audited() for _ in range(2)} == {(1, 1, 1)}
    (root / "items.csv").write_text((root / "items.csv").read_text().replace("2\n", "3\n"))
    assert audited() == (1, 2, 2)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel says what is mapped")
def test_numeric_columns_are_memory_mapped_after_caching(make, monkeypatch):
    """Numbers are mapped, right after the first reading too; the figures of the log need no second reading."""
    first = make()
    audit_log(first)
    forbid_reading(monkeypatch)
    assert "table" not in vars(first)
    for data in (first, make()):
        for name, dtype in data.sequences.frame.schema.items():
            if dtype.is_numeric() and not data.sequences.frame[name].null_count():
                assert is_mapped(data.sequences.frame[name].to_numpy()), name


def is_mapped(array: np.ndarray) -> bool:
    """Whether an array lies in a file of the cache, by the kernel's list of what is mapped."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(end, 16) for end in line.split()[0].split("-"))
        if first <= array.ctypes.data < last:
            return line.endswith(".npy")
    return False


def test_fingerprint_reads_no_events(make, monkeypatch):
    known = make().sequences.fingerprint
    forbid_reading(monkeypatch)
    assert make(cache=False).fingerprint == known


def test_changed_files_are_read_even_with_equal_size_and_time(make, root):
    path = root / "small.csv"
    before, when = make().sequences, path.stat()
    text = path.read_text().splitlines()
    text[1:] = reversed(text[1:])
    path.write_text("\n".join(text) + "\n")
    os.utime(path, ns=(when.st_atime_ns, when.st_mtime_ns))
    assert path.stat().st_size == when.st_size
    after = make().sequences
    assert after.fingerprint != before.fingerprint
    assert after.frame["row"].to_list() != before.frame["row"].to_list()


@pytest.mark.parametrize("cached", [True, False])
def test_files_that_change_while_being_read_are_refused(make, root, monkeypatch, cached):
    data = make() if cached else make(cache=False)
    made = data.preparation._made

    def changing():
        found = made()
        (root / "small.csv").write_text((root / "small.csv").read_text() + "9,9,9,9\n")
        return found

    monkeypatch.setattr(data.preparation, "_made", changing)
    with pytest.raises(InputError, match="changed while they were read"):
        data.sequences  # noqa: B018


@pytest.mark.parametrize(
    "setting",
    [
        {"reward": "rating + 1"},
        {"high": High("reward >= 5")},
        {"high": None},
        {"high": None, "relative_to": RelativeTo("item", 3)},
        {"split": LeaveLast(test=2, validation=2)},
        {"share_a": 0.5},
    ],
    ids=str,
)
def test_settings_that_change_the_log_have_their_own_cache_entry(make, root, setting):
    make().sequences  # noqa: B018
    fresh = make(**setting, cache=False)
    assert_same(make(**setting), fresh)
    assert len(entries(root)) == 2


def test_batch_settings_share_a_cache_entry(make, root):
    for settings in ({}, {"max_length": 8}, {"users": "B1"}, {"seed": 3}, {"batch_tokens": 64}):
        make(**settings).sequences  # noqa: B018
    assert len(entries(root)) == 1


def test_changed_code_has_its_own_cache_entry(root):
    class Mine(LeaveLast):
        """A split of the user's own, in a file of the user's own."""

    cache = str(root)
    assert CacheEntry.of(cache, "log", "f", Mine()) != CacheEntry.of(cache, "log", "f", LeaveLast())
    assert CacheEntry.of(cache, "a/b", "f", LeaveLast()).path.parent == root
    Mine.__module__ = "typed_into_a_notebook"
    assert CacheEntry.of(cache, "log", "f", Mine()) is None


def test_edited_custom_splits_have_their_own_cache_entry(make, root, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # it is known by size and whole seconds
    text = "from recalign.data.sequences import LeaveLast\n\n\nclass Mine(LeaveLast):\n    note = {}\n"
    for note in (2, 3):
        (tmp_path / "my_split.py").write_text(text.format(note))
        sys.modules.pop("my_split", None)
        make(split=importlib.import_module("my_split").Mine()).sequences  # noqa: B018
    assert len(entries(root)) == 2


@pytest.mark.parametrize("file", ["events.arrow", "item.npy", "column-1.npy", "entry.json", "users.arrow"])
@pytest.mark.parametrize("harm", ["cut", "emptied", "gone", "flipped"])
def test_damaged_cache_entry_is_made_again(make, root, capsys, monkeypatch, file, harm):
    fresh = make(cache=False)
    make().sequences  # noqa: B018
    path = entries(root)[0] / file
    if harm == "gone":
        path.unlink()
    elif harm == "flipped":
        content = bytearray(path.read_bytes())
        content[-10] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(path.read_bytes()[: -9 if harm == "cut" else 0])
    assert_same(make(), fresh)
    assert capsys.readouterr().err.count("is damaged") == 1
    forbid_reading(monkeypatch)
    assert_same(make(), fresh)


@pytest.mark.parametrize("reading", ["recalign.seals.sha256", "recalign.data.sequences.cache.read_table"])
def test_unreadable_cache_entry_is_not_removed(make, root, capsys, monkeypatch, reading):
    fresh = make()
    fresh.sequences  # noqa: B018
    stamp = entries(root)[0].stat().st_ino

    def fails(_: Path):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(reading, fails)
        patch.setattr(CacheEntry, "save", lambda *_: None)
        assert_same(make(), fresh)
    assert "cannot be read: Input/output error" in capsys.readouterr().err
    assert [entry.stat().st_ino for entry in entries(root)] == [stamp]
    forbid_reading(monkeypatch)
    assert_same(make(), fresh)


def test_interrupted_cache_write_leaves_nothing(make, root, monkeypatch):
    def broken(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", broken)  # entry.json is written last
    with pytest.raises(KeyboardInterrupt):
        make().sequences  # noqa: B018
    assert entries(root) == []


def test_saving_keeps_an_entry_written_meanwhile(make, root):
    slow, quick = make(), make()
    slow.table  # noqa: B018
    assert_same(quick, slow)
    stamp = entries(root)[0].stat().st_ino
    slow.preparation.entry.save(quick.sequences)
    assert [e.stat().st_ino for e in entries(root)] == [stamp]


def test_read_only_cache_entry_is_read(make, capsys, monkeypatch):
    """Where it may not be written, nobody can note that it was used."""
    fresh = make()
    fresh.sequences  # noqa: B018
    monkeypatch.setattr(os, "utime", refused)
    forbid_reading(monkeypatch)
    assert_same(make(), fresh)
    assert capsys.readouterr().err == ""


def refused(path: Path) -> None:
    raise PermissionError(13, "Permission denied", str(path))


def test_unused_cache_entries_are_removed(make, root):
    make().sequences  # noqa: B018
    old = entries(root)[0]
    long_ago = time.time() - (UNUSED_DAYS + 1) * 86_400
    os.utime(old, (long_ago, long_ago))
    make(share_a=0.5).sequences  # noqa: B018
    assert old not in entries(root)
    make().sequences  # noqa: B018
    assert len(entries(root)) == 2


def test_cache_folder_follows_option_and_variables(monkeypatch, tmp_path):
    monkeypatch.setenv("RECALIGN_CACHE", str(tmp_path / "named"))
    assert cache_folder(True) == tmp_path / "named"
    assert cache_folder(str(tmp_path)) == tmp_path
    assert cache_folder(False) is None
    monkeypatch.delenv("RECALIGN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder(True) == tmp_path / "recalign"
