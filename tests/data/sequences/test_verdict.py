"""May a log be trained on: each concern, from logs made up for it."""

import re
from dataclasses import replace

import featured
import polars as pl
import pytest

from recalign.data.events import LogMapping
from recalign.data.sequences import EventDataModule, High, LeaveLast
from recalign.data.sequences.audit import (
    CATALOGUE,
    CHANCES,
    COLD,
    COLD_TARGETS,
    DRAWN,
    FOLLOWS,
    LEAKS,
    MISSES,
    READING,
    Concern,
    Verdict,
    audit_log,
    verdict,
)


def said(root, rows, *, unit="s", **settings):
    """The verdict on a log of rows (user, item, rating, timestamp)."""
    return verdict(audit_log(made_up(root, rows, unit=unit, **settings)), unit)


def made_up(root, rows, *, reward="rating", high="reward >= 5", unit="s", split=None, share_a=0.7, ties=None):
    """A log of rows (user, item, rating, timestamp)."""
    columns = {"user": pl.Int64, "item": pl.Int64, "rating": pl.Float64, "timestamp": pl.Int64}
    pl.DataFrame(rows, schema=columns, orient="row").write_csv(root / "log.csv")
    log = LogMapping(name="made-up", files=["log.csv"], time_unit=unit)
    return EventDataModule(log, reward, High(high), split or LeaveLast(1, 1), str(root), share_a=share_a, ties=ties)


def mixed(user, step):
    return 3 + (user * 7 + step * step) % 3


def rows(users=120, items=12, rating=mixed, pause=lambda user, step: 86_400, steps=10, item=None):
    """Ten events a user, or ``steps``, on items that differ."""
    item = item or (lambda user, step: (user + step) % items)
    made = []
    for user in range(users):
        time = 1_600_000_000 + 37 * user
        for step in range(steps):
            time += pause(user, step)
            made.append((user, item(user, step), rating(user, step), time))
    return made


def early(time):
    """Every 25th event at a time long ago."""
    return [(*row[:3], time if number % 25 == 0 else row[3]) for number, row in enumerate(rows())]


def test_verdict_of_a_sound_log_is_usable(tmp_path):
    found = said(tmp_path, rows(users=800))
    assert (str(found), found.word) == ("verdict: usable", "usable")


def test_verdict_warns_of_a_log_without_rewards(tmp_path):
    found = said(tmp_path, rows(), reward=None)
    assert [concern.text for concern in found.concerns] == [
        "no event has a reward: a recommender can be trained, but there is nothing to align it to"
    ]


def test_verdict_stops_at_rewards_leaked_by_times(tmp_path):
    """A purchase follows its view at once, so that a pause tells what the event was."""

    def bought(user, step):
        return (user + step) % 2 == 1

    ratings = {True: 5, False: 1}
    pauses = {True: 30, False: 9_000}
    log = rows(rating=lambda *at: ratings[bought(*at)], pause=lambda *at: pauses[bought(*at)])
    found = said(tmp_path, log)
    assert found.word == "do not train"
    assert "AUC 1.00" in str(found)


def tied(user, step):
    return 86_400 * (step % 3 == 0)


def last_tied(user, step):
    return 86_400 * (step < 8)


def rare(user, step):
    """The last item of every second user is his own."""
    return 1000 + user if user % 2 and step == 9 else (user + step) % 12


def test_verdict_accepts_ties_together(tmp_path):
    sections = audit_log(made_up(tmp_path, rows(users=1000, pause=last_tied), ties="together"))
    assert (sections["test"]["events"], sections["test"][FOLLOWS]) == (3 * 1000, 2 / 3)
    assert sections["split"][READING] == "together"
    assert verdict(sections, "s").word == "usable"


