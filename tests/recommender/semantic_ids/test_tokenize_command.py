"""`recalign tokenize`: its files, and what is refused before they are written."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
import small

from recalign.data.sequences import EventDataModule
from recalign.errors import InputError
from recalign.recommender.semantic_ids import ParquetVectors, load_codes
from recalign.recommender.semantic_ids.tokenize_command import tokenize
from recalign.run.configs import find
from recalign.run.stage.tokens import parse_tokens


@pytest.fixture(scope="module")
def data(log_root) -> EventDataModule:
    return small.data_of(EventDataModule, log_root, "tastes", users="all")


def test_tokenize_prints_what_it_writes(data: EventDataModule, tmp_path: Path, capsys):
    path = tokenize(data=data, out=tmp_path / "tokens")
    out, said = capsys.readouterr().out, json.loads((tmp_path / "tokens/tokens.json").read_text())
    codes = load_codes(path, data.sequences.items)
    assert codes.codes_NL.shape == (40, 2)
    assert codes.sizes == (8, 8) == tuple(level["size"] for level in said["levels"])
    assert (said["verdict"], said["items"]) == ("sound", 40)
    assert f"semantic ids of tastes from Cooccurrence: {said['verdict']}" in out
    assert str(path) in out
    assert f"{said['reconstruction_error']:.4g}" in out


def test_tokenize_refuses_a_collapsed_codebook_unless_allowed(data: EventDataModule, tmp_path: Path, capsys):
    pl.DataFrame({"item": range(1, 41), "vector": [[1.0, 2.0]] * 40}).write_parquet(tmp_path / "same.parquet")
    vectors, out = ParquetVectors(tmp_path / "same.parquet"), tmp_path / "out"
    with pytest.raises(InputError, match=r"the codebook has collapsed: .*; one id is nearest to 40 of 40 items"):
        tokenize(data=data, vectors=vectors, out=out)
    assert not out.exists()
    assert "semantic ids of tastes from ParquetVectors: collapsed" in capsys.readouterr().out
    path = tokenize(data=data, vectors=vectors, out=out, allow_collapsed=True)
    assert len(load_codes(path, data.sequences.items).codes_NL) == 40
    assert json.loads((out / "tokens.json").read_text())["verdict"] == "collapsed"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sizes": [64]}, r"\[64\] cannot be the sizes"),
        ({"sizes": [1, 64]}, "cannot be the sizes"),
        ({"sizes": [2**31, 2**32]}, "cannot be the sizes"),
        ({"sizes": [3, 13]}, "40 items need ids, but 3 x 13 codes give only 39"),
    ],
)
def test_tokenize_refuses_impossible_settings(data: EventDataModule, tmp_path: Path, settings: dict, message: str):
    with pytest.raises(InputError, match=message):
        tokenize(data=data, out=tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_tokenize_is_up_to_date_until_inputs_change(log_root, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tastes.yaml").write_text(f"""
data:
  root: {log_root}
  log: {{name: tastes, files: [tastes.csv]}}
  high: null
  split: {{class_path: recalign.data.sequences.LeaveLast, init_args: {{test: 3, validation: 2}}}}
""")
    words = [f"--config={find('tokens')}", "--config=tastes.yaml", "--vectors.dimensions=8", "--sizes=[6, 8]"]
    path = parse_tokens(words).make()
    assert parse_tokens([*words, f"--data.cache={tmp_path / 'kept'}"]).state().fresh
    assert parse_tokens([*words, "--seed=0", "--sizes=[8, 8]"]).state().changed == ["settings"]
    path.write_bytes(path.read_bytes()[:-1])
    assert parse_tokens(words).state().altered == ["codes.parquet"]
