"""What is published is whole, and what is not fresh says why."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from recalign import seals
from recalign.artifacts import State
from recalign.errors import InputError
from recalign.files import sha256, write_json
from recalign.seals import SEAL, check, code_digest, named, outdated, publish, require

KEY = {"settings": {"lr": 0.1}, "code": "c0de"}


def bundle(folder: Path, **made_of: str) -> Path:
    with publish(folder, KEY, made_of) as part:
        (part / "weights").mkdir()
        (part / "weights/a.bin").write_bytes(b"abc")
        (part / "recipe.json").write_text("{}")
    return folder


def test_published_folder_is_fresh_for_its_key(tmp_path: Path):
    folder = bundle(tmp_path / "bundle")
    assert check(folder, KEY).fresh
    assert require(folder, "export it again").key == KEY
    assert sorted(json.loads((folder / SEAL).read_text())["digests"]) == ["recipe.json", "weights/a.bin"]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("harm", ["flipped", "gone", "unsealed", "seal cut"])
def test_check_names_altered_files(tmp_path: Path, harm: str):
    folder = bundle(tmp_path / "bundle")
    if harm == "flipped":
        (folder / "weights/a.bin").write_bytes(b"abb")
    elif harm == "gone":
        (folder / "weights/a.bin").unlink()
    elif harm == "unsealed":
        (folder / SEAL).unlink()
    else:
        (folder / SEAL).write_bytes((folder / SEAL).read_bytes()[:-9])
    assert not check(folder, KEY).whole
    name = {"unsealed": f"it has no {SEAL}", "seal cut": f"{SEAL} is not"}.get(harm, "weights/a.bin: missing, or its")
    with pytest.raises(InputError, match=rf"bundle: {name}(?s:.*)export it again"):
        require(folder, "export it again")


def test_check_names_changed_keys_and_inputs(tmp_path: Path):
    folder = bundle(tmp_path / "bundle")
    state = check(folder, {"settings": {"lr": 0.2}, "data": "d"})
    assert state.whole
    assert not state.fresh
    assert str(state) == "changed: code, data, settings"
    assert check(tmp_path / "nothing", KEY) == State()


def test_failed_publish_leaves_the_earlier_folder(tmp_path: Path):
    folder = bundle(tmp_path / "bundle")
    with pytest.raises(ZeroDivisionError), publish(folder, {}) as part:
        (part / "recipe.json").write_text(f"{1 // 0}")
    assert check(folder, KEY).fresh
    with publish(folder, {}) as part:
        (part / "other").write_text("")
    assert sorted(path.name for path in folder.iterdir()) == [SEAL, "other"]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_stale_temporary_folders_are_removed_once_old(tmp_path: Path):
    for name in (".bundle.9001", ".bundle.9001.earlier", ".bundle.9002"):
        (tmp_path / name / "weights").mkdir(parents=True)
        if "9001" in name:
            os.utime(tmp_path / name, (0, 0))
    bundle(tmp_path / "bundle")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".bundle.9002", "bundle"]


def test_inputs_count_through_other_seals(tmp_path: Path):
    """A comparison of an evaluation of a checkpoint: all three may move together."""
    chain = tmp_path / "chain"
    run = chain / "run"
    (run / "checkpoints").mkdir(parents=True)
    checkpoint = run / "checkpoints/best.ckpt"
    checkpoint.write_bytes(b"weights")
    known = sha256(checkpoint)
    evaluation = bundle(run / "evaluation", **{named(checkpoint, run / "evaluation", chain): known})
    bundle(chain / "comparison", **{named(evaluation / SEAL, chain / "comparison", chain): sha256(evaluation / SEAL)})
    moved = chain.rename(tmp_path / "moved")
    assert check(moved / "comparison", KEY).fresh
    (moved / "run/checkpoints/best.ckpt").write_bytes(b"others")
    assert [Path(name).name for name in outdated(moved / "comparison")] == ["best.ckpt"]
    write_json(moved / "run/manifest.json", {"digests": {"checkpoints/best.ckpt": known}})
    assert check(moved / "comparison", KEY).fresh  # the manifest says what the checkpoint is, or was


def test_input_files_elsewhere_keep_absolute_paths(tmp_path: Path):
    assert named(tmp_path / "a.ckpt", tmp_path / "chain/x", tmp_path / "chain") == str((tmp_path / "a.ckpt").resolve())


@pytest.mark.parametrize("content", ['{"key": {}, "mbde_of": {}, "digests": {}}', "[]", '{"digests": {"../a": ""}}'])
def test_invalid_seal_counts_as_altered(tmp_path, content):
    (tmp_path / seals.SEAL).write_text(content)
    assert seals.check(tmp_path).altered == [seals.SEAL]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_failed_rename_leaves_the_earlier_folder(tmp_path, monkeypatch, error):
    with seals.publish(tmp_path / "entry") as part:
        (part / "a").write_text("1")

    def fails(old: Path, new: Path) -> None:
        if "earlier" not in f"{old}{new}":
            raise error("no")
        old.rename(new)

    monkeypatch.setattr(seals, "rename", fails)
    with pytest.raises(error, match="no"), seals.publish(tmp_path / "entry") as part:
        (part / "a").write_text("2")
    assert (tmp_path / "entry/a").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]


def test_code_digest_includes_files_of_custom_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(tmp_path)
    settings = {
        "model": {"class_path": "own_model.Mine", "init_args": {"encoder": [{"class_path": "torch.nn.Linear"}]}}
    }
    (tmp_path / "own_model.py").write_text("class Mine: ...\n")
    before = code_digest(settings)
    assert code_digest(settings) == before != code_digest()
    (tmp_path / "own_model.py").write_text("class Mine: other = True\n")
    assert code_digest(settings) != before
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    typed = {"class_path": "__main__.Mine"}
    assert code_digest(typed) != code_digest(typed)


def test_code_digest_includes_the_version_of_recalign(monkeypatch: pytest.MonkeyPatch):
    before = code_digest()
    seals._recalign.cache_clear()
    monkeypatch.setattr(seals, "version", lambda name: "0")
    assert code_digest() != before
    seals._recalign.cache_clear()
