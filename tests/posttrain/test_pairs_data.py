"""Pairs: the winner was valued more, by the same user, and nothing is known that was not yet known."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import small
import torch
from hypothesis import given
from hypothesis import strategies as st

from recalign.data.sequences import Batch
from recalign.data.sequences.splits import TRAIN
from recalign.errors import InputError
from recalign.posttrain import PairData
from recalign.posttrain.pairs_data import logged_pairs, target_pairs
from recalign.reward import RewardData

# two users of seven events each; the last of each is the test, the one before it validation
TINY = {
    "user": [1] * 7 + [2] * 7,
    "item": [10, 20, 30, 40, 50, 60, 20, 20, 10, 40, 30, 60, 50, 40],
    "timestamp": [*range(7), *range(7)],
    "rating": [3.0, 5.0, 1.0, 4.0, 1.0, 0.0, 0.0, 3.0, None, 4.0, 2.0, 3.0, 9.0, 9.0],
}


PARTS = {"split": small.LeaveLast(1, 1), "users": "all"}


def tiny(root, **settings) -> PairData:
    pl.DataFrame(TINY).write_csv(root / "tiny.csv")
    return small.data_of(PairData, root, "tiny", **PARTS, **settings)


def paired(data: PairData) -> Batch:
    """All training windows, with those targets that are a pair's winner."""
    batch = small.batch_of(data, "train")
    return batch.keep((batch.rejected_TN > 0).all(dim=1))


def raw(data: PairData) -> list[tuple[int, list[int], int, list[int]]]:
    """(user, history, winner, losers) in the log's own ids."""
    items = data.sequences.items.to_list()
    batch = paired(data)
    out = []
    for row, column, winner, losers in zip(
        batch.row_T.tolist(), batch.column_T.tolist(), batch.target_T, batch.rejected_TN, strict=True
    ):
        history = [items[v - 1] for v in batch.item_BL[row, : column + 1].tolist()]
        user = data.sequences.users[int(batch.user_B[row])]
        out.append((user, history, items[int(winner) - 1], [items[v - 1] for v in losers.tolist()]))
    return out


def test_logged_pairs_values(tmp_path):
    """Of two events to come the one above the user's mean wins over the one below, at the history before both."""
    found = raw(tiny(tmp_path, candidates=64))
    # user 1 trains on 20 (5), 30 (1), 40 (4), 50 (1), with means near 3: each against one of those behind it
    possible = [(1, [10], 20, {30, 50}), (1, [10, 20], 40, {30}), (1, [10, 20, 30], 40, {50})]
    # user 2 on 10 (none), 40 (4), 30 (2), 60 (3): the last two are both below the mean of 3 and 4 before them
    possible += [(2, [20, 10], 40, {30})]
    assert len(found) == len(possible)
    for (*known, losers), (*expected, allowed) in zip(found, possible, strict=True):
        assert known == expected
        assert set(losers) <= allowed
    assert tiny(tmp_path).share == pytest.approx(4 / 8)


def test_pair_data_keeps_events_without_a_pair(tmp_path, monkeypatch):
    monkeypatch.setitem(TINY, "rating", [None] * 7 + TINY["rating"][7:])  # user 1 rates nothing
    data = tiny(tmp_path)
    pairs, others = (small.batch_of(d, "train") for d in (data, small.data_of(RewardData, tmp_path, "tiny", **PARTS)))
    assert pairs.event_T.equal(others.event_T)
    assert set(paired(data).user_B[paired(data).row_T].tolist()) == {1}
    none_T = pairs.rejected_TN[:, 0] == 0
    assert none_T.any()
    assert pairs.target_T[none_T].equal(others.target_T[none_T])


rewards = st.lists(st.lists(st.sampled_from([1.0, 2.0, 3.0, np.nan]), min_size=1, max_size=8), min_size=1, max_size=4)


