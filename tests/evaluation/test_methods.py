"""Methods evaluated: what is written, what is kept, and what makes it anew."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import small
import torch
from compared import run_of

from recalign.data.events import ItemTable, LogMapping
from recalign.data.sequences import High, UserCohort
from recalign.data.sequences.user_sample import with_events
from recalign.errors import InputError
from recalign.evaluation.chain_comparison import RunsComparison
from recalign.evaluation.comparison_table import ComparisonTable
from recalign.evaluation.methods import coverage
from recalign.evaluation.reranking import Reranking
from recalign.evaluation.roles import Roles
from recalign.evaluation.rows import UNTRAINED, row_of
from recalign.evaluation.seed_evaluation import SeedEvaluation
from recalign.nn import Pooled
from recalign.posttrain import PostTrainingData, WeightedSFT
from recalign.recommender.checkpoint import load_net
from recalign.recommender.interpolation import ALPHAS, HALVINGS, Retention, ndcg_by_user
from recalign.reward import Judge, RewardData
from recalign.reward.placebo import as_placebo

HOW = {"device": torch.device("cpu"), "code": "code"}


@pytest.fixture
def asft(cloned, log_root, tmp_path):
    module = small.free(WeightedSFT, init_from=str(cloned), lr=1e-2)
    small.fit(module, small.data_of(PostTrainingData, log_root, "tastes"), tmp_path)
    return small.saved(module, tmp_path / "asft.ckpt")


@pytest.fixture
def other_reward(base, tmp_path):
    """A reward model that matches users with what they do not like."""
    checkpoint = torch.load(base.reward, weights_only=True)
    checkpoint["state_dict"]["reward.nets.0.item_projection.weight"] *= -1
    torch.save(checkpoint, tmp_path / "other.ckpt")
    return tmp_path / "other.ckpt"


@pytest.fixture
def cells(asft, other_reward):
    trained = run_of("asft", asft, {"cost/seconds": 2.5, "cost/steps": 7, "cost/events": 900})
    sham = run_of("rerank_permuted", other_reward, {"placebo/correlation": 0.01}, strength=1.0)
    return [*(run_of(method, strength=1.0) for method in UNTRAINED), trained, sham]


def place(tmp_path, method):
    return tmp_path / "runs" / method / "seed-3" / "evaluation"


def test_an_altered_evaluation_is_made_again(tmp_path, data, base, cells):
    run, runs = cells[:1], tmp_path / "runs"
    assert SeedEvaluation(runs, 3, run, base, data, **HOW).make() == [cells[0].method]
    assert SeedEvaluation(runs, 3, run, base, data, **HOW).make() == []
    figures = place(tmp_path, cells[0].method) / "test.parquet"
    pl.read_parquet(figures).with_columns(pl.lit(1).alias("rank")).write_parquet(figures)
    with pytest.raises(InputError, match=r"test\.parquet: missing, or its SHA-256 has changed"):
        RunsComparison(runs).make()
    assert SeedEvaluation(runs, 3, run, base, data, **HOW).make() == [cells[0].method]


def test_judges_with_a_reward_of_their_own_read_that_one_and_give_the_unit(tmp_path, data, base, cells):
    """Judges of ten times the chain's reward: they see ten times the rewards, and say ten times as much."""
    runs, checkpoint = tmp_path / "runs", torch.load(base.judge_report, weights_only=True)
    cell = next(one for one in cells if one.method == "start")
    SeedEvaluation(runs, 3, [cell], base, data, **HOW).make()
    own = json.loads((place(tmp_path, cell.method) / "summary.json").read_text())
    valued = pl.read_parquet(place(tmp_path, cell.method) / "test.parquet")["judge@10"]
    assert own["reward/sd"] == pytest.approx(data.rated_events["reward"].std())
    assert _gaps(runs) == {"gap/judge@10"}
    past = ("reward.nets.0.trunk.past_rewards.mean", "reward.nets.0.trunk.past_rewards.scale")
    for name in ("reward.nets.0.mean", "reward.nets.0.scale", *past):
        checkpoint["state_dict"][name] *= 10
    ten = small.data_of(RewardData, data.root, "tastes", reward=f"10 * ({data.reward})")
    checkpoint["facts"] |= {"reward": ten.reward, "rewards": ten.sequences.rewards_digest}
    scale = float(checkpoint["state_dict"]["reward.nets.0.scale"])
    torch.save(checkpoint, tmp_path / "judge.ckpt")
    other_base = replace(base, judge_report=tmp_path / "judge.ckpt")
    SeedEvaluation(runs, 3, [cell], other_base, data, **HOW).make()
    other = json.loads((place(tmp_path, cell.method) / "summary.json").read_text())
    assert (other["reward/sd"], other["judge/sd"]) == pytest.approx((own["reward/sd"], scale))
    table = ComparisonTable(RunsComparison(runs).make(), Roles())
    assert table.unit == pytest.approx(scale)
    in_sd = {
        name: table.in_sd(f"diff_best_baseline/value/{name}") for name in ("judge@10", "reward_model@10", "true@10")
    }
    assert in_sd == {"judge@10": True, "reward_model@10": False, "true@10": False}
    assert other["judged"] == ten.reward
    assert "reward/user_sd" not in other
    found = pl.read_parquet(place(tmp_path, cell.method) / "test.parquet")["judge@10"]
    np.testing.assert_allclose(found, 10 * valued, rtol=1e-4)
    assert not _gaps(runs)
    torch.save(checkpoint | {"facts": checkpoint["facts"] | {"rewards": "others"}}, tmp_path / "judge.ckpt")
    with pytest.raises(
        InputError, match=r"judge\.ckpt: reward .*, computed from this log, is not what the judge was trained on"
    ):
        SeedEvaluation(runs, 3, [cell], other_base, data, **HOW).make()