@pytest.mark.parametrize(
    ("changed", "word", "says"),
    [
        (
            {"rows": rows(rating=lambda user, step: 1e6 if user == step == 5 else mixed(user, step))},
            "do not train",
            "100% of the variance of the rewards is due to one event in a thousand",
        ),
        ({"rows": rows(items=3)}, "with care", "of the test events the user had met the item before"),
        ({"rows": rows(), "high": "reward >= 9"}, "with care", "0% of the events have a high reward"),
        ({"rows": rows(), "unit": "ms"}, "do not train", "all events are of 1970: is data.log.time_unit ms right?"),
        ({"rows": early(0)}, "with care", "48 events are before 1990, unlike most: are they in another unit"),
        ({"rows": rows(), "high": "reward >= 4"}, "with care", "67% of the events have a high reward, so high/* says"),
        ({"rows": rows(users=30)}, "with care", "30 users have test events"),
        ({"rows": rows(users=15)}, "do not train", "this log cannot be measured: 15 users have test events"),
        ({"rows": rows(steps=4)}, "with care", "the median user has 4 events, but needs 5 (one to test on"),
        ({"rows": rows(pause=tied)}, "with care", "90% of the events share their time with another of the same user"),
        ({"rows": rows(pause=tied)}, "with care", "at least 45% of the next events are noise"),
        ({"rows": rows(pause=last_tied)}, "with care", "100% of the test events follow one of the same user and time"),
        ({"rows": rows(pause=last_tied)}, "with care", "Until then a chain decides nothing"),
        ({"rows": rows(pause=last_tied), "ties": "order"}, "with care", "at least 15% of the next events are noise"),
        ({"rows": rows(item=rare)}, "with care", "so that no method's ndcg is above 0.50. Try another data.split"),
        ({"rows": [*rows(), *rows()[:3]]}, "with care", "3 events (0.2%) repeat another in every column"),
        ({"rows": rows(pause=lambda user, step: 60)}, "with care", "all events are of one day, 2020-09-13"),
        (
            {"rows": [(u, v, r if u % 3 == 0 else None, t) for u, v, r, t in rows()]},
            "with care",
            "33% of the events have a reward",
        ),
    ],
)
def test_verdict_states_each_concern(tmp_path, changed, word, says):
    found = said(tmp_path, changed.pop("rows"), **changed)
    assert found.word == word
    assert says in str(found)


def test_verdict_proposes_the_resolution_that_hides_a_leak(tmp_path):
    """The best events follow after 90 seconds and not 130: in whole minutes that hardly shows."""
    log = rows(pause=lambda user, step: 90 if mixed(user, step) == 5 else 130)
    text = str(said(tmp_path, log))
    assert "(data.log.time_resolution: 60)" in text


@pytest.mark.parametrize("share_a", [0.7, 1.0])
def test_verdict_warns_of_judges_with_few_rewards(tmp_path, share_a):
    """120 users with eight training events each: 144 rewards for each group of judges, about; none are asked for."""
    found = [concern.text for concern in said(tmp_path, rows(), share_a=share_a).concerns]
    assert len(found) == (share_a < 1)
    assert all(
        re.match(r"judges learn from \d+ rewards, and with fewer than 800 many are no better", text) for text in found
    )


def test_verdict_lists_serious_concerns_first():
    found = Verdict([Concern(False, "small"), Concern(True, "large")])
    assert str(found) == "verdict: do not train\n- large\n- small"


def test_audit_log_counts_item_features(tmp_path):
    featured.write(tmp_path)
    data = featured.data_of(tmp_path, {"half": "half"}, EventDataModule)
    sections = audit_log(data)
    assert sections["item features"]["items with a row"] == 40
    assert sections["item features"]["rows of items that the log does not have"] == 2
    assert sections["split"][CATALOGUE] == 36
    assert sections["split"][COLD] == 6
    assert (sections["test"][COLD_TARGETS], sections["test"][MISSES]) == (1, 0)
    assert set(sections[LEAKS].values()) == {0}


def test_verdict_stops_at_leaks(tmp_path):
    sections = audit_log(made_up(tmp_path, rows(users=800)))
    sections[LEAKS] = {"test events seen in training": 3}
    assert str(verdict(sections, "s")) == "verdict: do not train\n- leak: 3 test events seen in training"


@pytest.mark.parametrize("propensity", [None, "chance"])
def test_verdict_warns_of_random_exposure_without_propensity(tmp_path, propensity):
    log = rows(users=800)
    data = made_up(tmp_path, log)
    columns = {"drawn": "rating >= 5", "chance": "0.25 + 0 * rating"}
    data.log_ = replace(data.log_, columns=columns, is_random="drawn", propensity=propensity)
    sections, drawn = audit_log(data), sum(row[2] >= 5 for row in log)
    known = drawn if propensity else 0
    assert sections["exposure"] == {DRAWN: drawn, CHANCES: known}
    text = str(verdict(sections, "s"))
    assert (f"{drawn:,} events were shown at random with unknown probabilities" in text) == (propensity is None)
