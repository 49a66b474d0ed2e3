"""Behaviour cloning and what all policy modules do alike."""

from __future__ import annotations

import dataclasses
import math

import polars as pl
import pytest
import small
import torch

from recalign.errors import InputError
from recalign.recommender import Recommender, RecommenderData
from recalign.recommender.rank_metrics import RankMetrics


@pytest.fixture
def data(log_root):
    return small.data_of(RecommenderData, log_root)


def test_cloning_loss_is_the_mean_negative_log_likelihood(data, tmp_path):
    torch.manual_seed(0)
    module = Recommender(data.num_items, small.encoder(), temperature=0.3)
    batch = small.batch_of(data, "train")
    with torch.no_grad():
        logp_TV = module.policy.log_probs(module.policy.encode(batch))
    expected = -logp_TV[torch.arange(len(logp_TV)), batch.target_T - 1].mean().item()
    watch = small.fit(module, data, tmp_path, limit_train_batches=1)
    assert watch.steps[0]["train/loss"] == pytest.approx(expected, rel=1e-5)


def test_cloning_learns_the_log(data, tmp_path):
    torch.manual_seed(0)
    module = Recommender(data.num_items, small.encoder(), temperature=0.1, lr=5e-3)
    watch = small.fit(module, data, tmp_path, epochs=8)
    assert watch.steps[0]["train/loss"] > math.log(data.num_items)
    assert watch.steps[-1]["train/loss"] < math.log(data.num_items) - 0.1  # better than knowing nothing


RATING = pl.col("rating")


def seeing_rewards(log_root, folder, change=RATING, **settings):
    """Weights, and how they rank on validation, after an epoch of cloning that sees rewards, with changed ones."""
    pl.read_csv(log_root / "small.csv").with_columns(change.cast(pl.Float64).alias("rating")).write_csv(
        folder / "small.csv"
    )
    data = small.data_of(RecommenderData, folder, users="all", **settings)
    torch.manual_seed(0)
    module = Recommender(data.num_items, small.encoder(), feedback=True)
    small.fit(module, data, folder)
    return data, [
        *(p.detach() for p in module.policy.parameters()),
        module.trainer.callback_metrics["rank/all/ndcg@10"],
    ]


def test_feedback_does_not_depend_on_the_unit_of_rewards(log_root, tmp_path):
    _, plain = seeing_rewards(log_root, tmp_path)
    _, far = seeing_rewards(log_root, tmp_path, 1000 * RATING - 40_000, high=small.High("reward >= -36000"))
    for one, other in zip(plain, far, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_cloning_ignores_rewards_of_judges_users(log_root, tmp_path):
    data, plain = seeing_rewards(log_root, tmp_path)
    in_a = data.sequences.users.filter(pl.Series(data.sequences.users_in("A"))).implode()
    for whose, same in ((~pl.col("user").is_in(in_a), True), (pl.col("user").is_in(in_a), False)):
        _, other = seeing_rewards(log_root, tmp_path, pl.when(whose).then(6 - RATING).otherwise(RATING))
        assert all(a.equal(b) for a, b in zip(plain, other, strict=True)) == same


@pytest.mark.parametrize("same", [3.0, 0.1, 0.7])  # the mean of some equal numbers is another one, by rounding
def test_feedback_refuses_equal_rewards(data, log_root, tmp_path, same):
    in_a = data.sequences.users.filter(pl.Series(data.sequences.users_in("A"))).implode()
    with pytest.raises(InputError, match=r"model\.feedback: the policy reads past rewards"):
        seeing_rewards(log_root, tmp_path, pl.when(pl.col("user").is_in(in_a)).then(same).otherwise(RATING), high=None)


def test_validation_logs_ranks_of_all_and_of_high_targets(data, tmp_path):
    module = Recommender(data.num_items, small.encoder())
    trainer = small.trainer_of(tmp_path)
    figures = {**trainer.validate(module, data, verbose=False)[0], **trainer.test(module, data, verbose=False)[0]}
    for part, prefix in (("validation", "rank"), ("test", "rank/test")):
        batch = small.batch_of(data, part)
        with torch.no_grad():
            ranks = module.policy.eval().ranks(module.policy.encode(batch), batch.target_T, batch.seen_N)
        for name, chosen in (("all", ranks), ("high", ranks[batch.high_T])):
            metric = RankMetrics()
            metric.update(chosen)
            for key, value in metric.compute().items():
                assert figures[f"{prefix}/{name}/{key}"] == pytest.approx(value.item(), abs=1e-6)
    assert batch.high_T.any()
    assert not batch.high_T.all()


def test_events_are_counted_across_a_resumed_run(data, tmp_path):
    module = Recommender(data.num_items, small.encoder())
    small.fit(module, data, tmp_path, epochs=2)
    assert module.events == 2 * len(data.training().in_memory().target)
    path = small.saved(module, tmp_path / "last.ckpt")
    again = Recommender(data.num_items, small.encoder())
    small.trainer_of(tmp_path, 3).fit(again, data, ckpt_path=path, weights_only=True)
    assert again.events == 3 * len(data.training().in_memory().target)


def test_predict_writes_raw_ids_of_unseen_items(data, tmp_path):
    module = Recommender(data.num_items, small.encoder(), top_k=30)
    small.trainer_of(tmp_path).predict(module, data, return_predictions=False)
    frame = pl.read_parquet(tmp_path / "recommendations.parquet")
    log = data.table.frame.with_columns(
        data.table.users.gather(data.table.frame["user"]).alias("user"),
        data.table.items.gather(data.table.frame["item"]).alias("item"),
    )
    assert frame["user"].unique(maintain_order=True).to_list() == data.sequences.users.to_list()
    assert frame.join(log, on=["user", "item"], how="semi").is_empty()
    assert (frame.group_by("user").len()["len"] == 20).all()  # 40 items, 20 met: what is left, not 30
    first = frame.filter(pl.col("user") == data.sequences.users[0])
    assert first["rank"].to_list() == list(range(1, 21))
    assert first["score"].is_sorted(descending=True)


def test_validation_nll_covers_known_targets_and_skips_large_catalogues(data, tmp_path, monkeypatch):
    module, batch = Recommender(data.num_items, small.encoder()).eval(), small.batch_of(data)
    known_T = torch.arange(len(batch.target_T)) % 3 > 0
    with torch.no_grad():
        module.validation_step(dataclasses.replace(batch, target_T=batch.target_T * known_T), 0)
        logp_T = module.policy.log_prob(module.policy.encode(batch), batch.target_T)
    torch.testing.assert_close(module.nll.compute(), -logp_T[known_T].mean())
    monkeypatch.setattr("recalign.recommender.training.NLL_ITEMS", data.num_items - 1)
    assert "rank/nll" not in small.trainer_of(tmp_path).validate(module, data, verbose=False)[0]
