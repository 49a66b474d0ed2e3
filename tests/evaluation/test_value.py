"""The value of a policy: by hand with a policy and scorers that are known, then with real ones."""

from __future__ import annotations

import math
from unittest.mock import patch

import numpy as np
import polars as pl
import pytest
import small
import torch

from recalign.data.sequences import Batch
from recalign.errors import InputError
from recalign.evaluation import value
from recalign.evaluation.counted_rows import SameForAll
from recalign.evaluation.networks import load_truth
from recalign.evaluation.reranking import ItemScores, Rerank
from recalign.evaluation.selection import measured
from recalign.evaluation.value import Scorers, evaluate_policies
from recalign.recommender import RecommenderData
from recalign.recommender.checkpoint import load_net
from recalign.reward import RewardData

CPU = torch.device("cpu")
# User 1 and 3 train on all twelve items between them; user 2 is the judges'.
ROWS = [
    *[(1, v, v, 3.0) for v in range(1, 7)],
    *[(3, v, v, 3.0) for v in range(7, 13)],
    (3, 1, 13, 2.0),
    *[(2, v, v, 5.0) for v in (1, 2, 3, 4)],
    (1, 7, 20, 1.0),  # validation
    (3, 2, 20, 4.0),
    (2, 5, 20, 5.0),
    (1, 8, 30, 5.0),  # test
    (3, 99, 30, 1.0),  # which training never saw
    (2, 6, 30, 5.0),
]


@pytest.fixture
def data(tmp_path):
    pl.DataFrame(ROWS, schema=["user", "item", "timestamp", "rating"], orient="row").write_csv(tmp_path / "hand.csv")
    made = small.data_of(RecommenderData, tmp_path, "hand", split=small.LeaveLast(1, 1))
    made.sequences.group[:] = ["A", "B2", "A"]  # the users in order of their ids
    return made


def test_ranks_leave_out_the_rest_of_a_set_for_all_users(tmp_path):
    """Of two items of one time that a policy prefers to all others, each is its first: those before them are seen."""
    rows = [*ROWS, (1, 9, 30, 5.0), (2, 7, 30, 5.0)]
    pl.DataFrame(rows, schema=["user", "item", "timestamp", "rating"], orient="row").write_csv(tmp_path / "hand.csv")
    made = small.data_of(RecommenderData, tmp_path, "hand", split=small.LeaveLast(1, 1), ties="together")
    made.sequences.group[:] = ["A", "B2", "A"]
    policy = SameForAll(-torch.arange(1.0, 13.0))
    scorers = Scorers(policy, {"judge@10": ItemScores(torch.arange(1.0, 13.0))}, torch.ones(3, 12))
    own = evaluate_policies({"it": policy}, scorers, made, "test", CPU)["it"]
    assert own.filter(user=made.table.users.index_of(1))["rank"].to_list() == [1, 1]
    assert value.ranks_of_others({"it": policy}, made, "test", CPU)["it"]["rank"].to_list() == [1, 1]


@pytest.fixture
def by_hand(data):
    """A constant policy that prefers items in their order, and a start to which all are the same."""
    policy = SameForAll(-torch.arange(1.0, 13.0))
    truth_UV = torch.arange(36.0).view(3, 12)
    scorers = Scorers(SameForAll(torch.zeros(12)), {"judge@10": ItemScores(torch.arange(1.0, 13.0))}, truth_UV)
    return evaluate_policies({"it": policy, "flat": scorers.start}, scorers, data, "test", CPU)


SEEN = {1: set(range(1, 8)), 3: {*range(7, 13), 1, 2}}


def test_ranks_and_flags_match_hand_values(by_hand):
    frame = by_hand["it"]
    assert frame["rank"].to_list() == [1, 0]  # 8 is the first that user 1 has not met; 99 is not in the catalogue
    assert frame["not_in_catalogue"].to_list() == [False, True]
    assert frame["high"].to_list() == [True, False]
    assert frame["high_user"].to_list() == [True, False]  # rewards 5 and 1, the median is 3
    assert by_hand["flat"]["rank"].to_list() == [5, 0]  # all five unseen items are as good


