"""Decisions and outcomes, joined: every row by hand, and whatever does not fit counted by its reason."""

from __future__ import annotations

import math
from typing import Any

import polars as pl
import pytest

from recalign.errors import InputError
from recalign.serve.feedback.joining import EARLY, ORDER, Joined, Rule, join
from recalign.serve.feedback.log import COLUMNS

S = 1_000_000  # microseconds
NOW = 10_000 * S


def decision(name: str, user: str, second: int, items: list, logp: list[float] | None = None, **more: Any) -> dict:
    drawn = {"arm": "explored", "chance": 1.0, "temperature": 1.0, "fixed": 0, "seed": hash(name) % 2**50, "ranked": 0}
    own = {
        "time": second * S,
        "decision": name,
        "user": user,
        "version": "v1",
        "k": len(items),
        "seen": "exclude",
        "hidden": 0,
    }
    own |= {"blocked": 0, "allowed": None, "boosts": 0, "items": items, "log_probs": logp}
    return own | (drawn if logp else dict.fromkeys(drawn)) | more


def frame(*rows: dict) -> pl.DataFrame:
    columns = {name: pl.Series([row[name] for row in rows], dtype=kind) for name, kind in COLUMNS.items()}
    return pl.DataFrame(columns | {"items": [row["items"] for row in rows]}).sort("time", maintain_order=True)


def outcomes(*rows: tuple, by: str = "user") -> pl.DataFrame:
    """(user or decision, item, second, reward) each; and one of nobody, long after, so that all decisions are ripe."""
    found = pl.DataFrame(
        [*rows, ("nobody", rows[0][1], 9_000, 1.0)], schema=[by, "item", "time", "reward"], orient="row"
    )
    return found.with_columns(pl.col("time") * S, pl.col("reward").cast(pl.Float64)).sort("time", maintain_order=True)


def joined(decisions: pl.DataFrame, told: pl.DataFrame, **rule: Any) -> Joined:
    return join(decisions, told, Rule(**{"window": 100.0, **rule}), NOW)


def rows(found: Joined, *columns: str) -> list[tuple]:
    return found.table.select(columns).rows()


def test_join_gives_one_row_per_shown_item():
    drawn = decision("d1", "anna", 10, [3, 5, 7], [math.log(0.5), math.log(0.25), -1.0])
    ranked = decision("d2", "bob", 20, [3, 9])
    found = joined(frame(drawn, ranked), outcomes(("anna", 5, 12, 4.0), ("bob", 3, 21, None)))
    assert list(found.table.columns) == list(ORDER)
    assert rows(found, "user", "item", "timestamp", "reward", "chosen", "outcome_at", "position") == [
        ("anna", 3, 10 * S, 0.0, False, None, 1),
        ("anna", 5, 10 * S, 4.0, True, 12 * S, 2),
        ("anna", 7, 10 * S, 0.0, False, None, 3),
        ("bob", 3, 20 * S, None, True, 21 * S, 1),  # chosen, and nobody knows how good it was
        ("bob", 9, 20 * S, 0.0, False, None, 2),
    ]
    assert found.table["propensity"].to_list() == pytest.approx([0.5, 0.25, math.exp(-1), None, None])
    assert found.table["is_random"].to_list() == [True, False, False, False, False]
    assert found.counts["table"]["decisions without an outcome"] == 0
    assert found.counts["outcomes"]["of users without a decision"] == 1
    assert found.counts["arms"] == {"explored": 1, "without exploration": 1}


def test_is_random_only_of_first_items_drawn_from_all_unseen():
    """The first of a list, with nothing before it and all unseen items to draw from; a ranked arm says nothing."""
    logp = [math.log(0.5)] * 2
    found = joined(
        frame(
            decision("fixed", "a", 1, [3, 5], [0.0, -0.5], fixed=1),
            decision("allowed", "a", 2, [3, 5], logp, allowed=7),
            decision("blocked", "a", 3, [3, 5], logp, blocked=1),
            decision("ranked", "a", 4, [3, 5], logp, arm="ranked"),
            decision("again", "a", 5, [3, 5], logp, seen="include"),
            decision("plain", "a", 6, [3, 5], logp, boosts=1),
        ),
        outcomes(("a", 99, 50, 1.0)),
    )
    first = found.table.filter(position=1)
    assert first["is_random"].to_list() == [False, False, False, False, False, True]
    assert first["propensity"].to_list() == pytest.approx([None, 0.5, 0.5, None, 0.5, 0.5])
    assert found.table.filter(decision="fixed")["propensity"].to_list() == pytest.approx([None, math.exp(-0.5)])
    assert found.table.filter(decision="ranked")["log_prob"].to_list() == logp


