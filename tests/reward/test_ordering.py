"""The order of one user's rewards where validation holds one event of a user: on training rows of other users."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import small
import torch

from recalign.bootstrap import CrossedBootstrap
from recalign.data.sequences import LeaveLast
from recalign.nn import Pooled
from recalign.reward import RewardData, RewardModel
from recalign.reward.trust import report
from recalign.reward.trust.measures import estimate, ordered_pairs, ratios
from recalign.reward.trust.report import MIN_USERS, OTHERS, compare_predictions


@pytest.fixture(scope="module")
def brief(tmp_path_factory):
    """A data root with ``brief.csv``: 1,500 users of 3 to 8 events; each likes the items of its own parity."""
    rng, rows = np.random.default_rng(0), []
    for user in range(1500):
        for step, item in enumerate(rng.choice(60, rng.integers(3, 9), replace=False)):
            stars = (4.6 if item % 2 == user % 2 else 2.4) + 0.7 * rng.normal()
            rows.append((user + 1, int(item) + 1, stars, 1000 + 60 * step))
    root = tmp_path_factory.mktemp("brief")
    pl.DataFrame(rows, schema=["user", "item", "rating", "timestamp"], orient="row").write_csv(root / "brief.csv")
    return root


def data_of(root, name="brief", **settings):
    return small.data_of(RewardData, root, name, **{"split": LeaveLast(test=1, validation=1), **settings})


def said_of(data, folder, **settings):
    torch.manual_seed(0)
    module = RewardModel(data.num_items, encoder=Pooled(dim=8, max_length=32), members=1, lr=1e-2)
    small.fit(module, data, folder, **settings)
    return module.trust_report


@pytest.mark.slow
def test_strong_tastes_are_a_signal(brief, tmp_path):
    said = said_of(data_of(brief), tmp_path, epochs=3)
    assert (said["judged_on"], said["ordered_on"]) == ("validation", OTHERS)
    assert said["verdict"] in ("moderate", "strong")
    pairwise = {name: row["pairwise"] for name, row in said["validation"]["table"].items()}
    assert pairwise["model"][1] > 0.65  # half of the pairs are of one kind: noise orders them
    assert pairwise["item"][0] == pytest.approx(0.5, abs=0.05)  # no item is better than another
    assert pairwise["user"] == [0.5, 0.5, 0.5]
    assert pairwise["ridge"] == pairwise["factors"] == [None, None, None]  # they know nothing of other users
    assert said["validation"]["differences"]["item"]["pairwise"][1] > 0.1


@pytest.mark.parametrize("users", ["all", "A"])
def test_verdict_with_few_held_out_users_is_not_measured(log_root, tmp_path, users):
    said = said_of(data_of(log_root, "tastes", users=users), tmp_path)
    assert (said["verdict"], said["ordered_on"]) == ("not_measured", None)
    assert "data.users" in said["implication"]
    assert said["validation"]["table"]["model"]["pairwise"] == [None, None, None]
    assert said["validation"]["table"]["model"]["rmse"][0] > 0


def test_verdict_with_equal_validation_rewards_is_not_measured(log_root, tmp_path):
    log = pl.read_csv(log_root / "tastes.csv").sort("user", "timestamp", maintain_order=True)
    from_end = pl.len().over("user") - pl.int_range(pl.len()).over("user")
    same = log.with_columns(rating=pl.when(from_end == 2).then(4).otherwise(pl.col("rating")))
    same.write_csv(tmp_path / "same.csv")
    said = said_of(data_of(tmp_path, "same"), tmp_path)
    assert said["verdict"] == "not_measured"
    assert (said["reliability"], said["noise"]["ceiling"]) == (0.0, None)


def test_pairwise_uses_validation_if_enough_users_have_a_pair(log_root, tmp_path):
    data = data_of(log_root, "tastes", split=LeaveLast(test=3, validation=2))
    assert data.sequences.users_in("A").sum() > MIN_USERS
    assert said_of(data, tmp_path)["ordered_on"] == "validation"


@pytest.mark.parametrize("group", ["A", "B1", "B2"])
def test_training_of_others_excludes_the_group(brief, monkeypatch, group):
    data = data_of(brief, users=group)
    windows, sequences = report.training_of_others(data), data.sequences
    assert group not in set(sequences.group[windows.user])
    assert (sequences.frame["split"].gather(windows.event) == 0).all()
    assert set(windows.user) == set(np.flatnonzero((sequences.group != group) & (sequences.train_count > 1)))
    monkeypatch.setattr(report, "MOST_OTHERS", 100)
    few = report.training_of_others(data)
    assert 50 < len(few) <= 100
    assert set(few.user) < set(windows.user)


def test_pairwise_on_others_uses_item_means_of_the_group(brief):
    """By hand: the pairs of others whose later item has the higher mean among the training rewards of A."""
    data = data_of(brief)
    item_mean_V = data.reward_moments().item_mean_V
    frame = data.sequences.frame.filter(pl.Series(data.sequences.group != "A").gather(data.sequences.frame["user"]))
    right = pairs = 0
    for (_,), rows in frame.filter(pl.col("split") == 0).group_by("user"):
        item, reward = rows["item_id"].to_numpy()[1:], rows["reward"].to_numpy()[1:]  # the first has no history
        for i in range(len(item)):
            for j in range(i + 1, len(item)):
                pairs += 1
                right += (item_mean_V[item[j] - 1] > item_mean_V[item[i] - 1]) == (reward[j] > reward[i])

    def predicted(windows):
        user = windows.user.repeat(np.diff(windows.offset))
        same_NC = np.stack([np.append(user[c:], np.full(c, -1))[: len(user)] == user for c in range(1, 11)], axis=1)
        ahead_NC = np.where(same_NC, 1.0, np.nan).astype(np.float32)
        zero_N = np.zeros(len(user), np.float32)
        event = pl.Series(windows.event).cast(pl.UInt32)
        return pl.DataFrame({"event": event, "model": zero_N, "ahead": ahead_NC})

    parts = compare_predictions(data, predicted, ["validation"])
    assert parts["validation"].ordered_on == OTHERS
    assert parts["validation"].table["item"]["pairwise"].value == pytest.approx(right / pairs)


def test_verdict_on_random_predictions_is_no_signal():
    """The lower end of an interval lies above one half in 2.5 % of cases, as it should; of 5 users, in more."""
    rng, over = np.random.default_rng(0), {}
    for users in (5, MIN_USERS):
        bootstrap = CrossedBootstrap(users, 400)
        person = np.repeat(np.arange(users), 4)
        found = []
        for _ in range(600):
            reward, ahead = rng.normal(size=4 * users), np.full((4 * users, 1), np.nan)
            ahead[::4, 0] = rng.normal(size=users)
            ahead[2::4, 0] = np.where(rng.random(users) < 0.5, rng.normal(size=users), np.nan)
            pairs = {"model": ordered_pairs(person, reward, ahead, users)}
            found.append(estimate(ratios(pairs, bootstrap)["model"]).interval()[0] > 0.5)
        over[users] = np.mean(found)
    assert over[MIN_USERS] < 0.045 < over[5]