def test_shown_items_are_unseen_and_valued_by_mean(by_hand):
    for row in by_hand["it"].iter_rows(named=True):
        user = 1 if row["user"] == 0 else 3
        unseen = [v for v in range(1, 13) if v not in SEEN[user]]
        assert row["shown"] == unseen + [0] * (10 - len(unseen))
        assert row["judge@10"] == pytest.approx(np.mean(unseen))
        assert row["true@10"] == pytest.approx(np.mean([12 * row["user"] + v - 1 for v in unseen]))
        weight = np.exp([-float(v) for v in unseen])
        true = np.average([12 * row["user"] + v - 1 for v in unseen], weights=weight)
        assert row["true"] == pytest.approx(true, rel=1e-5)


def test_kl_and_entropy_match_hand_values(by_hand):
    p = np.exp(-np.arange(1, 13.0))
    p /= p.sum()
    entropy = -(p * np.log(p)).sum()
    for row in by_hand["it"].iter_rows(named=True):
        assert row["entropy"] == pytest.approx(entropy, rel=1e-5)
        assert row["kl"] == pytest.approx(math.log(12) - entropy, rel=1e-5)
    assert by_hand["flat"]["kl"].to_list() == pytest.approx([0, 0], abs=1e-6)
    assert by_hand["flat"]["entropy"].to_list() == pytest.approx([math.log(12)] * 2, rel=1e-5)


def test_changed_is_share_of_start_items_not_shown(data):
    """Lists of two: users 1 and 3 have not met 8 to 12 and 3 to 6."""
    found = {"it": -torch.arange(1.0, 13.0), "other": torch.tensor([0.0, 0, 0, 0, 3, 2, 0, 1, 0, 3, 0, 0])}
    nets = {name: SameForAll(score_V) for name, score_V in found.items()}
    with patch.object(value, "TOP_K", 2):
        frames = evaluate_policies(nets, Scorers(nets["other"]), data, "test", CPU)
    assert [frames[name]["shown"].to_list() for name in found] == [[[8, 9], [3, 4]], [[10, 8], [5, 6]]]
    assert frames["it"]["changed@10"].to_list() == [0.5, 1.0]
    assert frames["other"]["changed@10"].to_list() == [0, 0]


def test_popularity_is_the_share_of_the_catalogue_with_fewer_training_events(by_hand):
    # training events: items 1 to 4 have two, 1 also user 3's, the others one
    assert by_hand["it"]["popularity@10"][0] == 0  # user 1 is shown 8 to 12: one event each, none has fewer
    # user 3 is shown 3, 4 (8 of 12 items have fewer than their two), 5 and 6
    assert by_hand["it"]["popularity@10"][1] == pytest.approx((8 + 8 + 0 + 0) / 12 / 4)


def test_user_who_met_every_item_is_shown_nothing(tmp_path):
    rows = [*[(1, v, v, 3.0) for v in range(7, 13)], *ROWS]
    pl.DataFrame(rows, schema=["user", "item", "timestamp", "rating"], orient="row").write_csv(tmp_path / "hand.csv")
    data = small.data_of(RecommenderData, tmp_path, "hand", split=small.LeaveLast(1, 1))
    data.sequences.group[:] = ["A", "B2", "A"]
    start = SameForAll(torch.zeros(12))
    scorers = Scorers(start, {"judge@10": ItemScores(torch.arange(1.0, 13.0))}, torch.ones(3, 12))
    with pytest.warns(UserWarning, match="before 1 test events the user had met every item"):
        frame = evaluate_policies({"start": start}, scorers, data, "test", CPU)["start"]
    for name in ("judge@10", "true@10", "true", "popularity@10"):
        assert frame[name].is_null().to_list() == [True, False]
    assert frame["kl"].to_list() == pytest.approx([0, 0], abs=1e-6)
    assert measured(frame)["value/true@10"] == 1