@pytest.mark.parametrize("ignored", [float("nan"), float("inf")])
def test_rule_refuses_a_reward_of_ignored_items_that_is_not_finite(ignored):
    with pytest.raises(InputError, match="is not finite"):
        Rule(ignored=ignored)


def test_an_outcome_counts_for_the_newest_decision_within_the_window():
    shown = frame(
        decision("old", "anna", 10, [3]), decision("new", "anna", 50, [3]), decision("other", "anna", 60, [5]),
        decision("bobs", "bob", 70, [3]),
    )  # fmt: skip
    found = joined(shown, outcomes(("anna", 3, 80, 1.0), ("bob", 3, 171, 1.0), ("bob", 3, 170, 2.0)))
    assert found.table.filter("chosen")["decision"].to_list() == ["new", "bobs"]
    assert found.counts["outcomes"]["outside the window"] == 1
    exactly = joined(shown, outcomes(("anna", 3, 50, 1.0), ("anna", 3, 49, 2.0)))
    assert exactly.table.filter("chosen").select("decision", "reward").rows() == [("old", 2.0), ("new", 1.0)]


@pytest.mark.parametrize("by", ["user", "decision"])
def test_outcomes_in_whole_seconds_count_for_a_decision_in_the_same_second(by):
    """Else most quick choices would count as shown and not chosen."""
    shown = frame(decision("d", "anna", 10, [3, 5], time=10_700_000), decision("e", "anna", 12, [7], time=12_999_999))
    who = {"user": ("anna", "anna"), "decision": ("d", "e")}[by]
    found = joined(shown, outcomes((who[0], 3, 10, 1.0), (who[1], 7, 12, 1.0), by=by))
    assert found.table.filter("chosen")["item"].to_list() == [3, 7]
    assert found.table["timestamp"].to_list() == [10_700_000] * 2 + [12_999_999]
    told = outcomes((who[0], 3, 10, 1.0), (who[1], 7, 13, 1.0), by=by)
    finer = told.with_columns(pl.when(item=7).then(13_000_500).otherwise("time").alias("time"))
    assert joined(shown, finer).table.filter("chosen")["item"].to_list() == [7]  # known to have come before


@pytest.mark.parametrize(("step", "window"), [(60, 300.0), (86_400, 86_400.0)])
def test_outcomes_in_minutes_or_dates_count_for_a_decision_in_the_same(step, window):
    """A date is its midnight, which lies before every decision of the day."""
    days = 86_400 * 20
    first, last = decision("d", "anna", days + 40, [3]), decision("e", "bob", days + step + 59, [5])
    told = pl.DataFrame(
        [("anna", 3, days, 1.0), ("bob", 5, days + step, 1.0), ("bob", 5, days, 1.0), ("nobody", 3, days * 2, 1.0)],
        schema=["user", "item", "time", "reward"], orient="row",
    )  # fmt: skip
    told = told.with_columns(pl.col("time") * S).sort("time")
    found = join(frame(first, last), told, Rule(window), days * 3 * S)
    assert found.table.filter("chosen")["decision"].to_list() == ["d", "e"]
    assert found.counts["outcomes"]["joined"] == 2


def test_an_outcome_whose_clock_is_ahead_makes_no_decision_older():
    told = outcomes(("anna", 3, 8_801, 1.0), ("anna", 3, 90_000, 1.0))
    found = joined(frame(decision("old", "anna", 8_800, [3]), decision("new", "anna", 9_950, [5])), told)
    assert found.table["decision"].to_list() == ["old"]
    assert found.counts["what does not fit"]["outcomes after now: clocks disagree"] == 1
    nothing = joined(frame(decision("new", "anna", 9_950, [5])), told.filter(pl.col("time") > NOW))
    assert nothing.table.height == 0


def test_of_several_outcomes_of_an_item_the_best_counts_and_then_the_first():
    shown = frame(decision("d", "anna", 10, [3, 5]))
    told = [("anna", 3, 11, 1.0), ("anna", 3, 12, 4.0), ("anna", 3, 13, 4.0), ("anna", 3, 14, None)]
    found = joined(shown, outcomes(*told))
    assert rows(found, "reward", "outcome_at")[0] == (4.0, 12 * S)
    assert found.counts["outcomes"]["of an item that has a better or earlier one, left out"] == 3
    assert found.counts["outcomes"]["joined"] == 1


