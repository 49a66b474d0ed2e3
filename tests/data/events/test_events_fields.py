"""Ids and moments."""

from __future__ import annotations

from datetime import UTC, date, datetime

import polars as pl
import pytest

from recalign.data.events.fields import index_ids, read_ids, read_timestamps
from recalign.data.events.messages import SourceRows
from recalign.errors import InputError

SECOND = 1_772_356_500


def rows(column: pl.Series) -> SourceRows:
    return SourceRows(pl.int_range(1, len(column) + 1, eager=True))


@pytest.mark.parametrize(
    ("column", "unit", "fine", "per_second"),
    [
        (pl.Series([SECOND]), "s", SECOND, 1),
        (pl.Series([SECOND * 1000 + 7]), "ms", SECOND * 1000 + 7, 1000),
        (pl.Series([SECOND], dtype=pl.UInt32), "s", SECOND, 1),
        (pl.Series([SECOND + 0.25]), "s", SECOND * 10**6 + 250_000, 10**6),
        (pl.Series([SECOND * 1000.0]), "ms", SECOND * 10**6, 10**6),
        (pl.Series([str(SECOND)]), "s", SECOND, 1),
        (pl.Series([f"{SECOND}.5"]), "s", SECOND * 10**6 + 500_000, 10**6),
        (pl.Series(["2026-03-01T10:15:00+01:00"]), "datetime", SECOND * 10**6, 10**6),
        (pl.Series(["2026-03-01 09:15:00"]), "datetime", SECOND * 10**6, 10**6),
        (pl.Series(["2026-03-01 09:15:00", "2026-03-01T10:15:00+01:00"]), "datetime", SECOND * 10**6, 10**6),
        (pl.Series(["2026-03-01T10:15:00+01:00", "2026-03-01 09:15:00"]), "datetime", SECOND * 10**6, 10**6),
        (pl.Series(["2026-03-01T09:15:00Z"]), "datetime", SECOND * 10**6, 10**6),
        (pl.Series([datetime(2026, 3, 1, 9, 15)]).cast(pl.Datetime("ns")), "datetime", SECOND * 10**6, 10**6),
        (pl.Series([datetime(2026, 3, 1, 9, 15, tzinfo=UTC)]), "datetime", SECOND * 10**6, 10**6),
        (
            pl.Series([datetime(2026, 3, 1, 9, 15)]).dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Shanghai"),
            "datetime",
            SECOND * 10**6,
            10**6,
        ),
        (pl.Series([datetime(2026, 3, 1, 9, 15)]), "s", SECOND * 10**6, 10**6),  # its type says more than the unit
        (pl.Series([date(2026, 3, 1)]), "datetime", (SECOND - 9 * 3600 - 15 * 60) * 10**6, 10**6),
    ],
)
def test_read_timestamps_returns_integers_and_their_unit(column, unit, fine, per_second):
    read, unit_a_second = read_timestamps(column, unit, rows(column))
    assert (read.unique().to_list(), unit_a_second, read.dtype) == ([fine], per_second, pl.Int64)


@pytest.mark.parametrize(
    ("column", "unit", "message"),
    [
        (pl.Series("t", [5, None]), "s", "t is empty, null or NaN in row 2"),
        (pl.Series("t", [5, -1]), "s", "holds -1 in row 2, which is before 1970 or"),
        (pl.Series("t", [5, SECOND * 1000]), "s", "after the year 9999"),
        (pl.Series("t", [5.0, float("inf")]), "s", "holds inf in row 2"),
        (pl.Series("t", [5, 2**64 - 1], dtype=pl.UInt64), "s", "in row 2"),
        (pl.Series("t", [5, SECOND], dtype=pl.Float32), "s", "in row 2, which Float32 cannot hold exactly"),
        (pl.Series("t", ["5", "x"]), "s", "holds 'x' in row 2"),
        (pl.Series("t", [True]), "s", "holds Boolean, not numbers (time_unit: s)"),
        (pl.Series("t", [5]), "datetime", "holds Int64, not datetimes"),
        (pl.Series("t", ["2026-01-01", "03/04/2026"]), "datetime", "holds '03/04/2026' in row 2"),
        (pl.Series("t", ["2026-01-01", "2026-13-01"]), "datetime", "holds '2026-13-01' in row 2"),
        (pl.Series("t", [datetime(1969, 1, 1)]), "datetime", "before 1970"),
        (pl.Series("t", ["1955-11-05"]), "datetime", "holds '1955-11-05' in row 1, which is before 1970 or"),
        (pl.Series("t", [date(1955, 11, 5)]), "datetime", "holds '1955-11-05' in row 1, which is before 1970 or"),
        (
            pl.Series("t", [1, 3 * 10**17], dtype=pl.Datetime("us")),
            "datetime",
            "in row 2, which is before 1970 or after the year 9999",
        ),
        (pl.Series("t", [1, 2**62]).cast(pl.Datetime("ms", "UTC")), "datetime", "in row 2, which is before 1970 or"),
        (pl.Series("t", [-(10**17)], dtype=pl.Datetime("us", "UTC")), "datetime", "in row 1, which is before 1970 or"),
    ],
)
def test_read_timestamps_refuses_bad_values(column, unit, message):
    with pytest.raises(InputError) as caught:
        read_timestamps(column, unit, rows(column))
    assert message in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("column", "ids"),
    [
        (pl.Series([3, 1, 3], dtype=pl.Int8), [3, 1, 3]),
        (pl.Series([2**63 + 1, 5], dtype=pl.UInt64), [2**63 + 1, 5]),
        (pl.Series([3.0, 1.0]), [3, 1]),
        (pl.Series([-7, 2**20 - 8, -7]), [-7, 2**20 - 8, -7]),  # as far apart as a table goes
        (pl.Series([2**20 - 7, -7, 3]), [2**20 - 7, -7, 3]),  # farther
        (pl.Series([-(2**63), 2**63 - 1]), [-(2**63), 2**63 - 1]),
        (pl.Series(["b", "a"], dtype=pl.Categorical), ["b", "a"]),
        (pl.Series(["b", "a"], dtype=pl.Enum(["b", "a"])), ["b", "a"]),
    ],
)
def test_read_ids_returns_integers_or_strings(column, ids):
    read = read_ids(column, "data.log.user", rows(column))
    index, distinct = index_ids(read)
    assert read.to_list() == ids
    assert not read.dtype.is_float()
    assert index.dtype == pl.UInt32
    assert distinct.to_list() == sorted(set(ids))
    assert distinct.gather(index).to_list() == ids