def _gaps(runs):
    return {metric for metric in RunsComparison(runs).make()["metric"] if metric.startswith("gap/")}


def test_a_sample_of_the_users_is_the_same_for_every_method(tmp_path, data, base, cells, monkeypatch):
    monkeypatch.setattr(data, "sample", 7)
    runs, roles = tmp_path / "runs", Roles(None, {}, [cells[0].method])
    assert len(SeedEvaluation(runs, 3, cells[:2], base, data, **HOW).make()) == 2
    drawn = [pl.read_parquet(place(tmp_path, cell.method) / "test.parquet") for cell in cells[:2]]
    assert drawn[0]["user"].n_unique() == 7
    assert drawn[0].select("user", "event").equals(drawn[1].select("user", "event"))
    everybody = int((data.sequences.users_in("A") & with_events(data.sequences)).sum())
    table = ComparisonTable(RunsComparison(runs).make(), roles)
    assert table.sample == f"a fixed sample of 7 of {everybody} users"
    monkeypatch.setattr(data, "sample", everybody + 1)
    assert len(SeedEvaluation(runs, 3, cells[:2], base, data, **HOW).make()) == 2  # measured anew
    assert ComparisonTable(RunsComparison(runs).make(), roles).sample == ""


def test_coverage_counts_an_item_once_and_no_empty_place():
    assert coverage(pl.Series([[1, 2, 0], [2, 3, 0]]), 4) == 0.75


