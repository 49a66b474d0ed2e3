"""The comparison: hand-worked rows, pairing, the choice of the better baseline, Holm, and errors a person can read."""

import json
import shutil

import numpy as np
import polars as pl
import pytest

from recalign.bootstrap import CrossedBootstrap
from recalign.errors import InputError
from recalign.evaluation import chain_comparison
from recalign.evaluation.chain_comparison import RunsComparison, load_roles
from recalign.evaluation.roles import Roles


def write(folder, method, seed, rank, summary=(), **columns):
    """A run of four events: users 1, 1, 2, 5; high: the first and the third."""
    out = folder / method / f"seed-{seed}" / "evaluation"
    out.mkdir(parents=True)
    frame = pl.DataFrame(
        {"user": [1, 1, 2, 5], "event": [0, 1, 5, 9], "rank": rank, "high": [True, False, True, False]}
    )
    frame.with_columns(pl.Series(name, values, dtype=pl.Float64) for name, values in columns.items()).write_parquet(
        out / "test.parquet"
    )
    (out / "summary.json").write_text(json.dumps({"method": method, "seed": seed, "log": "x", **dict(summary)}))


def cell(frame, method, metric, seed="all", split="test"):
    """(value, ci_low, ci_high) of one row; None where there is no such row."""
    rows = (
        frame.filter(method=method, metric=metric, seed=seed, split=split).select("value", "ci_low", "ci_high").rows()
    )
    assert len(rows) <= 1
    return rows[0] if rows else None


def test_tabulate_means_differences_and_intervals(tmp_path):
    write(tmp_path, "start", 0, [1, 3, 0, 20], {"coverage@10": 0.5, "cost/steps": 7}, **{"judge@10": [1, 2, None, 6]})
    write(tmp_path, "start", 1, [1, 1, 1, 1], {"coverage@10": 0.7, "cost/steps": 7}, **{"judge@10": [1, 1, 1, 1]})
    frame = RunsComparison(tmp_path, draws=200).make()
    assert cell(frame, "start", "all/hr@10", "0") == (0.5, None, None)
    assert cell(frame, "start", "all/ndcg@10", "0")[0] == pytest.approx((1 + 0.5) / 4)
    assert cell(frame, "start", "all/mrr", "0")[0] == pytest.approx((1 + 1 / 3 + 1 / 20) / 4)
    assert cell(frame, "start", "high/hr@10", "0")[0] == 0.5
    assert cell(frame, "start", "value/judge@10", "0")[0] == 3
    assert cell(frame, "start", "value/judge@10")[0] == 2
    assert cell(frame, "start", "all_users/hits@10", "0") == (2, None, None)
    assert cell(frame, "start", "all_users/hits@10") == (3, None, None)  # the mean of 2 and 4
    assert cell(frame, "start", "policy/coverage@10")[0] == pytest.approx(0.6)
    assert cell(frame, "start", "cost/steps") == (7, 7, 7)
    for absent in ("high_users/hr@10", "value/true@10", "policy/kl", "diff_best_baseline/all/hr@10", "seed"):
        assert cell(frame, "start", absent) is None
    assert chain_comparison.read(tmp_path).equals(frame)


def test_single_user_has_no_interval(tmp_path):
    """All draws have the same figure then: an interval without width, which would exclude 0."""
    write(tmp_path, "start", 0, [1, 3, 0, 20], **{"judge@10": [1, 1, None, None]})
    write(tmp_path, "mine", 0, [1, 3, 0, 20], **{"judge@10": [2, 2, None, None]})
    frame = RunsComparison(tmp_path, draws=50).make()
    for kind in ("diff", "holm"):
        value, *ends = cell(frame, "mine", f"{kind}_start/value/judge@10")
        assert (value, np.isnan(ends).all()) == (1, True)
    assert cell(frame, "mine", "p_start/value/judge@10")[0] == 1
    assert not np.isnan(cell(frame, "mine", "all/ndcg@10")).any()


def test_a_figure_that_some_seed_lacks_has_no_mean(tmp_path):
    write(tmp_path, "start", 0, [1, 3, 0, 20], {"value/snips": 0.5})
    write(tmp_path, "start", 1, [1, 1, 1, 1], {"value/snips": None})
    frame = RunsComparison(tmp_path, draws=50).make()
    assert cell(frame, "start", "value/snips", "0") == (0.5, None, None)
    assert cell(frame, "start", "value/snips") is None


def test_the_spread_over_seeds_alone_is_no_interval_of_a_figure_of_users(tmp_path):
    for seed in (0, 1):
        write(tmp_path, "start", seed, [1, 3, 0, 20], {"value/snips": 0.5 + seed / 100, "cost/seconds": seed})
    frame = RunsComparison(tmp_path, draws=50).make()
    assert cell(frame, "start", "value/snips") == (0.505, None, None)
    assert None not in cell(frame, "start", "cost/seconds")


