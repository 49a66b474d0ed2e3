"""What a served log's figures are, and the rule by which a window raises an alarm."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.stats import binomtest
from weeks import DAY, ITEMS, rows, weeks

from recalign.bootstrap import CrossedBootstrap
from recalign.errors import InputError
from recalign.serve.loop.monitoring import LEVEL, MIN_USERS, VersionReport, compare_windows, estimates, figures

WEEK = pl.col("timestamp") // (7 * DAY)
NAMES = {"v1": range(ITEMS)}
USERS = 160  # two thirds of them come in a week, so about `MIN_USERS`


def watched(table, **more) -> VersionReport:
    found, short = compare_windows(table, NAMES, draws=500, **more)
    assert short == {}
    return found["v1"]


def of(report: VersionReport, figure: str, window: int = 0) -> dict:
    """A figure of a window."""
    return report.table.row(by_predicate=(pl.col("figure") == figure) & (pl.col("window") == window), named=True)


def alarms(report: VersionReport, window: int) -> set[str]:
    return set(report.table.filter("alarm", window=window)["figure"])


def by_hand() -> pl.DataFrame:
    drawn, ranked = np.log([0.5, 0.25, 0.8]), [np.nan] * 3
    shown = rows(
        [0, 1],
        [0, 1],
        [[1, 2, 3], [1, 4, 5]],
        [[True, False, True], [False, False, True]],
        [[4, 0, 2], [0, 0, 3]],
        [drawn, ranked],
    )
    shown = shown.with_columns(user=pl.col("user").cast(pl.Int64), predicted=pl.Series([4.0, 9, 1, 9, 9, 5]))
    alone = pl.DataFrame({"user": [0], "item": [9], "reward": [5.0], "shown": [False], "chosen": [True]})
    return pl.concat([shown, alone], how="diagonal_relaxed").with_columns(at=0)


def values(table: pl.DataFrame, users: int = 2, **more) -> dict[str, float]:
    found, _ = figures(table, [1, 2, 3, 4, 5], **more)
    draws = CrossedBootstrap(users, 20)
    return {name: estimates(one, draws, 1)[0][0].value for name, one in found.items()}


def test_figures_of_a_table_worked_by_hand():
    drift = pl.DataFrame({"decision": ["0-v1", "1-v1"], "value": [0.5, 1.5]})
    assert values(by_hand(), drift=drift) == pytest.approx(
        {"unknown": 1 / 4, "list": (6 + 3) / 2, "chosen": (4 + 2 + 3) / 3, "promised": (0 + 1 - 2) / 3, "drift": 1.0}
    )


def test_rewards_that_nobody_knows_are_not_averaged():
    table = by_hand().with_columns(reward=pl.when(decision="1-v1", position=3).then(None).otherwise("reward"))
    found = values(table)
    assert (found["list"], found["chosen"]) == (6 / 2, 6 / 2)


def test_figures_that_cannot_be_computed_are_named():
    found, why = figures(by_hand().filter("shown").drop("predicted"), [1])
    assert set(found) == {"list", "chosen"}
    assert set(why) == {"unknown", "promised", "drift"}
    assert "--unshown" in why["unknown"]
    assert "--bundles" in figures(by_hand(), None)[1]["unknown"]


@pytest.mark.slow
@pytest.mark.parametrize("tail", [0.0, 1.5])
def test_windows_without_change_raise_any_alarm_in_at_most_one_of_twenty(tail):
    """At the least number of users that is tested; rewards of the second are log-normal."""
    seen, tested = 0, 0
    for seed in range(40):
        table, draw = weeks(seed, USERS), np.random.default_rng(seed)
        factor = np.exp(tail * draw.normal(size=table.height))
        table = table.with_columns(reward=pl.col("reward") * factor, predicted=1 + 4 * draw.random(table.height))
        windows = watched(table).table.group_by("window").agg(pl.col("p").count() > 0, pl.col("alarm").any())
        seen, tested = seen + windows["alarm"].sum(), tested + windows["p"].sum()
    assert tested > 100
    assert binomtest(seen, tested, LEVEL, alternative="greater").pvalue > 0.05


BROKEN = {
    "halved": {"reward": pl.col("reward") / 2},
    "flipped": {"reward": pl.when("chosen").then(6 - pl.col("reward")).otherwise("reward")},
    "unknown": {"item": pl.when(pl.int_range(pl.len()) % 10 == 0).then(99).otherwise("item")},
}


@pytest.mark.parametrize(("how", "figure"), [*zip(BROKEN, ("list", "chosen", "unknown"), strict=True)])
def test_compare_windows_alarms_in_the_broken_week(how, figure):
    seen = 0
    for seed in range(5):
        table = weeks(seed, 400)
        broken = table.filter(WEEK == 4).with_columns(**BROKEN[how]).select(table.columns)
        one = watched(pl.concat([table.filter(WEEK != 4), broken]).sort("timestamp", maintain_order=True))
        seen += figure in alarms(one, 3)
    assert seen == 5


def test_a_share_of_unknown_items_that_falls_is_no_alarm():
    table = weeks(2, 400, unknown=0.2)
    table = table.with_columns(item=pl.when((WEEK == 4) & ~pl.col("shown")).then(1).otherwise("item"))
    change = of(watched(table), "unknown", 3)
    assert change["value"] == 0
    assert change["difference_high"] < 0
    assert not change["alarm"]


def test_outcomes_before_a_users_first_list_count_from_when_the_version_is_served():
    """Else the reference, in which everybody's first list is, would have fewer of them than any window after."""
    table = weeks(0, 300)
    first = table.filter("shown").group_by("user").agg(pl.col("timestamp").min()).filter(WEEK == 3)
    early = pl.DataFrame({"user": first["user"][:1], "item": [99], "reward": [3.0], "meets": [True]})
    early = early.with_columns(shown=pl.lit(False), chosen=pl.lit(True)).join(
        pl.DataFrame({"timestamp": [-1, DAY]}), how="cross"
    )
    outcomes = table.filter("chosen", WEEK < 2)["item"]
    assert of(watched(table), "unknown")["value"] == pytest.approx((outcomes >= ITEMS).mean())
    one = watched(pl.concat([early, table], how="diagonal"))
    unknown = (outcomes >= ITEMS).sum()
    assert of(one, "unknown")["value"] == pytest.approx((unknown + 1) / (len(outcomes) + 1))


