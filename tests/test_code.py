"""Which code a result stands on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from recalign import code
from recalign.code import code_digest


def test_a_class_of_ones_own_counts_by_its_file_and_one_without_a_file_is_never_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
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


def test_recaligns_own_version_counts(monkeypatch: pytest.MonkeyPatch):
    before = code_digest()
    code._recalign.cache_clear()
    monkeypatch.setattr(code, "version", lambda name: "0")
    assert code_digest() != before
    code._recalign.cache_clear()