def test_holm_can_reject_however_many_rows_there_are(tmp_path):
    write(tmp_path, "start", 0, [9, 9, 9, 9])
    for number in range(30):
        write(tmp_path, f"m{number}", 0, [1, 1, 1, 1])
    frame = RunsComparison(tmp_path, draws=50).make()
    found = frame.filter(pl.col("metric") == "p_best_baseline/all/ndcg@10", pl.col("method") != "start")
    assert len(found) == 30
    assert found["value"].max() < 0.05


def test_the_better_baseline_is_chosen_for_each_metric(tmp_path):
    write(tmp_path, "start", 0, [1, 9, 9, 9], **{"judge@10": [3, 3, 3, 3]})
    write(tmp_path, "bc", 0, [2, 2, 2, 2], **{"judge@10": [1, 1, 1, 1]})
    write(tmp_path, "asft", 0, [1, 1, 1, 1], **{"judge@10": [4, 4, 4, 5]})
    write(tmp_path, "rerank", 0, [1, 1, 1, 1], **{"judge@10": [4, 4, 4, 4]})
    frame = RunsComparison(tmp_path, draws=200, roles=Roles("asft")).make()
    start, bc = (cell(frame, method, "all/ndcg@10")[0] for method in ("start", "bc"))
    assert bc > start
    assert cell(frame, "asft", "diff_best_baseline/all/ndcg@10")[0] == pytest.approx(1 - bc)
    assert cell(frame, "start", "diff_best_baseline/all/ndcg@10")[0] == pytest.approx(start - bc)
    assert cell(frame, "bc", "diff_best_baseline/all/ndcg@10") is None
    assert cell(frame, "asft", "diff_best_baseline/value/judge@10")[0] == 1.25
    assert cell(frame, "bc", "diff_asft/value/judge@10")[0] == -3.25
    assert cell(frame, "asft", "diff_rerank/value/judge@10")[0] == 0.25
    assert cell(frame, "rerank", "diff_rerank/value/judge@10") is None


def test_differences_are_paired_within_seed_user_and_event(tmp_path):
    # The event that `asft` has no value for, and the seed that it has not run, are left out on both sides.
    write(tmp_path, "start", 0, [1, 1, 1, 1], **{"judge@10": [1, 2, 3, 100]})
    write(tmp_path, "start", 1, [1, 1, 1, 1], **{"judge@10": [50, 50, 50, 50]})
    write(tmp_path, "asft", 0, [1, 1, 1, 1], **{"judge@10": [2, 3, 4, None]})
    frame = RunsComparison(tmp_path, draws=500).make()
    assert cell(frame, "asft", "diff_start/value/judge@10")[0] == 1
    assert cell(frame, "asft", "diff_start/value/judge@10", "1") is None
    # Users differ by much more than 1, their differences not at all: paired, nothing is left that could vary.
    draws = CrossedBootstrap(users=3, draws=500)
    assert cell(frame, "asft", "diff_start/value/judge@10")[1:] == (1, 1)
    assert np.ptp(draws.mean(np.array([[3.0, 3.0, 100.0]]), np.array([[2.0, 1.0, 1.0]])).draws_D) > 1


def test_a_policy_that_diverged_is_not_hidden(tmp_path):
    write(tmp_path, "start", 0, [1, 1, 1, 1], **{"judge@10": [1, 2, 3, 4]})
    write(tmp_path, "asft", 0, [1, 1, 1, 1], **{"judge@10": [1, 2, float("nan"), 4]})
    frame = RunsComparison(tmp_path, draws=200).make()
    assert np.isnan(cell(frame, "asft", "value/judge@10")).all()
    assert cell(frame, "asft", "p_start/value/judge@10")[0] == 1
    assert cell(frame, "start", "value/judge@10")[0] == 2.5


def test_a_chain(made_up_chain):
    frame = RunsComparison(made_up_chain, draws=1000).make()
    assert frame["method"].unique(maintain_order=True).to_list()[:6] == [
        *("popularity", "popularity_high", "item_mean", "item_knn", "transitions", "start")
    ]
    for metric in ("high/ndcg@10", "value/judge@10"):
        value, low, high = cell(frame, "asft", f"diff_best_baseline/{metric}")
        holm_value, holm_low, holm_high = cell(frame, "asft", f"holm_best_baseline/{metric}")
        assert 0 < holm_low <= low < value < high <= holm_high
        assert holm_value == value
        assert cell(frame, "asft", f"p_best_baseline/{metric}")[0] < 0.05
    low, high = cell(frame, "asft_permuted", "diff_start/high/ndcg@10")[1:]
    assert low <= 0 <= high
    values = [cell(frame, "bc", "all/mrr", str(seed))[0] for seed in range(3)]
    assert cell(frame, "bc", "all/mrr")[0] == pytest.approx(np.mean(values))
    assert cell(frame, "asft", "all/mrr", split="validation") is not None
    assert cell(frame, "popularity", "policy/kl") is None


