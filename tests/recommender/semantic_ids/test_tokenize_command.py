"""`recalign tokenize`: files, versions, and what is refused before they are written."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import small

from recalign.data.sequences import EventDataModule
from recalign.errors import InputError
from recalign.recommender.semantic_ids import CodesTable, ParquetVectors, load_codes
from recalign.recommender.semantic_ids.tokenize_command import _with_new, tokenize
from recalign.run.configs import find
from recalign.run.stage.tokens import parse_tokens


@pytest.fixture(scope="module")
def data(log_root) -> EventDataModule:
    return small.data_of(EventDataModule, log_root, "tastes", users="all")


def clouds(folder: Path, items: range, seed: int = 0) -> ParquetVectors:
    """Vectors of items in eight clouds, the same for the same item."""
    every_ND = np.random.default_rng(seed).normal(size=(100, 6)) / 2 + 5 * np.eye(100, 6)[np.arange(100) % 8 % 6]
    frame = pl.DataFrame({"item": items, "vector": every_ND[list(items)].tolist()})
    frame.write_parquet(path := folder / f"vectors-{items.stop}.parquet")
    return ParquetVectors(path)


def test_the_files_say_the_same_as_the_terminal(data: EventDataModule, tmp_path: Path, capsys):
    path = tokenize(data=data, out=tmp_path / "tokens")
    out, said = capsys.readouterr().out, json.loads((tmp_path / "tokens/tokens.json").read_text())
    codes = load_codes(path, data.sequences.items)
    assert codes.codes_NL.shape == (40, 2)
    assert codes.sizes == (8, 8) == tuple(level["size"] for level in said["levels"])
    assert (said["verdict"], said["version"], said["new"], said["items"]) == ("sound", 1, 40, 40)
    assert f"semantic ids of tastes from Cooccurrence: {said['verdict']}" in out
    for shown in (str(path), f"{said['reconstruction_error']:.4g}", said["examples"][0]["titles"][0]):
        assert shown in out


def test_appended_items_are_those_of_the_source_that_had_no_id(data: EventDataModule, tmp_path: Path):
    first = tokenize(data=data, vectors=clouds(tmp_path, range(1, 41)), out=tmp_path / "first")
    before = CodesTable.read(first)
    again = tokenize(data=data, vectors=clouds(tmp_path, range(1, 51)), append=first, out=tmp_path / "again")
    after, said = CodesTable.read(again), json.loads(again.with_name("tokens.json").read_text())
    assert after.items.to_list() == list(range(1, 51))
    np.testing.assert_array_equal(after.codes_NL[:40], before.codes_NL)
    assert after.version_N.tolist() == [1] * 40 + [2] * 10
    assert (said["version"], said["new"], said["items"], said["free"]) == (2, 10, 50, 14)
    assert load_codes(again, pl.Series([50, 1])).codes_NL.shape == (2, 2)
    unchanged = tokenize(data=data, vectors=clouds(tmp_path, range(1, 51)), append=again, out=tmp_path / "again")
    assert CodesTable.read(unchanged).version == 2


def test_a_collapsed_codebook_is_refused_unless_it_is_allowed(data: EventDataModule, tmp_path: Path, capsys):
    pl.DataFrame({"item": range(1, 41), "vector": [[1.0, 2.0]] * 40}).write_parquet(tmp_path / "same.parquet")
    vectors, out = ParquetVectors(tmp_path / "same.parquet"), tmp_path / "out"
    with pytest.raises(InputError, match=r"the codebook has collapsed: .*; one id is nearest to 40 of 40 items"):
        tokenize(data=data, vectors=vectors, out=out)
    assert not out.exists()
    assert "semantic ids of tastes from ParquetVectors: collapsed" in capsys.readouterr().out
    path = tokenize(data=data, vectors=vectors, out=out, allow_collapsed=True)
    assert len(load_codes(path, data.sequences.items).codes_NL) == 40
    assert json.loads((out / "tokens.json").read_text())["verdict"] == "collapsed"


def test_appended_ids_are_not_made_anew(data: EventDataModule, tmp_path: Path):
    path = tokenize(data=data, vectors=clouds(tmp_path, range(1, 41)), out=tmp_path)
    tokenize(data=data, vectors=clouds(tmp_path, range(1, 41)), out=tmp_path)  # the same ids again
    tokenize(data=data, vectors=clouds(tmp_path, range(1, 51)), append=path, out=tmp_path)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"items were appended to these ids \(version 2\)"):
        tokenize(data=data, vectors=clouds(tmp_path, range(1, 51)), out=tmp_path)
    assert path.read_bytes() == before


def test_ids_of_another_log_and_items_of_another_type_are_not_appended_to(data: EventDataModule, tmp_path: Path):
    path = tokenize(data=data, vectors=clouds(tmp_path, range(1, 41)), out=tmp_path)
    table = CodesTable.read(path)
    assert table.log == data.log_.name
    dataclasses.replace(table, log="books").write(path)
    with pytest.raises(InputError, match="the ids of the log 'books'"):
        tokenize(data=data, vectors=clouds(tmp_path, range(1, 51)), append=path, out=tmp_path)
    dataclasses.replace(table, items=table.items.cast(pl.String)).write(path)
    assert len(CodesTable.read(tokenize(data=data, append=path, out=tmp_path / "text")).items) == 40
    text = pl.Series([*map(str, table.items), "a lamp"])
    with pytest.raises(InputError, match="the new item 'a lamp' cannot be an id of this file, whose ids are Int64"):
        _with_new(table, text, text, str(path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sizes": [64]}, r"\[64\] cannot be the sizes"),
        ({"sizes": [1, 64]}, "cannot be the sizes"),
        ({"sizes": [2**31, 2**32]}, "cannot be the sizes"),
        ({"sizes": [3, 13]}, "40 items, and 3 x 13 codes are only 39 ids"),
        ({"append": Path("nowhere.parquet")}, "there is no such file of semantic ids"),
        ({"append": Path("nowhere.parquet"), "sizes": [8, 8]}, "the sizes are those of the ids that stay"),
    ],
)
def test_settings_that_cannot_work_are_refused(data: EventDataModule, tmp_path: Path, settings: dict, message: str):
    with pytest.raises(InputError, match=message):
        tokenize(data=data, out=tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_ids_are_fresh_until_something_changes(log_root, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    titles = tmp_path / "titles.csv"
    titles.write_text("item,title\n1,Alien\n")
    Path("tastes.yaml").write_text(f"""
