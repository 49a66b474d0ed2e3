"""Files whole or not at all, and digests."""

from __future__ import annotations

from pathlib import Path

import pytest

from recalign.files import digest, replacing, sha256, write_json, write_text
from recalign.keys import leaves, short


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text(f"half {1 // 0}")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_folders_are_made_and_text_is_utf8(tmp_path: Path):
    write_json(tmp_path / "b" / "c.json", {"ü": 1})
    assert (tmp_path / "b" / "c.json").read_bytes().decode() == '{\n  "ü": 1\n}\n'


def test_a_digest_is_of_the_values_alone(tmp_path: Path):
    assert digest({"a": 1, "b": [2]}, None) == digest({"b": [2], "a": 1}, None)
    assert digest({"a": 1}) != digest({"a": "1"})
    write_text(tmp_path / "x", "abc")
    assert sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_dotted_keys():
    tree = {"model": {"class_path": "A", "init_args": {"lr": 0.1, "encoder": {"init_args": {}}}}, "seed": 0}
    assert leaves(tree) == {
        "model.class_path": "A",
        "model.init_args.lr": 0.1,
        "model.init_args.encoder.init_args": {},
        "seed": 0,
    }
    assert short("model.init_args.encoder.init_args.dim") == "model.encoder.dim"
