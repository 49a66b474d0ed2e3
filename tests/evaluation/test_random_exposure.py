"""Policies on what a log showed at random: by hand, then in worlds whose truth is known."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import small
import torch
from compared import run_of

from recalign.data.events import LogMapping
from recalign.data.sequences import High, TimeSplit
from recalign.data.simulation import World, simulate, write
from recalign.data.simulation.world import SD
from recalign.evaluation import random_exposure
from recalign.evaluation.chain_comparison import RunsComparison
from recalign.evaluation.counted_rows import SameForAll
from recalign.evaluation.offpolicy import estimate
from recalign.evaluation.reranking import ItemScores
from recalign.evaluation.seed_evaluation import SeedEvaluation
from recalign.recommender import RecommenderData
from recalign.reward import RewardData

CPU = torch.device("cpu")
EXPOSURE = {"is_random": "is_random", "propensity": "propensity"}
# user, item, timestamp, rating, is_random, propensity. Training knows items 1 to 6; user 2 is the judges'.
ROWS = [
    *[(1, v, v, 3.0, False, None) for v in (1, 2, 3)],
    *[(3, v, v, 4.0, False, None) for v in (4, 5, 6)],
    *[(2, v, v, 5.0, False, None) for v in (1, 2)],
    *[(user, 1 + user, 10, 2.0, True, 0.25) for user in (1, 2, 3)],  # validation
    (1, 4, 21, 5.0, True, 0.5),
    (1, 99, 22, 1.0, True, 0.25),  # which training never saw
    (1, 5, 23, None, True, 0.5),  # without a reward,
    (1, 5, 24, 1.0, False, 0.5),  # chosen by the user,
    (1, 5, 25, 1.0, True, None),  # and of unknown propensity
    (3, 3, 21, 2.0, True, 0.1),
    (3, 99, 22, 1.0, True, 0.2),
    (2, 3, 21, 2.0, True, 0.1),
]


def by_heart(num_items=6):
    """A reward model: r(s, v) = v."""
    return ItemScores(torch.arange(1.0, 1.0 + num_items))


def exposed_log(root, rows=ROWS, **settings):
    frame = pl.DataFrame(rows, schema=["user", "item", "timestamp", "rating", *EXPOSURE], orient="row")
    frame.write_parquet(root / "hand.parquet")
    log = LogMapping(name="hand", files=["hand.parquet"], **{**EXPOSURE, **settings})
    split = TimeSplit(("1970-01-01T00:00:10+00:00", "1970-01-01T00:00:20+00:00"))
    made = RecommenderData(log=log, root=str(root), **small.SETTINGS | {"split": split})
    made.sequences.group[:] = ["A", "B2", "A"]  # the users in order of their ids
    return made


def world_data(root, world, **settings):
    """A simulated log with random exposure, the last quarter of it the test."""
    made = simulate(world)
    write(made, root)
    log = LogMapping(name="simulated", files=["simulated/events.parquet"], **EXPOSURE)
    settings = {"reward": "reward", "high": High("high"), "split": TimeSplit((0.7, 0.75)), "max_length": 64} | settings
    return made, RewardData(log=log, root=str(root), users="A", cache=False, **settings)


class Truth(torch.nn.Module):
    """The expected reward of every pair, the rater's generosity with it: no more can be known."""

    def __init__(self, made, data):
        super().__init__()
        expected_UI = made.truth_UI + SD * made.world.generosity * made.people.generosity_U[:, None]
        raw_U, raw_V = data.sequences.users.to_numpy(), data.sequences.items.to_numpy()
        self.expected_UV = torch.from_numpy(expected_UI[np.ix_(raw_U - 1, raw_V - 1)].astype(np.float32))

    def states(self, batch):
        return batch.user_B[batch.row_T].view(1, -1, 1)

    def predict(self, states, item=None):
        expected_TV = self.expected_UV[states[0, :, 0]]
        return expected_TV if item is None else expected_TV.gather(1, item - 1)


def test_exposure_terms_match_hand_values(tmp_path):
    data = exposed_log(tmp_path)
    policy = SameForAll(torch.log(torch.tensor([6.0, 5, 4, 3, 2, 1])))
    shown = random_exposure.exposures({"it": policy}, by_heart(), data, CPU)["it"]
    assert shown.user_N.tolist() == [0, 0, 2, 2]
    assert shown.unknown == 1
    assert shown.reward_NK[:, 0].tolist() == [5, 1, 2, 1]
    # user 1 has met 1, 2, 3 and, in validation, 2 again; item 4 at the second exposure; user 3 has met 4, 5, 6 and 4
    assert shown.weight_NK[:, 0].tolist() == pytest.approx([3 / 6 / 0.5, 0, 4 / 15 / 0.1, 0])
    assert shown.predicted_N[[0, 2]].tolist() == [4, 3]
    assert shown.direct_N.tolist() == pytest.approx(
        [(3 * 4 + 2 * 5 + 6) / 6, (2 * 5 + 6) / 3, (6 + 5 * 2 + 4 * 3) / 15, (6 + 5 * 2) / 11]
    )


