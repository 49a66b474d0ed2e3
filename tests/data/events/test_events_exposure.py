"""Exposure columns: what is read of them, what is refused."""

from __future__ import annotations

import math

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
def test_is_random_and_propensity_become_columns_of_the_table(tmp_path, marks):
    frame = frame_of(
        tmp_path, {"rand": marks, "is_random": 9, "p": [0.5, None, None, 1]}, is_random="rand", propensity="p"
    )
    assert frame["is_random"].to_list() == [True, False, False, True]
    assert frame["propensity"].to_list() == [0.5, None, None, 1.0]
    assert frame["rand"].to_list() == marks  # expressions read it as it was
    assert not {"is_random", "propensity"} & set(frame_of(tmp_path, {}).columns)


@pytest.mark.parametrize("drawn", ["drawn", "arm = 'random'"])
def test_is_random_and_propensity_can_be_expressions(tmp_path, drawn):
    made, arms = {"drawn": "arm = 'random'"}, ["random", "bts", "bts", "random"]
    frame = frame_of(tmp_path, {"arm": arms}, columns=made, is_random=drawn, propensity="1.0 / 80")
    assert frame["is_random"].to_list() == [True, False, False, True]
    assert frame["propensity"].to_list() == [1 / 80] * 4


@pytest.mark.parametrize(
    ("key", "column", "found"),
    [
        ("propensity", [0.5, -0.1, 0.5, -2.0], "holds -0.1 in rows 2, 4 of"),
        ("propensity", ["a", "b", "c", "d"], "gives text, such as 'a' in rows 1"),
        ("is_random", [1, 0, 2, 1], "is of type Int64, not a condition"),
        ("is_random", ["yes", "no", "no", "no"], "is of type String, not a condition"),
    ],
)
def test_bad_exposure_columns_are_refused(tmp_path, key, column, found):
    with pytest.raises(InputError, match=f"data.log.{key}: .*x.* {found}") as caught:
        frame_of(tmp_path, {"x": column}, **{key: "x"})
    assert caught.value.remedy


@pytest.mark.parametrize("value", [math.nan, math.inf, -1e39])
def test_passed_reward_must_be_finite(value):
    with pytest.raises(InputError, match=r"data\.log\.passed_reward: is NaN or too large"):
        LogMapping("t", ["t.csv"], chosen="click = 1", passed_reward=value)


@given(st.lists(st.floats(allow_nan=True, width=32), min_size=4, max_size=4))
def test_propensities_are_unchanged_or_refused(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("p")
    if all(0 < value <= 1 for value in values):
        assert frame_of(folder, {"p": values}, propensity="p")["propensity"].to_list() == values
    else:
        with pytest.raises(InputError, match=r"not a probability|is NaN|gives -?inf"):
            frame_of(folder, {"p": values}, propensity="p")
