"""Item-kNN: co-occurrence with the newest items of a history."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import polars as pl
import pytest
import small
import torch

from recalign.data.sequences import LeaveLast
from recalign.recommender import memory
from recalign.recommender.item_knn import ItemKNN, transitions
from recalign.recommender.memory import nearest
from recalign.reward import RewardData

NEAR = math.sqrt(2) - 1  # 1 / (sqrt(2 * 1) + 1): two items that met once, of two training events and one
HISTORIES = {1: [1, 2, 3, 1, 2], 2: [2, 1, 4, 3, 3], 3: [5, 6, 2]}  # the last two are of validation and test


@pytest.fixture
def by_hand(tmp_path) -> RewardData:
    rows = [(user, item, time, time % 3) for user, items in HISTORIES.items() for time, item in enumerate(items)]
    pl.DataFrame(rows, schema=["user", "item", "timestamp", "rating"], orient="row").write_csv(tmp_path / "hand.csv")
    once = LeaveLast(test=1, validation=1)
    return small.data_of(RewardData, tmp_path, "hand", split=once, users="all", max_length=8, cache=False)


@pytest.fixture(scope="module")
def data(log_root):
    return small.data_of(RewardData, log_root)


def probabilities(policy: ItemKNN, data: RewardData, user: int, part: str = "test") -> list[float]:
    """After a user's history, for the items 1, 2, ..."""
    batch = small.batch_of(data, part)
    own = data.sequences.users.gather(batch.user_B[batch.row_T].numpy()) == user
    return policy.log_probs(policy.encode(batch))[own.arg_max()].exp().tolist()


def test_neighbours_are_as_worked_out_by_hand(by_hand):
    """With a window of 1: items 1 and 2 meet twice, 2 and 3 once, 1 and 4 once. What is held out does not count."""
    neighbour_WK, cosine_WK = nearest(by_hand.sequences, "all", window=1, neighbours=2, shrinkage=1.0)
    assert neighbour_WK.tolist() == [[0, 0], [2, 4], [1, 3], [2, 0], [1, 0], [0, 0]]
    twice = 2 / (2 + 1)
    expected = [[0, 0], [twice, NEAR], [twice, NEAR], [NEAR, 0], [NEAR, 0], [0, 0]]
    np.testing.assert_allclose(cosine_WK, expected, rtol=1e-6)
    one, _ = nearest(by_hand.sequences, "all", window=1, neighbours=1, shrinkage=1.0)
    assert one[:, 0].tolist() == [0, 2, 1, 2, 1, 0]
    wider, _ = nearest(by_hand.sequences, "all", window=2, neighbours=4, shrinkage=1.0)
    assert sorted(wider[1]) == [0, 2, 3, 4]


def test_probabilities_are_as_worked_out_by_hand(by_hand):
    """Of the newest two, the newest counts 1 and the other 1/2; each item's share of 7 training events is added."""
    policy = ItemKNN.of(by_hand.sequences, window=1, shrinkage=1.0, newest=2)
    # After 1, 2, 3, 1: neighbours 2 and 4 of item 1, and 2 of item 3.
    score = np.array([2 / 7, 2 / 3 + NEAR / 2 + 2 / 7, 1 / 7, NEAR + 1 / 7, 1 / 7])
    np.testing.assert_allclose(probabilities(policy, by_hand, user=1), score / score.sum(), rtol=1e-5)
    # After 2, 1, 4, 3: neighbour 2 of item 3, and 1 of item 4.
    score = np.array([NEAR / 2 + 2 / 7, NEAR + 2 / 7, 1 / 7, 1 / 7, 1 / 7])
    np.testing.assert_allclose(probabilities(policy, by_hand, user=2), score / score.sum(), rtol=1e-5)


def test_an_item_without_neighbours_leaves_popularity_and_one_that_training_never_saw_is_in_no_history(by_hand):
    policy = ItemKNN.of(by_hand.sequences)
    share = [2 / 7, 2 / 7, 1 / 7, 1 / 7, 1 / 7]
    np.testing.assert_allclose(probabilities(policy, by_hand, user=3), share, rtol=1e-5)  # after 5, for 6 is unknown