data:
  root: {log_root}
  log: {{name: tastes, files: [tastes.csv], items: {{file: {titles}}}}}
  high: null
  split: {{class_path: recalign.data.sequences.LeaveLast, init_args: {{test: 3, validation: 2}}}}
""")
    words = [f"--config={find('tokens')}", "--config=tastes.yaml", "--vectors.dimensions=8", "--sizes=[6, 8]"]
    path = parse_tokens(words).make()
    assert parse_tokens([*words, f"--data.cache={tmp_path / 'kept'}"]).state().fresh
    assert parse_tokens([*words, "--seed=0", "--sizes=[8, 8]"]).state().changed == ["settings"]
    titles.write_text("item,title\n1,Aliens\n")
    assert parse_tokens(words).state().changed == ["titles"]
    path.write_bytes(path.read_bytes()[:-1])
    assert parse_tokens(words).state().altered == ["codes.parquet"]


def test_ids_of_another_spelling_are_those_of_the_log():
    def table(items: pl.Series) -> CodesTable:
        return CodesTable(items, np.zeros((len(items), 2), np.int64), np.ones(len(items), np.int64), (8, 8))

    whole, text = pl.Series([7, 8, 9]), pl.Series(["7", "8"])
    assert _with_new(table(pl.Series([7.0, 8.0])), whole, whole, "here").to_list() == [7, 8, 9]
    assert _with_new(table(pl.Series([7.0, 8.0])), text, text, "here").to_list() == ["7", "8"]
    with pytest.raises(InputError, match="'007'"):
        _with_new(table(pl.Series(["007", "8"])), whole, whole, "here")


def test_appending_judges_no_level_that_numbers_collisions(data: EventDataModule, tmp_path: Path):
    def made(items: range, out: str, **settings):
        vectors = clouds(tmp_path, items)
        return tokenize(data=data, vectors=vectors, out=tmp_path / out, allow_collapsed=True, **settings)

    first = made(range(1, 41), "out", sizes=[4, 4], collisions="token")
    made(range(1, 51), "more", append=first)
    levels = json.loads((tmp_path / "more/tokens.json").read_text())["levels"]
    assert [level["size"] for level in levels[:2]] == [4, 4]
    assert ["nearest_entropy_nats" in one for one in levels] == [True, True, False]