def test_each_outcome_is_counted_once():
    shown = frame(decision("d", "anna", 1_000, [3]), decision("young", "anna", 8_250, [5]))
    told = outcomes(
        ("anna", 3, 1_001, 1.0), ("anna", 3, 1_002, 0.5), ("anna", 3, 950, 1.0), ("anna", 3, 320, 1.0),
        ("anna", 3, 9, 1.0), ("anna", 3, 1_801, 1.0), ("anna", 3, 1_001, 1.0),
        ("anna", 9, 1_010, 1.0), ("carl", 3, 1_010, 1.0), ("anna", 5, 8_260, 1.0),
    )  # fmt: skip
    found = joined(shown, told, window=800.0)
    assert found.counts["outcomes"] == {
        "read": 11,
        "equal to another, counted once": 1,
        "joined": 1,
        "of decisions that are too young": 1,
        "of an item that has a better or earlier one, left out": 1,
        "of users without a decision": 2,
        "of an item that the user was not shown": 1,
        "up to 600 s before their decision": 1,
        "before their decision by more, within the window": 1,
        "outside the window": 2,
    }
    assert sum(n for name, n in found.counts["outcomes"].items() if name != "read") == 11
    assert found.table["decision"].to_list() == ["d"]
    assert found.counts["decisions"]["too young: their window had not passed at the newest outcome"] == 1


def test_outcomes_may_name_their_decision():
    shown = frame(decision("d1", "anna", 10, [3, 5]), decision("d2", "anna", 20, [3]))
    told = outcomes(
        ("d1", 3, 30, 2.0), ("d1", 7, 30, 1.0), ("gone", 3, 30, 1.0), ("d2", 3, 19, 1.0), ("d2", 3, 500, 1.0),
        by="decision",
    )  # fmt: skip
    found = joined(shown, told)
    assert rows(found, "decision", "item", "chosen") == [("d1", 3, True), ("d1", 5, False), ("d2", 3, False)]
    assert found.counts["outcomes"] == {
        "read": 6,
        "equal to another, counted once": 0,
        "joined": 1,
        "of decisions that are too young": 0,
        "of an item that has a better or earlier one, left out": 0,
        "of a decision that is not in the log": 2,
        "of an item that the decision did not show": 1,
        "before their decision": 1,
        "after the window": 1,
    }
    assert found.counts["what does not fit"][EARLY] == 1


def test_a_delay_leaves_more_decisions_for_later():
    shown = frame(decision("d1", "anna", 8_000, [3]), decision("d2", "anna", 8_800, [3]))
    told = outcomes(("anna", 3, 8_801, 1.0))
    assert joined(shown, told).table["decision"].to_list() == ["d1", "d2"]
    assert joined(shown, told, delay=101.0).table["decision"].to_list() == ["d1"]


def test_propensities_of_0_are_counted_and_left_out():
    found = joined(frame(decision("d", "a", 1, [3, 7], [-800.0, -0.1])), outcomes(("a", 3, 2, 1.0)))
    assert found.table["propensity"].to_list() == pytest.approx([None, math.exp(-0.1)])
    assert found.table["is_random"].to_list() == [False] * 2
    assert found.counts["what does not fit"]["propensities of 0"] == 1


def test_versions_are_named_never_averaged():
    shown = frame(decision("d1", "a", 1, [3]), decision("d2", "a", 2, [3], version="v2"), decision("d3", "b", 3, [3]))
    told = outcomes(("a", 3, 4, 1.0))
    assert joined(shown, told).counts["versions (mixed)"] == {"v1": 2, "v2": 1}
    assert joined(shown, told).table["version"].to_list() == ["v1", "v2", "v1"]
    assert "versions" in joined(shown.filter(version="v1"), told).counts


def test_join_counts_misfits():
    shown = frame(
        decision("d1", "a", 1, [3], [-0.5], seed=7), decision("d2", "a", 2, [5], [-0.5], seed=7),
        decision("none", "a", 3, []), decision("ahead", "a", 20_000, [3]),
    )  # fmt: skip
    found = joined(shown, outcomes(("a", 3, 4, 1.0), ("nobody", 3, 11_000, 1.0)))
    assert found.counts["decisions"] == {
        "read": 4,
        "that showed nothing": 1,
        "too young: their window had not passed at the newest outcome": 1,
        "used": 2,
    }
    misfits = found.counts["what does not fit"]
    assert misfits["decisions after now: clocks disagree"] == 1
    assert misfits["outcomes after now: clocks disagree"] == 1
    assert misfits["draws with the seed of another draw"] == 1
    assert misfits["chosen items whose outcome came after the user's next decision"] == 1  # d2 and an empty one


def test_unshown_keeps_unattributed_outcomes_as_events():
    shown = frame(decision("d", "anna", 10, [3, 5]))
    told = outcomes(("anna", 3, 11, 1.0), ("anna", 3, 12, 0.5), ("anna", 8, 5, 2.0))
    found = joined(shown, told, unshown=True)
    assert rows(found, "user", "item", "timestamp", "shown", "chosen", "is_random", "reward") == [
        ("anna", 8, 5 * S, False, True, False, 2.0),
        ("anna", 3, 10 * S, True, True, False, 1.0),
        ("anna", 5, 10 * S, True, False, False, 0.0),
        ("anna", 3, 12 * S, False, True, False, 0.5),
    ]
    assert found.counts["table"]["not shown"] == 2