def test_transitions_are_as_worked_out_by_hand(by_hand):
    """Right after 1 came 2 once and 4 once, after 2 came 3 and 1, after 3 nothing in training: popularity is left."""
    policy = transitions(by_hand.sequences)
    share = np.array([2, 2, 1, 1, 1]) / 7
    after_1 = share + np.array([0, 1, 0, 1, 0])
    np.testing.assert_allclose(probabilities(policy, by_hand, user=1), after_1 / 3, rtol=1e-5)  # 1, 2, 3, 1
    np.testing.assert_allclose(probabilities(policy, by_hand, user=2), share, rtol=1e-5)  # 2, 1, 4, 3


def test_neighbours_are_those_of_a_plain_count(data, monkeypatch):
    """On a log that repeats nothing by hand, in one block or in many."""
    window, shrinkage, k = 3, 2.0, 5
    frame = data.sequences.frame.filter(pl.col("split") == 0)
    met, count = Counter(), Counter(frame["item_id"].to_list())
    for _, own in frame.group_by("user"):
        items = own.sort("event")["item_id"].to_list()
        for at, item in enumerate(items):
            met.update((item, near) for near in items[max(at - window, 0) : at + window + 1] if near != item)
    cosine = {pair: n / (math.sqrt(count[pair[0]] * count[pair[1]]) + shrinkage) for pair, n in met.items()}
    neighbour_WK, cosine_WK = nearest(data.sequences, "all", window, k, shrinkage)
    for item in range(1, data.num_items + 1):
        best = sorted((value for (one, _), value in cosine.items() if one == item), reverse=True)[:k]
        np.testing.assert_allclose(cosine_WK[item], best + [0] * (k - len(best)), rtol=1e-6)
        near = [other for other in neighbour_WK[item] if other]
        np.testing.assert_allclose([cosine[item, other] for other in near], cosine_WK[item][: len(near)], rtol=1e-6)
    monkeypatch.setattr(memory, "PAIRS", 100)
    for one, other in zip((neighbour_WK, cosine_WK), nearest(data.sequences, "all", window, k, shrinkage), strict=True):
        np.testing.assert_array_equal(one, other)


def test_batches_and_slices_change_nothing(data):
    policy, whole = ItemKNN.of(data.sequences), small.batch_of(data)
    state = policy.encode(whole)
    logp_TV = policy.log_probs(state)
    torch.testing.assert_close(logp_TV.exp().sum(dim=1), torch.ones(len(logp_TV)))
    few = small.batch_of(data, rows=2)
    torch.testing.assert_close(policy.log_probs(policy.encode(few)), logp_TV[: len(few.target_T)])
    torch.testing.assert_close(policy.log_probs(state[1:3]), logp_TV[1:3])
    item_TC = torch.randint(1, data.num_items + 1, (len(state), 4))
    torch.testing.assert_close(policy.log_probs(state, item_TC), logp_TV.gather(1, item_TC - 1))


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("window", [1, 5])
def test_where_ties_are_together_neighbours_are_of_other_sets(log_root, tmp_path, window, before):
    """Each pair that the rule names, counted one by one: one is among the newest before the other's set."""
    (pl.read_csv(log_root / "small.csv").with_columns(pl.col("timestamp") // 240)).write_csv(tmp_path / "small.csv")
    sequences = small.data_of(RewardData, tmp_path, cache=False, ties="together").sequences
    count: Counter[tuple[int, int]] = Counter()
    for user, trained in enumerate(sequences.train_count):
        first = sequences.offset[user]
        item, time = sequences.item[first : first + trained].tolist(), sequences.time[first : first + trained]
        for at, later in enumerate(item):
            begin = int(np.searchsorted(time, time[at]))
            for earlier in item[max(begin - window, 0) : begin]:
                count.update([(earlier, later), *[(later, earlier)] * before] if earlier != later else [])
    neighbour_WK, count_WK = nearest(sequences, "all", window, 200, None, before)
    item, place = neighbour_WK.nonzero()
    pairs = zip(item.tolist(), neighbour_WK[item, place].tolist(), strict=True)
    assert dict(zip(pairs, count_WK[item, place].tolist(), strict=True)) == count
