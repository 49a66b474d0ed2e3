"""The file of semantic ids: what is written is read, and what cannot be used is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recalign.errors import InputError
from recalign.files import sha256, write_json
from recalign.recommender.semantic_ids import CodesTable, load_codes

GOOD = {"item": ["a", "b", "c"], "code_0": [0, 1, 1], "code_1": [2, 0, 2]}


def written(folder: Path, sizes: str = "[]", **columns: object) -> Path:
    pl.DataFrame(GOOD | columns).write_parquet(path := folder / "codes.parquet", metadata={"sizes": sizes})
    return path


@given(st.permutations(range(12)), st.integers(0, 12))
def test_load_codes_finds_codes_in_any_order(tmp_path_factory, order: list[int], chosen: int):
    items, codes_NL = pl.Series([f"item-{n}" for n in range(12)]), np.array([[n // 4, n % 4] for n in range(12)])
    path = tmp_path_factory.mktemp("codes") / "codes.parquet"
    CodesTable(items.gather(order), codes_NL[order], (4, 4)).write(path)
    codes = load_codes(path, items.gather(order[::-1][:chosen]))
    assert codes.sizes == (4, 4)
    assert codes.codes_NL.dtype == np.int64
    np.testing.assert_array_equal(codes.codes_NL, codes_NL[order[::-1][:chosen]])


def test_load_codes_refuses_altered_files(tmp_path: Path):
    path = written(tmp_path)
    write_json(tmp_path / "manifest.json", {"digests": {"codes.parquet": sha256(path)}})
    assert load_codes(path, pl.Series(["a", "b", "c"])).sizes == (2, 3)
    written(tmp_path, code_1=[1, 0, 2])
    with pytest.raises(InputError, match=r"codes\.parquet: was changed after its run: .* manifest\.json\n.*tokenize"):
        load_codes(path, pl.Series(["a", "b", "c"]))


def test_load_codes_reads_files_without_metadata(tmp_path: Path):
    codes = load_codes(written(tmp_path, item=["3", "1", "2"]), pl.Series([1, 2, 3]))
    assert codes.sizes == (2, 3)
    assert codes.codes_NL.tolist() == [[1, 0], [1, 2], [0, 2]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"item": ["a", "b", "b"]}, "the item 'b' appears more than once"),
        ({"item": ["a", None, "c"]}, "the item None has an empty cell"),
        ({"code_1": [0, 2, 2]}, "the item 'b' has the same codes as another item"),
        ({"code_0": [0, -1, 1]}, "the item 'b' has a code outside the range of its level"),
        ({"code_0": [0, None, 1]}, "the item 'b' has an empty cell"),
        ({"code_0": [0.0, 1.0, 1.0]}, "whole numbers, and are: Float64"),
        ({"code_3": [0, 1, 1]}, "have to be item, code_0, code_1, code_2"),
        ({"sizes": "[2, 2]"}, "the item 'a' has a code outside the range of its level"),
        ({"sizes": "[2, 2, 2]"}, "have to be item, code_0, code_1, code_2"),
    ],
)
def test_load_codes_refuses_wrong_tables(tmp_path: Path, columns: dict, message: str):
    path = written(tmp_path, **columns)
    with pytest.raises(InputError, match=message) as error:
        load_codes(path, pl.Series(["a"]))
    assert error.value.where == str(path)


def test_load_codes_refuses_another_log(tmp_path: Path):
    """Their items may have the same numbers."""
    items = pl.Series([1, 2, 3])
    codes_NL, path = np.array([[0, 0], [0, 1], [1, 0]]), tmp_path / "codes.parquet"
    CodesTable(items, codes_NL, (2, 2), "films").write(path)
    assert len(load_codes(path, items, "films").codes_NL) == len(load_codes(path, items).codes_NL) == 3
    with pytest.raises(InputError, match="the ids of the log 'films', not of 'books'") as error:
        load_codes(path, items, "books")
    assert error.value.where == str(path)
    assert load_codes(written(tmp_path, item=["3", "1", "2"]), items, "books").sizes == (2, 3)  # of another tool


def test_load_codes_refuses_ids_of_the_same_item(tmp_path: Path):
    with pytest.raises(InputError, match="the item 1 of this log has several rows"):
        load_codes(written(tmp_path, item=["1", "2", "1.0"]), pl.Series([1, 2]))
    with pytest.raises(InputError, match="1 of the catalogue's 2 items have no id, such as 1"):
        load_codes(written(tmp_path, item=["01", "2", "3"]), pl.Series([1, 2]))


@pytest.mark.parametrize("content", [None, b"no Parquet"])
def test_a_missing_or_broken_file_is_named(tmp_path: Path, content: bytes | None):
    path = tmp_path / "codes.parquet"
    if content:
        path.write_bytes(content)
    with pytest.raises(InputError, match="file of semantic ids") as error:
        load_codes(path, pl.Series(["a"]))
    assert error.value.where == str(path)
