"""Codes of items from a file, and at random."""

from __future__ import annotations

import polars as pl
import pytest
import torch

from recalign.errors import InputError
from recalign.recommender.code_table import CodeTable, random_codes, square

ROWS = {"item": ["a", "b", "c"], "code_0": [1, 0, 1], "code_1": [2, 0, 1]}


def written(folder, **columns: object) -> str:
    path = folder / "codes.parquet"
    pl.DataFrame({**ROWS, **columns}).write_parquet(path)
    return str(path)


def test_items_get_their_codes_in_the_order_of_the_catalogue(tmp_path):
    table = CodeTable(written(tmp_path))
    assert table.sizes == [2, 3]
    assert table.of(pl.Series(["c", "a"])).tolist() == [[1, 1], [1, 2]]


def test_ten_levels_stand_in_their_order(tmp_path):
    levels = {f"code_{level}": [level, 0, 1] for level in reversed(range(11))}
    assert CodeTable(written(tmp_path, **levels)).of(pl.Series(["a"])).tolist() == [list(range(11))]


def test_an_item_without_codes_is_named(tmp_path):
    with pytest.raises(InputError, match=r"2 of 3 items of the log have no codes, such as 'd'"):
        CodeTable(written(tmp_path)).of(pl.Series(["d", "a", "e"]))


def test_items_of_another_type_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"items are of type String, those of the log of type Int64"):
        CodeTable(written(tmp_path)).of(pl.Series([1, 2]))


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"item": ["a", "b", "a"]}, "2 rows share their item with another"),
        ({"code_0": [1, 0, 0], "code_1": [2, 0, 0]}, "2 rows share their id with another"),
        ({"code_0": [1, -1, 0]}, "a code is negative"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path, columns, says):
    with pytest.raises(InputError, match=says):
        CodeTable(written(tmp_path, **columns))


def test_what_is_no_table_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        CodeTable(str(tmp_path / "none.parquet"))
    (tmp_path / "text.parquet").write_text("codes")
    with pytest.raises(InputError, match="no Parquet file"):
        CodeTable(str(tmp_path / "text.parquet"))
    pl.DataFrame({"id": [1]}).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(InputError, match="it has the columns id"):
        CodeTable(str(tmp_path / "other.parquet"))


@pytest.mark.parametrize("sizes", [[5, 4], [3, 3, 3], [20], [8192, 8192, 8192]])
def test_random_codes_are_unique_and_always_the_same(sizes):
    codes_VS = random_codes(20, sizes)
    assert len(codes_VS.unique(dim=0)) == 20
    assert ((codes_VS >= 0) & (codes_VS < torch.tensor(sizes))).all()
    assert codes_VS.equal(random_codes(20, sizes))


@pytest.mark.parametrize("items", [1, 2, 9, 10, 1661])
def test_two_equal_levels_hold_the_items(items):
    side = square(items)[0]
    assert (side - 1) ** 2 < items <= side**2