def test_artefacts_are_those_that_comparisons_read(tmp_path, data, base, cells):
    done = SeedEvaluation(tmp_path / "runs", 3, cells, base, data, **HOW).make()
    assert done == [*UNTRAINED, "asft", "rerank_permuted"]
    for method in done:
        for part in ("test", "validation"):
            frame = pl.read_parquet(place(tmp_path, method) / f"{part}.parquet")
            assert frame["in_a"].sum() == len(data.windows(part, "A").target)
            everybody = len(data.windows(part, "all").target)
            assert len(frame) == (everybody if part == "test" else frame["in_a"].sum())
            assert {"user", "event", "rank", "judge@10", "select_judge@10", "reward_model@10", "kl"} <= set(
                frame.columns
            )
            assert "shown" not in frame.columns
        summary = json.loads((place(tmp_path, method) / "summary.json").read_text())
        assert (summary["method"], summary["seed"], summary["log"]) == (method, 3, "tastes")
        assert 0 < summary["coverage@10"] <= 1
        assert summary["cold_targets"] == 0
        assert summary["users/evaluated"] == frame["user"].n_unique()
        retained = {name for name in summary if name.startswith("policy/ndcg_retained")}
        assert retained == (set() if row_of(method).counted else {"policy/ndcg_retained", "policy/ndcg_retained_se"})
    read = {m: json.loads((place(tmp_path, m) / "summary.json").read_text()) for m in done}
    assert read["asft"]["cost/steps"] == 7
    left = {m: one["placebo/correlation"] for m, one in read.items() if "placebo/correlation" in one}
    assert left == {"rerank_permuted": 0.01, "rerank_item_mean_permuted": as_placebo(data).correlation}
    start = pl.read_parquet(place(tmp_path, "start") / "test.parquet")
    assert start["kl"].abs().max() < 1e-6
    assert start["changed@10"].max() == 0
    own = json.loads((place(tmp_path, "start") / "summary.json").read_text())
    assert (own["policy/ndcg_retained"], own["policy/ndcg_retained_se"], "policy/alpha" in own) == (1, 0, False)
    reranked = pl.read_parquet(place(tmp_path, "rerank") / "test.parquet")
    assert reranked["reward_model@10"].mean() > start["reward_model@10"].mean() + 0.05
    sham = pl.read_parquet(place(tmp_path, "rerank_permuted") / "test.parquet")
    assert sham["reward_model@10"].mean() < start["reward_model@10"].mean() - 0.05  # by its own reward model
    tilted = pl.read_parquet(place(tmp_path, "popularity_tilt") / "test.parquet")
    assert tilted["popularity@10"].mean() > start["popularity@10"].mean()
    table = RunsComparison(tmp_path / "runs", draws=20).make()
    assert set(table["method"]) == set(done)
    shown = table.filter(pl.col("metric") == "placebo/correlation", pl.col("seed") == "all")
    assert dict(zip(shown["method"], shown["value"], strict=True)) == left


@pytest.mark.slow
@pytest.mark.parametrize(("method", "strength"), [("rerank", -1.0), ("rerank_item_mean", -40.0)])
def test_reranking_is_as_strong_as_it_may_be(tmp_path, data, base, method, strength):
    """What the row keeps is enough, and a step of the search further it is not."""
    summary = {}
    for keep in (None, 0.9):
        SeedEvaluation(tmp_path, 3, [run_of(method, strength=strength, keep=keep)], base, data, **HOW).make()
        summary[keep] = json.loads((tmp_path / method / "seed-3/evaluation/summary.json").read_text())
    free, held = (Retention(one["policy/ndcg_retained"], one["policy/ndcg_retained_se"]) for one in summary.values())
    assert held.enough(0.9)
    assert "policy/alpha" not in summary[None]
    reach = summary[0.9]["policy/alpha"]
    assert summary[0.9]["policy/strength"] / strength == pytest.approx(reach)
    assert 0 < reach < 1 or free.enough(0.9)
    if method == "rerank":  # it spoils any ranking; means of items that are all as good need not
        assert free.share < held.share < 1
    anew = measured_anew(summary[0.9], method, base, data)
    assert [anew.share, anew.error] == pytest.approx([held.share, held.error])
    for further in further_tried(reach):
        assert not measured_anew(summary[0.9], method, base, data, further / reach).enough(0.9)


