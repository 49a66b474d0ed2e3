"""Polars SQL over a log, and its nulls."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recalign.data.events import evaluate
from recalign.errors import InputError

FRAME = pl.DataFrame(
    {"row": [11, 12, 13, 14], "a": [1.0, None, 3.0, 4.0], "b": [2, 2, None, 0], "text": ["1", "2", "x", "4"]},
    schema_overrides={"row": pl.UInt32},
)


@pytest.mark.parametrize(
    ("expression", "values"),
    [
        ("least(a, b)", [1.0, None, None, 0.0]),
        ("greatest(a, b)", [2.0, None, None, 4.0]),
        ("greatest(a, 2.5)", [2.5, None, 3.0, 4.0]),
        ("least(a / nullif(b, 0), 1.0)", [0.5, None, None, None]),
        ("least(TRY_CAST(text as double), 3)", [1.0, 2.0, None, 3.0]),
        ("TRY_CAST(REPLACE('1,5', ',', '.') AS DOUBLE)", [1.5] * 4),
        ("case when b > 1 then a else 0 end", [1.0, None, None, 0.0]),
        ("case when a is null then 1 else 0 end", [0, None, 0, 0]),
        ("a > 2", [False, None, True, True]),
        ("a > 2 or b > 1", [True, None, None, True]),
        ("coalesce(a, 0)", [1.0, 0.0, 3.0, 4.0]),
        ("coalesce(a, 0) + b", [3.0, 2.0, None, 4.0]),
        ("coalesce(a, b)", [1.0, 2.0, 3.0, 4.0]),
        ("coalesce(a, b) + least(a, 5)", [2.0, None, 6.0, 8.0]),
        ("least(coalesce(a, 9), b)", [1.0, 2.0, None, 0.0]),
        ("coalesce(least(a, b), -1)", [1.0, -1.0, -1.0, 0.0]),
        ("coalesce(least(a, b), a)", [1.0, None, 3.0, 0.0]),
        ("2 * coalesce(least(a, b), 0)", [2.0, 0.0, 0.0, 0.0]),
        ("b + coalesce(a > 2 or b > 1, false)", [3, 2, None, 1]),
        ("case when least(nullif(a, 1), b) > 1 then 1 else 0 end", [None, None, None, 0]),
        ("ifnull(a, 7) as renamed", [1.0, 7.0, 3.0, 4.0]),
        ("1", [1, 1, 1, 1]),
        ("text in ('1', '4')", [True, False, False, True]),
    ],
)
def test_evaluate_returns_values_by_the_null_rules(expression, values):
    assert evaluate(FRAME, expression, "data.reward").to_list() == values


NUMBERS = st.none() | st.integers(-3, 3)


@settings(deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=10))
def test_null_columns_never_give_the_best_reward(rows):
    """Null in, null out, for whatever is made of least and greatest."""
    frame = pl.DataFrame(rows, schema={"a": pl.Int64, "b": pl.Int64, "c": pl.Int64}, orient="row")
    found = evaluate(frame, "greatest(least(a, b), c) + 1", "data.reward").to_list()
    assert found == [None if None in row else max(min(row[0], row[1]), row[2]) + 1 for row in rows]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("a +", "is not a Polars SQL expression"),
        ("a, b", "is not a Polars SQL expression"),
        ("nosuch(a)", "is not a Polars SQL expression"),
        ("txet = 1", "did you mean 'text'?"),
        ('text = "1"', "Write text in 'single quotes'"),
        ("text * 2", "text holds text, such as 'x' in row 13"),
        ("1 / b", "gives inf in row 14"),
        ("b * 1e300", "gives 2e+300 in "),
        ("a - avg(a)", "reads other rows than its own"),
        ("rank() over (order by b)", "reads other rows than its own"),
        ("count(*)", "reads other rows than its own"),
        ("coalesce(a, max(b))", "reads other rows than its own"),
        ("case when a > median(a) then 1 else 0 end", "reads other rows than its own"),
        ("lag(a) over (order by b)", "reads other rows than its own"),
        ("a in (select 1)", "reads other rows than its own"),
        ("columns('a.*')", "reads other rows"),
        ('"*" + 1', "reads other rows"),
        ("NOW () > a", "reads the clock"),
        ("a + extract(year from current_date)", "reads the clock"),
        ("a" + " or a" * 1_000, "is not a Polars SQL expression: maximum recursion"),
    ],
)
def test_evaluate_refuses_bad_expressions(expression, message):
    with pytest.raises(InputError) as caught:
        evaluate(FRAME, expression, "data.reward")
    assert str(caught.value).startswith("data.reward: ")
    assert message in str(caught.value)
    assert caught.value.remedy


def test_clock_words_are_allowed_in_text_and_column_names():
    frame = pl.DataFrame({"current_date": [1], "now": [2], "a": ["now()"]})
    for expression in ('"current_date" = 1', "now in (2)", "a = 'now()'"):
        assert evaluate(frame, expression, "data.log.where").to_list() == [True]


@pytest.mark.parametrize("expression", ["a", "least(a, 1)", "coalesce(least(a, 1), 0)"])
def test_nan_in_a_column_is_an_error_even_where_polars_would_skip_it(expression):
    frame = pl.DataFrame({"a": [0.5, float("nan"), 0.2]})
    with pytest.raises(InputError, match="NaN in row 2"):
        evaluate(frame, expression, "data.reward")


@pytest.mark.parametrize(
    "expression", ["a > avg(a)", "rank() over (order by a)", "count(*)", "a > quantile_cont(a, 0.5)"]
)
def test_aggregates_are_refused_even_in_a_table_of_one_row(expression):
    with pytest.raises(InputError, match="reads other rows than its own"):
        evaluate(pl.DataFrame({"a": [1.0]}), expression, "data.reward")


@pytest.mark.parametrize("dtype", [pl.Int8, pl.UInt64])
@pytest.mark.parametrize(
    ("expression", "values"),
    [
        ("stars - 3", [-2, 2]),
        ("-stars", [-1, -5]),
        ("100 * stars + 50 * bought", [150, 500]),
        ("CAST(stars AS TINYINT) * 100", [100, 500]),
        ("coalesce(stars - likes, 0)", [-1, 5]),
        ("length(title) - 3", [-1, 1]),
        ("extract(hour from day) * 60", [1380, 60]),
        ("2 * bought + 0.5 * bought", [2.5, 0.0]),
        ("1.0 * stars / views", [1 / 30_000_000, 1.0]),
        ("price * 3 / 7", [0.3 / 7, 3.0]),
    ],
)
def test_arithmetic_is_in_64_bits(dtype, expression, values):
    """Whatever type a column is stored in: 3 less than one star is -2, and not 254."""
    frame = pl.DataFrame(
        {
            "stars": pl.Series([1, 5], dtype=dtype),
            "likes": pl.Series([2, 0], dtype=dtype),
            "bought": [True, False],
            "title": ["ab", "abcd"],
            "day": pl.Series(["2020-01-01 23:00:00", "2020-01-01 01:00:00"]).str.to_datetime(),
            "views": [30_000_000, 5],
            "price": pl.Series(["0.1", "7.0"]).cast(pl.Decimal(10, 2)),
        }
    )
    assert evaluate(frame, expression, "data.reward").to_list() == pytest.approx(values, rel=1e-12)


def test_fractions_are_compared_in_the_precision_of_the_column():
    frame = pl.DataFrame({"share": pl.Series([0.7, 0.1], dtype=pl.Float32)})
    assert evaluate(frame, "share >= 0.7", "data.high.expression").to_list() == [True, False]


@pytest.mark.parametrize(
    "expression", ["cents * n", "cents * n / 100", "power(cents, 2)", "least(id + id, 1)", "n - -id"]
)
def test_integers_that_would_overflow_are_refused(expression):
    """Polars wraps around: 5e9 times 4e9 would be 1.55e18."""
    frame = pl.DataFrame({"cents": [3, 5_000_000_000], "n": [4, 4_000_000_000], "id": [2**53 + 1, 2**63 - 1]})
    with pytest.raises(InputError, match=r"data\.reward: .* computes .* in row 2, beyond 64-bit integers\n.*DOUBLE"):
        evaluate(frame, expression, "data.reward")
    floats = evaluate(frame, "CAST(cents AS DOUBLE) * n", "data.reward")
    assert floats.to_list() == [12.0, 2e19]
    assert evaluate(frame, "greatest(id, n - id)", "data.reward").to_list() == [2**53 + 1, 2**63 - 1]