@given(rewards, st.sampled_from([1.5, 2.0, 3.5]), st.integers(1, 3), st.integers(0, 5))
def test_logged_pairs_follow_the_history(values, mean, losers, seed):
    reward, user = np.concatenate(values), np.repeat(np.arange(len(values)), [len(v) for v in values])
    stop = np.cumsum([len(v) for v in values])[user]
    random, place = np.random.default_rng(seed), np.arange(len(reward))
    found = logged_pairs(reward, np.full(len(reward), mean), place + 1, place, stop, losers, 64, random)
    for event, (winner, *others) in enumerate(found):
        behind = reward[event + 1 : stop[event]]
        if ((behind - mean) * (reward[event] - mean) < 0).any():
            assert others[0] >= 0
            assert event in (winner, others[0])
        else:
            assert max(others) < 0
        chosen = [winner, *(o for o in others if o >= 0)]
        assert len(set(chosen)) == len(chosen)
        assert all(event <= c < stop[event] for c in chosen)
        assert all(reward[winner] > mean > reward[o] for o in chosen[1:])


def test_logged_pairs_exclude_history_items_and_repeats():
    """Users who choose a few items again and again, each with a reward of its own."""
    random = np.random.default_rng(0)
    item, reward = random.integers(1, 9, (200, 12)), random.choice([1.0, 3.0], (200, 12)).ravel()
    place, state = np.arange(reward.size), np.arange(reward.size) - 1  # of a history that all of a user's are in
    first = np.array([12 * u + list(row).index(v) for u, row in enumerate(item) for v in row])
    stop = 12 * (place // 12 + 1)
    found = logged_pairs(reward, np.full(reward.size, 2.0), first, state, stop, 3, 64, random)
    assert (found >= 0).all(axis=1).sum() > 100
    for event, row in enumerate(found):
        user, step = divmod(event, 12)
        chosen = [item[user, place - 12 * user] for place in row if place >= 0 and row[1] >= 0]
        assert not set(chosen) & set(item[user, :step])
        assert len(set(chosen)) == len(chosen)


@pytest.mark.parametrize("pairs", ["sampled", "generated"])
def test_drawn_losers_are_unseen_in_training(log_root, cloned, pairs):
    data = small.data_of(PairData, log_root, "tastes", pairs=pairs, losers=3, init_from=str(cloned))
    events = data.sequences.frame.filter(pl.col("split") == TRAIN)
    met = set(events.select("user", "item_id").iter_rows())
    batch = paired(data)
    user_T = batch.user_B[batch.row_T]
    assert not {(u, v) for u, row in zip(user_T.tolist(), batch.rejected_TN.tolist(), strict=True) for v in row} & met
    frame = data.expected_rewards(batch.event_T.numpy())
    assert (frame["reward"] > frame["user"]).all()
    assert batch.target_T.equal(
        torch.from_numpy(data.sequences.frame["item_id"].gather(batch.event_T.numpy()).to_numpy())
    )


def test_target_pairs_skip_excluded_candidates():
    drawn = torch.tensor([[1, 4, 3, 2]])
    target, barred = torch.tensor([1]), torch.tensor([[True, True, False, False]])
    assert target_pairs(target, drawn, barred, 2).tolist() == [[1, 3, 2]]
    assert target_pairs(target, drawn, barred, 3).tolist() == [[1, 3, 2, 0]]


def test_validation_and_test_rewards_change_nothing(tmp_path, monkeypatch):
    before = raw(tiny(tmp_path, losers=2))
    monkeypatch.setitem(TINY, "rating", [99.0 if i % 7 >= 5 else r for i, r in enumerate(TINY["rating"])])
    assert raw(tiny(tmp_path, losers=2)) == before


def test_pair_data_refuses_a_log_without_pairs(tmp_path, monkeypatch):
    monkeypatch.setitem(TINY, "rating", [1.0] * 7 + [2.0] * 7)
    with pytest.raises(InputError, match=r"data\.pairs.*no pairs can be made.*below that mean"):
        tiny(tmp_path).training()