def further_tried(reach):
    """The alpha beyond a reach that the search found too far last; none where it ended without one."""
    low = max(alpha for alpha in (0.0, *ALPHAS) if alpha <= reach)
    return [reach + (high - low) / 2**HALVINGS for high in ALPHAS if high > reach][:1]


def measured_anew(summary, method, base, data, times=1.0):
    """What a reranked row keeps on the validation events of all users, policy by policy; so many times as strong."""
    start, reward = load_net(base.start, "policy").net.eval(), load_net(base.reward, "reward").net.eval()
    how = Reranking(**summary["reranking"]["how"])
    policy = replace(how, strength=times * how.strength).policy(start, None, row_of(method).scores(reward, data))
    batches = data.loader(data.windows("validation", "all"))
    return Retention.measure(*(ndcg_by_user(one.eval(), batches, HOW["device"]) for one in (policy, start)))


def test_a_trained_policy_goes_back_with_its_reranking(tmp_path, data, base, asft):
    checkpoint = torch.load(asft, weights_only=True)
    weight = checkpoint["state_dict"]["policy.item_embedding.weight"]
    weight += 2 * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))  # too far
    torch.save(checkpoint, asft)
    full, kept = -1.0, {}  # towards what users like least
    trained = {"start": None, "rerank": None, "asft": asft, "asft_rerank": asft}
    value, strength = {}, {}
    for keep in (None, 0.9):
        cells = [run_of(method, checkpoint, strength=full, keep=keep) for method, checkpoint in trained.items()]
        SeedEvaluation(tmp_path, 3, cells, base, data, **HOW).make()
        for method in trained:
            place, key = tmp_path / method / "seed-3/evaluation", (method, keep)
            summary = json.loads((place / "summary.json").read_text())
            value[key] = pl.read_parquet(place / "validation.parquet")["reward_model@10"].mean()
            strength[key] = summary.get("policy/strength")
            kept[key] = Retention(summary["policy/ndcg_retained"], summary["policy/ndcg_retained_se"])
    assert strength["asft_rerank", None] == strength["rerank", None] == full
    assert value["asft_rerank", None] < value["asft", None]
    assert kept["asft_rerank", 0.9].enough(0.9)
    assert not kept["asft_rerank", None].enough(0.9)
    assert full < strength["rerank", 0.9] < strength["asft_rerank", 0.9] < 0


def test_evaluation_names_keys_that_changed(tmp_path, data, base, asft, log_root):
    runs = [run_of("popularity"), run_of("rerank"), run_of("asft", asft)]

    def changed(run=0, data=data, seed=3, **other):
        return SeedEvaluation(tmp_path / "runs", seed, runs[run : run + 1], base, data, **HOW | other).state().changed

    def of_log(**settings):
        log = LogMapping(name="tastes", files=[str(log_root / "tastes.csv")], **settings)
        return RewardData(log=log, root=str(log_root), **small.SETTINGS)

    SeedEvaluation(tmp_path / "runs", 3, runs, base, data, **HOW).make()
    assert [changed(run) for run in range(3)] == [[]] * 3
    assert changed(code="other") == ["code"]
    for settings in ({"request_time": "known"}, {"high": High("rating > 4")}):
        assert changed(data=small.data_of(RewardData, log_root, "tastes", **settings)) == ["data"]
    pl.DataFrame({"id": range(1, 41), "title": [f"film {n}" for n in range(1, 41)]}).write_csv(tmp_path / "titles.csv")
    titles = ItemTable(file=str(tmp_path / "titles.csv"), id="id", title="title")
    assert "titles" in changed(data=of_log(items=titles))  # the report shows them
    (tmp_path / "truth.npz").write_bytes(b"")
    assert "truth" in changed(data=of_log(truth=str(tmp_path / "truth.npz")))  # the log's digest does not know of it
    for other in ({"strength": 2.0}, {"keep": 0.9}):
        runs[:2] = [run_of("popularity", **other), run_of("rerank", **other)]
        assert [changed(run) for run in range(2)] == [[], ["reranking"]]
    checkpoint = torch.load(asft, weights_only=True)
    torch.save(checkpoint | {"other": 1}, asft)
    assert "checkpoint" in changed(2)
    torch.save(torch.load(base.judge_report, weights_only=True) | {"other": 1}, base.judge_report)
    assert "judge_report" in changed()