def test_a_part_without_users_of_a_is_refused(data):
    data.sequences.group[:] = "B1"
    start = SameForAll(torch.zeros(12))
    with pytest.raises(InputError, match="no user of A has a test event"):
        evaluate_policies({"start": start}, Scorers(start), data, "test", CPU)


def test_chunk_size_does_not_change_figures(log_root, cloned, rewarded, monkeypatch):
    """Users x items is never held; the figures are the same whatever the stretches."""
    data = small.data_of(RewardData, log_root, "tastes")
    start = load_net(cloned, "policy").net
    tokens = small.coded(data.num_items)
    truth = torch.randn(data.sequences.num_users, data.num_items)
    scorers = Scorers(start, {"judge@10": load_net(rewarded, "reward").net}, truth)
    whole = evaluate_policies({"start": start, "tokens": tokens}, scorers, data, "test", CPU)
    monkeypatch.setattr("recalign.recommender.policy.ROWS", 7)
    for name, frame in evaluate_policies({"start": start, "tokens": tokens}, scorers, data, "test", CPU).items():
        for column in ("kl", "changed@10", "entropy", "true", "true@10", "judge@10"):
            np.testing.assert_allclose(frame[column], whole[name][column], rtol=1e-4, atol=1e-5)
        assert frame["rank"].to_list() == whole[name]["rank"].to_list()


def test_truth_is_read_by_raw_id(tmp_path, data):
    raw_items = [12, *range(1, 12), 99]
    reward = np.arange(39, dtype=np.float32).reshape(3, 13)
    np.savez(tmp_path / "truth.npz", reward=reward, users=np.array([3, 2, 1]), items=np.array(raw_items))
    truth_UV = load_truth(tmp_path / "truth.npz", data.sequences)
    assert truth_UV.shape == (3, 12)
    assert truth_UV[0, 0] == reward[2, 1]  # user 1, item 1
    assert truth_UV[2, 11] == reward[0, 0]  # user 3, item 12
    np.savez(tmp_path / "short.npz", reward=reward[:2], users=np.array([3, 2]), items=np.array(raw_items))
    with pytest.raises(InputError, match="it has no user or item 1"):
        load_truth(tmp_path / "short.npz", data.sequences)
    with pytest.raises(InputError, match="missing"):
        load_truth(tmp_path / "none.npz", data.sequences)


def test_policies_and_judges_work_on_the_device(log_root, cloned, rewarded, monkeypatch):
    data = small.data_of(RewardData, log_root, "tastes")
    start, judge = load_net(cloned, "policy").net, load_net(rewarded, "reward").net
    scorers = Scorers(start, {"judge@10": judge}, torch.rand(data.sequences.num_users, data.num_items))
    flat = SameForAll(torch.zeros(data.num_items))
    here = evaluate_policies({"start": start, "flat": flat}, scorers, data, "test", CPU)
    gpu, moved = small.a_gpu(monkeypatch)
    flat = SameForAll(torch.zeros(data.num_items))
    there = evaluate_policies({"start": start, "flat": flat}, scorers, data, "test", gpu)
    assert {start, judge, flat} <= set(moved[torch.nn.Module])
    assert len(moved[Batch]) == len(data.loader(data.windows("test", "A")))
    assert all(there[name].equals(here[name]) for name in here)


def test_each_network_reads_a_history_once(log_root, cloned, rewarded, monkeypatch):
    data = small.data_of(RewardData, log_root, "tastes")
    start, reward = load_net(cloned, "policy").net, load_net(rewarded, "reward").net
    read = []
    for net, name in ((start, "encode"), (reward, "states")):
        original = getattr(net, name)
        monkeypatch.setattr(net, name, lambda batch, of=original, name=name: (read.append(name), of(batch))[1])
    policies = {"start": start, "rerank": Rerank(start, reward, 1.0), "more": Rerank(start, reward, 2.0)}
    frames = evaluate_policies(policies, Scorers(start, {"judge@10": reward}), data, "test", CPU)
    batches = len(data.loader(data.windows("test", "A")))
    assert read.count("encode") == read.count("states") == batches
    assert frames["more"]["kl"].mean() > frames["start"]["kl"].mean()
