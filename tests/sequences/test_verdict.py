"""May a log be trained on: each concern, from logs made up for it."""

import polars as pl
import pytest

from recalign.events import Log
from recalign.sequences import EventDataModule, High, LeaveLast
from recalign.sequences.audit import audit_log
from recalign.sequences.verdict import Concern, Verdict, verdict


def said(root, rows, *, high="reward >= 4", unit="s"):
    """The verdict on a log of rows (user, item, rating, timestamp)."""
    columns = {"user": pl.Int64, "item": pl.Int64, "rating": pl.Float64, "timestamp": pl.Int64}
    pl.DataFrame(rows, schema=columns, orient="row").write_csv(root / "log.csv")
    log = Log(name="made-up", files=["log.csv"], time_unit=unit)
    data = EventDataModule(log, "rating", High(high), LeaveLast(1, 1), str(root))
    return verdict(audit_log(data), unit)


def mixed(user, step):
    return 3 + (user * 7 + step * step) % 3


def rows(users=120, items=12, rating=mixed, pause=lambda user, step: 86_400):
    """Ten events a user on items that differ."""
    made = []
    for user in range(users):
        time = 1_600_000_000 + 37 * user
        for step in range(10):
            time += pause(user, step)
            made.append((user, (user + step) % items, rating(user, step), time))
    return made


def test_a_sound_log_is_usable(tmp_path):
    found = said(tmp_path, rows())
    assert (str(found), found.word) == ("verdict: usable", "usable")


def test_a_reward_that_time_gives_away_is_not_trained_on(tmp_path):
    """A purchase follows its view at once, so that a pause tells what the event was."""

    def bought(user, step):
        return (user + step) % 2 == 1

    ratings = {True: 5, False: 1}
    pauses = {True: 30, False: 9_000}
    log = rows(rating=lambda *at: ratings[bought(*at)], pause=lambda *at: pauses[bought(*at)])
    found = said(tmp_path, log)
    assert found.word == "do not train"
    assert "AUC 1.00" in str(found)


@pytest.mark.parametrize(
    ("changed", "word", "says"),
    [
        (
            {"rows": rows(rating=lambda user, step: 1e6 if user == step == 5 else mixed(user, step))},
            "do not train",
            "100% of the variance of the rewards is due to one in a thousand",
        ),
        ({"rows": rows(items=3)}, "with care", "of the test events the user had seen the item before"),
        ({"rows": rows(), "high": "reward >= 9"}, "with care", "no event has a high reward, so high/* means nothing"),
        ({"rows": rows(), "high": "reward >= 1"}, "with care", "every event has a high reward"),
        ({"rows": rows(), "unit": "ms"}, "do not train", "all events are of 1970: is data.log.time_unit ms right?"),
        ({"rows": rows(users=30)}, "with care", "30 users have test events"),
        ({"rows": rows(pause=lambda user, step: 60)}, "with care", "all events are of one day, 2020-09-13"),
        (
            {"rows": [(u, v, r if u % 3 == 0 else None, t) for u, v, r, t in rows()]},
            "with care",
            "33% of the events have a reward",
        ),
    ],
)
def test_each_concern_is_said(tmp_path, changed, word, says):
    found = said(tmp_path, changed.pop("rows"), **changed)
    assert found.word == word
    assert says in str(found)


def test_serious_concerns_come_first():
    found = Verdict([Concern(False, "small"), Concern(True, "large")])
    assert str(found) == "verdict: do not train\n- large\n- small"
