"""Exposure columns: what is read of them, what is refused."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recalign.data.events import LogMapping, load_events
from recalign.errors import InputError

RATINGS = {"user": [1, 1, 2, 2], "item": [1, 2, 1, 2], "timestamp": [1, 2, 3, 4], "stars": [1, 2, 3, 4]}


def frame_of(folder, added: dict, **mapping) -> pl.DataFrame:
    pl.DataFrame(RATINGS | added).write_parquet(folder / "log.parquet")
    return load_events(LogMapping("test", ["log.parquet"], **mapping), folder, "stars").frame


@pytest.mark.parametrize("marks", [[True, False, None, True], [1, 0, None, 1], [1.0, 0.0, None, 1.0]])
def test_the_table_has_both_columns_under_its_own_names(tmp_path, marks):
    frame = frame_of(tmp_path, {"rand": marks, "p": [0.5, None, None, 1]}, is_random="rand", propensity="p")
    assert frame["is_random"].to_list() == [True, False, False, True]
    assert frame["propensity"].to_list() == [0.5, None, None, 1.0]
    assert frame["rand"].to_list() == marks  # expressions read it as it was


def test_without_a_mapping_there_are_none(tmp_path):
    assert not {"is_random", "propensity"} & set(frame_of(tmp_path, {}).columns)


def test_a_raw_column_of_the_same_name_is_replaced(tmp_path):
    frame = frame_of(tmp_path, {"is_random": [9, 9, 9, 9], "rand": [1, 0, 0, 1]}, is_random="rand")
    assert frame["is_random"].to_list() == [True, False, False, True]


def test_both_can_be_made_by_an_expression(tmp_path):
    made = {"chance": "1.0 / 80", "drawn": "arm = 'random'"}
    frame = frame_of(
        tmp_path, {"arm": ["random", "bts", "bts", "random"]}, columns=made, is_random="drawn", propensity="chance"
    )
    assert frame["is_random"].to_list() == [True, False, False, True]
    assert frame["propensity"].to_list() == [1 / 80] * 4


@pytest.mark.parametrize(
    ("column", "found"),
    [
        ([0.5, 0.0, 0.5, 0.5], "the column p holds 0.0 in row 2 of"),
        ([0.5, None, 1.25, 0.5], "the column p holds 1.25 in row 3 of"),
        ([0.5, -0.1, 0.5, -2.0], "the column p holds -0.1 in rows 2, 4 of"),
        ([0.5, float("nan"), 0.5, 0.5], "the column p holds nan in row 2 of"),
        (["a", "b", "c", "d"], "the column p holds String, not probabilities"),
    ],
)
def test_a_propensity_that_is_none_is_refused(tmp_path, column, found):
    with pytest.raises(InputError) as caught:
        frame_of(tmp_path, {"p": column}, propensity="p")
    assert str(caught.value).startswith(f"data.log.propensity: {found}")
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("column", "found"), [([1, 0, 2, 1], "holds 2 in row 3 of"), (["yes", "no", "no", "no"], "holds String")]
)
def test_a_mark_that_is_none_is_refused(tmp_path, column, found):
    with pytest.raises(InputError) as caught:
        frame_of(tmp_path, {"rand": column}, is_random="rand")
    assert f"data.log.is_random: the column rand {found}" in str(caught.value)


@given(st.lists(st.floats(allow_nan=True, width=32), min_size=4, max_size=4))
def test_a_propensity_is_read_as_it_is_or_refused(tmp_path_factory, values):
    fine = all(0 < value <= 1 for value in values)
    folder = tmp_path_factory.mktemp("p")
    if fine:
        assert frame_of(folder, {"p": values}, propensity="p")["propensity"].to_list() == values
    else:
        with pytest.raises(InputError, match="is not a probability"):
            frame_of(folder, {"p": values}, propensity="p")