def test_unshown_events_wait_until_the_lists_of_their_time_are_mature():
    """A later table only adds rows after those that this one has: `recalign update` takes no others."""
    shown = [decision("d", "anna", 10, [3]), decision("e", "anna", 8_950, [5])]
    told = [("anna", 8, 5, 1.0), ("anna", 5, 8_960, 1.0), ("anna", 9, 8_970, 1.0)]
    first = joined(frame(*shown), outcomes(*told), unshown=True).table
    assert first["item"].to_list() == [8, 3]
    then = joined(frame(*shown), outcomes(*told, ("anna", 1, 9_500, 1.0)), unshown=True).table
    assert then.head(2).equals(first)
    assert then["item"].to_list() == [8, 3, 5, 9, 8]


def test_items_of_another_kind():
    numbers, texts = frame(decision("d", "a", 1, [3])), frame(decision("d", "a", 1, ["3", "x"]))
    assert joined(numbers, outcomes(("a", "3", 2, 1.0))).counts["outcomes"]["joined"] == 1
    assert joined(texts, outcomes(("a", 3, 2, 1.0))).counts["outcomes"]["joined"] == 1
    with pytest.raises(
        InputError, match=r"'film' \(2 outcomes\) is not an integer, but the items of the decisions are"
    ):
        joined(numbers, outcomes(("a", "film", 2, 1.0)))


def test_a_further_outcome_does_not_stand_in_the_history_of_its_own_list():
    """Told in whole seconds, it may seem to come before the list that led to it."""
    made = decision("d", "anna", 10, [3]) | {"time": 10_700_000}
    found = joined(frame(made), outcomes(("anna", 3, 10, 1.0), ("anna", 3, 10, 0.5)), unshown=True)
    anna = found.table.filter(pl.col("user") == "anna")
    assert anna["timestamp"].to_list() == [10_700_000, 10_700_001]
    assert anna["shown"].to_list() == [True, False]


def test_an_outcome_that_is_delivered_twice_counts_once():
    told = outcomes(("anna", 3, 11, 2.0), ("anna", 8, 12, 2.0))
    shown = frame(decision("d", "anna", 10, [3, 5]))
    twice = joined(shown, pl.concat([told, told]).sort("time"), unshown=True)
    assert twice.table.equals(joined(shown, told, unshown=True).table)
    assert twice.table["reward"].sum() == 4.0
    assert twice.counts["outcomes"]["equal to another, counted once"] == 3


def _behind(seconds: int, count: int, by: str = "user") -> tuple[pl.DataFrame, pl.DataFrame]:
    """Decisions whose items were chosen 5 s later, on a clock that is behind by so many seconds."""
    shown = [decision(f"d{n}", f"user {n}", 1_000 + 100 * n, [3, 5]) for n in range(count)]
    own = {"user": "user", "decision": "decision"}[by]
    return frame(*shown), outcomes(*((one[own], 3, one["time"] // S + 5 - seconds, 1.0) for one in shown), by=by)


@pytest.mark.parametrize("by", ["user", "decision"])
@pytest.mark.parametrize("seconds", [120, 3_600])
def test_clocks_that_disagree_are_refused(seconds, by):
    """Else whatever was chosen would count as shown and not chosen, and as seen before it was shown."""
    told = rf"20 outcomes came before the decision .* by {seconds - 5:,} s in the median, and 0 after it"
    with pytest.raises(InputError, match=told):
        joined(*_behind(seconds, 20, by), window=5_000.0, unshown=by == "user")
    assert joined(*_behind(0, 20, by), window=5_000.0).counts["outcomes"]["joined"] == 20


def test_a_few_outcomes_before_their_decision_are_no_events():
    """Nobody knows when they were."""
    found = joined(*_behind(60, 5), unshown=True)
    assert found.table["shown"].all()
    assert found.counts["what does not fit"][EARLY] == 5


@pytest.mark.parametrize(
    ("by", "said"), [("user", "21 of 21 are of users without a decision"), ("decision", "that is not in the log")]
)
def test_outcomes_of_which_none_belongs_to_a_list_are_refused(by, said):
    """Spaces around ids, or another column: else the table would say that nothing was ever chosen."""
    shown, told = _behind(0, 20, by)
    spaced = told.with_columns(pl.col(by) + " ")
    with pytest.raises(InputError, match=f"no outcome belongs to a list: .*{said}"):
        joined(shown, spaced)