def test_figures_without_a_row_are_not_tested():
    table = weeks(0, 300).filter("shown").with_columns(chosen=pl.lit(False), reward=pl.lit(0.0), fixed=pl.lit(9))
    first = watched(table).table.filter(window=1)
    assert first.filter(pl.col("p").is_null())["figure"].to_list() == ["chosen"]
    assert first.filter(figure="list")["value"].item() == 0


def test_too_few_users_are_not_tested():
    one = watched(weeks(0, MIN_USERS // 2).with_columns(reward=pl.col("reward") / (1 + 9 * (WEEK == 4))))
    assert one.table["p"].count() == 0
    assert one.table.schema["p"] == pl.Float64  # beside a version that is tested, in one file
    assert of(one, "list", 3)["users"] < MIN_USERS
    assert of(one, "list", 3)["value"] < of(one, "list")["value"] / 2


def test_a_reference_of_too_few_users_tests_no_window():
    table = weeks(0, 300).filter((WEEK >= 2) | (pl.col("user").cast(int) < MIN_USERS // 2))
    one = watched(table)
    assert of(one, "list", 1)["users"] > MIN_USERS > of(one, "list")["users"]
    assert one.table["p"].count() == 0


def test_each_version_has_its_own_reference():
    half = weeks(1, 300, version="v2").with_columns(pl.col("reward") / 2, timestamp=pl.col("timestamp") + 21 * DAY)
    mixed = pl.concat([weeks(0, 300), half]).sort("timestamp", maintain_order=True)
    found, short = compare_windows(mixed, NAMES, draws=500)
    assert (list(found), short) == (["v1", "v2"], {})
    one, two = found.values()
    assert of(one, "list")["value"] > 1.5 * of(two, "list")["value"]
    assert of(one, "list")["dates"] == "1970-01-01 .. 1970-01-14"
    assert of(two, "list")["dates"] == "1970-01-22 .. 1970-02-04"
    assert not any({"list", "chosen"} & alarms(report, window) for report in (one, two) for window in range(7))
    assert "unknown" in two.left_out
    alone, _ = compare_windows(weeks(0, 300), NAMES, draws=500)
    assert one.table["lists"].unique(maintain_order=True).equals(alone["v1"].table["lists"].unique(maintain_order=True))


def test_less_than_a_window_is_left_out():
    table = weeks(0, 300)
    ends = table["timestamp"].max()
    one = watched(table.filter(pl.col("timestamp") <= ends - 3 * DAY))
    assert one.table["window"].max() == 5
    assert one.rest == table.filter("shown", WEEK == 7, pl.col("timestamp") <= ends - 3 * DAY)["decision"].n_unique()
    assert watched(table.filter(pl.col("timestamp") <= ends - DAY // 2)).table["window"].max() == 6
    assert watched(table, days=14, reference=28).table["window"].max() == 2


def test_a_log_without_a_window_after_the_reference_is_refused():
    table = weeks(0, 300)
    with pytest.raises(InputError, match=r"too short: v1: its lists span 56.0 days; reference and window take 70"):
        compare_windows(table, NAMES, reference=63)
    young = weeks(1, 300, 2, version="v2").with_columns(timestamp=pl.col("timestamp") + 42 * DAY)
    found, short = compare_windows(pl.concat([table, young]).sort("timestamp", maintain_order=True), NAMES, draws=50)
    assert set(found) == {"v1"}
    assert set(short) == {"v2"}
    with pytest.raises(InputError, match="it has no lists"):
        compare_windows(table.filter(~pl.col("shown")), NAMES)


def test_lists_of_which_a_condition_leaves_some_places_are_left_out():
    table = weeks(0, 300).with_columns(meets=~((pl.col("decision") == "3-v1") & (pl.col("position") == 2)))
    assert of(watched(table), "list")["lists"] == of(watched(weeks(0, 300)), "list")["lists"] - 1


def test_outcomes_after_the_last_list_wait_for_theirs():
    """`recalign feedback` leaves out the lists of the last day; outcomes without a list it has."""
    table = weeks(0)
    last = table.filter("shown")["timestamp"].max()
    late = table.filter(~pl.col("shown")).head(500).with_columns(timestamp=pl.lit(last) + 1, item=pl.lit(ITEMS + 1))
    one, other = watched(table), watched(pl.concat([table, late], how="vertical_relaxed"))
    assert of(one, "unknown", 6)["value"] == of(other, "unknown", 6)["value"]


def test_where_lists_are_left_out_no_outcome_without_one_counts():
    one = watched(weeks(0).with_columns(meets=~pl.col("shown") | (pl.col("user") != "3")))
    assert "unknown" not in one.table["figure"]
    assert "`where` left out lists" in one.left_out["unknown"]


def test_columns_of_ones_own_are_not_looked_at():
    table = weeks(0)
    own = {name: pl.lit("mine") for name in ("value", "n", "total", "at", "early", "expected")}
    one, other = watched(table), watched(table.with_columns(**own))
    assert one.table.equals(other.table)