def test_checkpoints_of_another_catalogue_are_refused(tmp_path, data, base, cells):
    checkpoint = torch.load(base.judge_select, weights_only=True)
    torch.save({**checkpoint, "catalogue": "another"}, base.judge_select)
    with pytest.raises(InputError, match=r"judge_select\.ckpt: .* another catalogue"):
        SeedEvaluation(tmp_path / "runs", 3, cells, base, data, **HOW).make()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("group", "share_a"), [("all", 0.7), ("A", 0.7), ("B2", 0.2), ("B1", 0.7)])
def test_judges_who_met_the_tables_users_or_each_other_are_refused(tmp_path, data, base, cells, group, share_a):
    """B2 of another division reaches into A; B1 is the other judge's."""
    other = small.data_of(RewardData, data.root, "tastes", share_a=share_a)
    small.says_users(base.judge_report, UserCohort.of(other.sequences, group, share_a))
    with pytest.raises(InputError, match=r"judge_report\.ckpt: this judge shares \d+ training users with") as caught:
        SeedEvaluation(tmp_path / "runs", 3, cells, base, data, **HOW).make()
    assert (
        "judge_select.ckpt" in str(caught.value) if group == "B1" else "the comparison (users A)" in str(caught.value)
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("trained", ["reward", "asft", "sham"])
def test_a_model_that_trained_on_the_judges_users_is_refused(tmp_path, data, base, cells, asft, other_reward, trained):
    path = {"reward": base.reward, "asft": asft, "sham": other_reward}[trained]
    small.says_users(path, UserCohort.of(data.sequences, "all", 0.7))
    with pytest.raises(InputError, match=f"training users with .*{path.name}"):
        SeedEvaluation(tmp_path / "runs", 3, cells, base, data, **HOW).make()


def test_a_judge_of_unknown_users_is_refused(tmp_path, data, base, cells):
    checkpoint = torch.load(base.judge_report, weights_only=True)
    del checkpoint["users"]
    torch.save(checkpoint, base.judge_report)
    with pytest.raises(InputError, match="does not record which users"):
        SeedEvaluation(tmp_path / "runs", 3, cells, base, data, **HOW).make()


def test_a_judge_never_sees_a_user_of_the_table(tmp_path, data, log_root):
    """What it trains and validates on, batch by batch, and what its checkpoint says of it."""
    seen = set()

    class Watched(Judge):
        def training_step(self, batch, batch_idx):
            seen.update(batch.user_B.tolist())
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch, batch_idx):
            seen.update(batch.user_B.tolist())
            return super().validation_step(batch, batch_idx)

    own = small.data_of(RewardData, log_root, "tastes", users="B2")
    judge = Watched(own.num_items, Pooled(dim=8, max_length=32), members=2)
    small.fit(judge, own, tmp_path)
    of_table = set(np.flatnonzero(data.sequences.users_in("A")).tolist())
    assert seen
    assert not seen & of_table
    users = load_net(small.saved(judge, tmp_path / "judge.ckpt"), "reward").users
    assert (users.group, users.count) == ("B2", len(seen))
    assert set(np.flatnonzero(users.mask(data.sequences, "here")).tolist()) == seen


def test_a_reward_model_of_another_reward_is_refused(tmp_path, data, base, cells):
    checkpoint = torch.load(base.reward, weights_only=True)
    checkpoint["facts"] |= {"reward": "10 * rating"}
    torch.save(checkpoint, base.reward)
    with pytest.raises(InputError, match=r"this reward model predicts '10"):
        SeedEvaluation(tmp_path / "runs", 3, cells[:1], base, data, **HOW).make()