def test_what_is_shown_to_a_user_who_has_met_everything_is_left_out(tmp_path):
    everything = [(3, v, 9, 4.0, False, None) for v in (1, 2, 3, 5, 5)]
    data = exposed_log(tmp_path, [*everything, *ROWS])
    (shown,) = random_exposure.exposures({"flat": SameForAll(torch.zeros(6))}, by_heart(), data, CPU).values()
    assert data.sequences.users.gather(shown.user_N).to_list() == [1, 1]  # of user 3 nothing
    assert np.isfinite(shown.direct_N).all()


def test_stretches_and_batches_change_nothing(tmp_path, monkeypatch):
    _, data = world_data(tmp_path, World(users=60, items=120, events=2400, random=0.4))
    torch.manual_seed(0)
    policies = {"it": small.coded(data.num_items)}
    reward = by_heart(data.num_items)
    whole = random_exposure.exposures(policies, reward, data, CPU)["it"]
    assert (whole.user_N == np.sort(whole.user_N)).all()  # the table's order, not that of the batches
    monkeypatch.setattr("recalign.recommender.policy.ROWS", 3)
    data.batch_tokens = 70
    parts = random_exposure.exposures(policies, reward, data, CPU)["it"]
    for name, values in vars(whole).items():
        if isinstance(values, np.ndarray):
            assert getattr(parts, name) == pytest.approx(values, rel=1e-4), name


def test_estimates_find_the_truth_of_a_policy_that_knows_the_users(tmp_path):
    """What it is worth is known: the truth in the place of the reward model, by the direct method."""
    made, data = world_data(tmp_path, World(users=1500, items=60, events=30_000, random=0.5))
    truth = Truth(made, data)

    class Knowing(SameForAll):
        def encode(self, batch):
            return truth.states(batch)[0]

        def log_probs(self, state, items=None):
            logp_TV = (2 * truth.predict(state[None])).log_softmax(dim=1)
            return logp_TV if items is None else logp_TV.gather(1, items - 1)

    policies = {"knowing": Knowing(torch.zeros(data.num_items))}
    found = estimate(random_exposure.exposures(policies, truth, data, CPU)["knowing"], draws=400).estimates
    true = random_exposure.exposures(policies, truth, data, CPU, users="all")["knowing"].direct_N.mean()
    for name in ("ips", "snips", "dr"):
        low, high = found[name].interval()
        assert low < true < high, name
    assert found["dr"].value > random_exposure.exposures(policies, truth, data, CPU)["knowing"].reward_NK.mean() + 0.3


def test_files_and_tables_hold_the_estimates(tmp_path, log_root, base):
    """Of `popularity`, which shows what it can be judged by, and of a policy that hardly shows any of it."""
    frame = pl.read_csv(log_root / "tastes.csv", schema_overrides={"user": pl.Int64})
    frame.with_columns(is_random=pl.lit(True), propensity=pl.lit(0.025)).write_csv(tmp_path / "tastes.csv")
    data = RewardData(log=LogMapping("tastes", ["tastes.csv"], **EXPOSURE), root=str(tmp_path), **small.SETTINGS)
    cells = [run_of("popularity"), run_of("rerank", strength=500.0)]
    runs = tmp_path / "runs"
    SeedEvaluation(runs, 0, cells, base, data, device=CPU, code="code").make()
    places = {name: runs / name / "seed-0" / "evaluation" for name in ("popularity", "rerank")}
    summary = {name: json.loads((place / "summary.json").read_text()) for name, place in places.items()}
    found = {name: json.loads((place / "offpolicy.json").read_text()) for name, place in places.items()}
    assert summary["popularity"]["value/snips"] == found["popularity"]["policy"]["snips"]
    assert {"value/ips", "value/snips", "value/dr", "offpolicy/ess"} <= set(summary["popularity"])
    assert "below 50" in found["rerank"]["policy"]["refused"]["list"]
    assert "value/snips" not in summary["rerank"]
    assert summary["rerank"]["offpolicy/ess"] < 50
    assert found["rerank"]["uniform"] == found["popularity"]["uniform"]
    table = RunsComparison(runs, draws=20).make().filter(seed="0", split="test")
    rows = dict(table.filter(method="popularity").select("metric", "value").iter_rows())
    assert rows["value/dr"] == pytest.approx(found["popularity"]["policy"]["dr"])
    assert rows["offpolicy/ess"] == pytest.approx(found["popularity"]["policy"]["ess"]["list"])