def test_a_copy_of_a_run_is_none_of_the_seeds(tmp_path, made_up_run):
    for method in ("start", "asft"):
        made_up_run(tmp_path, method, 0, users=20, events=2)
    for copied in ("seed-0.bak1", "seed-0-old2", "seed-0.previous"):
        shutil.copytree(tmp_path / "asft" / "seed-0", tmp_path / "asft" / copied)
    assert set(RunsComparison(tmp_path, draws=20).make()["seed"]) == {"0", "all"}


@pytest.mark.parametrize("log", ["simulated", "simulated-shown"])
def test_seeds_may_be_worlds_of_their_own(tmp_path, made_up_run, log):
    for seed, users in ((0, 30), (1, 40)):
        for method in ("start", "asft"):
            made_up_run(tmp_path, method, seed, users=users, events=3)
    with pytest.raises(InputError, match="asft, seed 1: it was measured on other test events than asft, seed 0"):
        RunsComparison(tmp_path, draws=200).make()
    for path in tmp_path.glob("*/*/evaluation/summary.json"):
        path.write_text(path.read_text().replace("made-up", log))
    frame = RunsComparison(tmp_path, draws=200).make()
    for metric in ("all/ndcg@10", "diff_best_baseline/all/ndcg@10"):
        rows = frame.filter(pl.col("method") == "asft", pl.col("metric") == metric, pl.col("split") == "test")
        single = rows.filter(pl.col("seed") != "all")["value"]
        whole = rows.filter(pl.col("seed") == "all").row(0, named=True)
        assert len(single) == 2
        assert whole["value"] == pytest.approx(single.mean())
        assert whole["ci_low"] < whole["value"] < whole["ci_high"]


def test_the_order_of_the_methods_and_their_roles_are_kept(tmp_path):
    for method in ("bc", "later", "mine", "sham", "start"):
        write(tmp_path, method, 0, [1, 4, 0, 30])
    order, roles = ["start", "sham", "mine", "bc"], Roles("mine", {"sham": "mine"})
    first = RunsComparison(tmp_path, draws=50, methods=order, roles=roles).make()
    assert first["method"].unique(maintain_order=True).to_list() == order
    assert cell(first, "bc", "diff_mine/all/ndcg@10") is not None
    again = RunsComparison(tmp_path, draws=50).make()  # as the command does, with what the chain did not name behind
    assert again["method"].unique(maintain_order=True).to_list() == [*order, "later"]
    assert load_roles(tmp_path) == (roles, order)


@pytest.mark.slow
def test_a_gain_is_compared_with_twice_that_of_a_placebo_event_by_event(made_up_chain):
    frame = RunsComparison(made_up_chain, draws=1000).make()
    values = {name: cell(frame, name, "value/judge@10")[0] for name in ("start", "asft", "asft_permuted")}
    base = max(values["start"], cell(frame, "bc", "value/judge@10")[0])
    beyond, low, high = cell(frame, "asft", "gain_minus_2x_asft_permuted/value/judge@10")
    assert beyond == pytest.approx(values["asft"] - base - 2 * (values["asft_permuted"] - base))
    assert low < beyond < high
    assert not frame.filter(pl.col("metric").str.starts_with("holm_asft_permuted")).height  # it is no reference
    for metric in ("all/ndcg@10", "value/judge@10"):
        more, low, high = cell(frame, "asft", f"diff_popularity/{metric}")
        assert low < more < high
        assert not frame.filter(method="start", metric=f"diff_popularity/{metric}").height


@pytest.mark.parametrize(
    ("summaries", "what"),
    [
        (
            [("start", 0, {"base": "a"}), ("bc", 1, {"base": "c"}), ("bc", 0, {"base": "b"})],
            "start, seed 0: it rests on",
        ),
        (
            [("start", 0, {"reward/sd": 1.1}), ("start", 1, {"reward/sd": 0.22})],
            "start, seed 1: it was measured by another",
        ),
    ],
)
def test_runs_on_other_data_or_checkpoints_are_refused(tmp_path, summaries, what):
    for method, seed, summary in summaries:
        write(tmp_path, method, seed, [1, 3, 0, 20], summary)
    with pytest.raises(InputError, match=what):
        RunsComparison(tmp_path, draws=50).make()
    RunsComparison(tmp_path, draws=50, methods=["start"], seeds=[0]).make()


def test_comparison_without_evaluations_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        RunsComparison(tmp_path / "nowhere").make()
    with pytest.raises(InputError, match="no method in this folder has been evaluated"):
        RunsComparison(tmp_path).make()
    with pytest.raises(InputError, match="recalign compare"):
        chain_comparison.read(tmp_path)
