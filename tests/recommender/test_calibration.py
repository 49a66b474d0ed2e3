"""The strengths of prior and memory are the best on validation, and stand in the checkpoint that is handed over."""

from __future__ import annotations

import math
from contextlib import nullcontext
from types import SimpleNamespace
from unittest.mock import patch

import polars as pl
import pytest
import small
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint

from recalign.errors import TrainingError
from recalign.nn import LazyDecoder
from recalign.recommender import (
    CalibratePrior,
    OneRecRecommender,
    PolynomialAveraging,
    Recommender,
    RecommenderData,
    SequencePolicy,
    calibration,
)
from recalign.recommender.calibration import MEMORY_STRENGTHS, PRIOR_STRENGTHS_WITH_MEMORY
from recalign.recommender.checkpoint import load_net, read_checkpoint
from recalign.recommender.cloning import Cloning
from recalign.recommender.item_knn import ItemKNN
from recalign.run.stage.callbacks import RunCheckpoint


@pytest.fixture(scope="module")
def data(log_root):
    return small.data_of(RecommenderData, log_root, "tastes", users="all")


def cloned(data, folder, epochs=2, ckpt_path=None, averaged=True, over="items", **settings):
    """Cloning with an average and a best checkpoint, as the command does it."""
    torch.manual_seed(0)
    if over == "items":
        module = Recommender(data.num_items, small.encoder(), temperature=0.1, lr=5e-3, **settings)
    else:
        module = OneRecRecommender(
            data.num_items, decoder=LazyDecoder(16, layers=1, max_length=32, dropout=0.0), **settings
        )
    best = ModelCheckpoint(folder, "best", monitor="rank/all/ndcg@10", mode="max", enable_version_counter=False)
    last = ModelCheckpoint(folder, "last", enable_version_counter=False)
    average = [PolynomialAveraging()] if averaged else []
    trainer = small.trainer_of(folder, epochs, *average, best, last, enable_checkpointing=True)
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return module


def by_hand(policy, data, strengths):
    """NDCG@10 on validation at strengths of memory and prior."""
    batch = small.batch_of(data, "validation")
    found = {}
    for memory, prior in strengths:
        policy.memory.strength, policy.prior_strength = memory, prior
        rank_T = policy.ranks(policy.encode(batch), batch.target_T, batch.seen_N)
        gain_T = (rank_T > 0) * (rank_T <= 10) / (rank_T + 1.0).log2()
        found[memory, prior] = gain_T.mean().item()
    return found


def with_peak(memory, prior):
    """In place of the search's ranking: it is best at these strengths."""

    def measured(policy, batches, device, strengths):
        return {(a, c): 1 - abs(a - memory) - abs(c - prior) for a, c in strengths}

    return patch.object(calibration, "ndcg_by_strength", measured)


@torch.no_grad()
def test_calibration_writes_the_best_strengths_into_the_best_checkpoint(data, tmp_path):
    module = cloned(data, tmp_path)
    loaded = load_net(tmp_path / "best.ckpt", "policy")
    policy, facts = loaded.net.eval(), loaded.facts["prior"]
    a, c = facts["memory"], facts["strength"]
    assert a > 0
    assert (a, c) == (policy.memory.strength, policy.prior_strength)
    assert (a, c) == (module.policy.memory.strength, module.policy.prior_strength)
    steps = PRIOR_STRENGTHS_WITH_MEMORY
    chosen = [(a, c), without := (0.0, facts["strength_without_memory"])]
    found = by_hand(policy, data, [*chosen, *((a, c) for a in (0.0, *MEMORY_STRENGTHS) for c in steps)])
    assert facts["ndcg@10"] == pytest.approx(found[a, c], abs=1e-6)
    assert facts["ndcg@10_without"] == pytest.approx(found[0.0, 0.0], abs=1e-6)
    assert facts["ndcg@10_without_memory"] == pytest.approx(found[without], abs=1e-6)
    assert facts["ndcg@10_without_memory"] >= max(found[0.0, prior] for prior in steps) - 1e-6
    plain, gain = max(value for (memory, _), value in found.items() if not memory), 0.95
    enough = plain + gain * (max(found.values()) - plain)
    assert found[a, c] >= enough
    assert all(value < enough for (memory, _), value in found.items() if memory < a)


def test_memory_is_not_trained_and_optional(data, tmp_path):
    with_it, without = (cloned(data, tmp_path / str(memory), memory=memory) for memory in (True, False))
    assert all(a.equal(b) for a, b in zip(with_it.policy.parameters(), without.policy.parameters(), strict=True))
    found = read_checkpoint(tmp_path / "False" / "best.ckpt")
    assert without.policy.memory is None
    assert found["facts"]["prior"]["memory"] == 0
    assert not any("memory" in name for name in found["state_dict"])
    assert found["facts"]["prior"]["ndcg@10"] == with_it.prior_facts["ndcg@10_without_memory"]


class WithoutMemory(SequencePolicy):
    def __init__(self, num_items: int) -> None:
        super().__init__(small.encoder(), num_items, temperature=0.1)


def test_calibration_gives_no_memory_to_policies_that_take_none(data, tmp_path):
    best = ModelCheckpoint(tmp_path, "best", monitor="rank/all/ndcg@10", mode="max")
    small.trainer_of(tmp_path, 1, best, enable_checkpointing=True).fit(Cloning(WithoutMemory(data.num_items)), data)
    assert isinstance(load_net(tmp_path / "best.ckpt", "policy").net, WithoutMemory)


def test_policy_given_with_a_memory_is_cloned_without_it(data, tmp_path):
    def fitted(epochs, ckpt_path=None):
        module = Cloning(small.with_memory(SequencePolicy(small.encoder(), data.num_items)), prior=False)
        last = ModelCheckpoint(tmp_path, "last", enable_version_counter=False)
        trainer = small.trainer_of(tmp_path, epochs, last, enable_checkpointing=True)
        trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
        return module.policy

    assert fitted(1).memory is None
    assert fitted(2, tmp_path / "last.ckpt").memory is None


def test_calibration_drops_a_memory_that_does_not_help(data, tmp_path):
    with with_peak(0, 0.5):
        module = cloned(data, tmp_path, epochs=1)
    assert module.policy.memory is None
    assert load_net(tmp_path / "best.ckpt", "policy").net.memory is None


def test_calibration_leaves_weights_and_counts(data, tmp_path):
    with_it, without = (cloned(data, tmp_path / str(prior), prior=prior) for prior in (True, False))
    assert all(a.equal(b) for a, b in zip(with_it.policy.parameters(), without.policy.parameters(), strict=True))
    assert without.policy.prior_strength == 0
    assert "prior" not in read_checkpoint(tmp_path / "False" / "best.ckpt")["facts"]
    train = data.sequences.frame.filter(pl.col("split") == 0)
    counts = torch.from_numpy(train.group_by("item_id").len().sort("item_id")["len"].cast(pl.Int64).to_numpy())
    assert len(counts) == data.num_items  # all items are seen in training here
    log_count_V = (counts + 0.5).log()
    torch.testing.assert_close(with_it.policy.prior.log_count_V, log_count_V - log_count_V.max())


@pytest.mark.slow
@pytest.mark.parametrize("over", ["items", "codes"])
def test_resumed_calibrated_run_equals_one_run(data, tmp_path, over):
    cloned(data, tmp_path / "one", epochs=3, over=over)
    cloned(data, tmp_path / "two", epochs=2, over=over)
    assert load_net(tmp_path / "two" / "last.ckpt", "policy").net.prior_strength == 0  # it never holds one
    cloned(data, tmp_path / "two", epochs=3, ckpt_path=tmp_path / "two" / "last.ckpt", over=over)
    one, two = (read_checkpoint(tmp_path / run / "best.ckpt") for run in ("one", "two"))
    assert one["facts"] == two["facts"]
    assert all(value.equal(two["state_dict"][key]) for key, value in one["state_dict"].items())


@pytest.mark.slow
@pytest.mark.parametrize("averaged", [True, False])
@pytest.mark.parametrize("over", ["items", "codes"])
def test_resuming_a_calibrated_checkpoint_drops_its_prior(data, tmp_path, over, averaged):
    own = {"over": over, "averaged": averaged}
    with with_peak(1, 1):
        cloned(data, tmp_path, epochs=1, **own)
    net = load_net(tmp_path / "best.ckpt", "policy").net
    assert (net.memory.strength, net.prior_strength) == (1, 1)
    cloned(data, tmp_path, epochs=2, ckpt_path=tmp_path / "best.ckpt", **own)
    net = load_net(tmp_path / "last.ckpt", "policy").net
    assert (net.memory, net.prior_strength) == (None, 0)


@pytest.mark.parametrize("averaged", [True, False])
def test_resuming_a_finished_run_keeps_its_prior(data, tmp_path, averaged):
    """Lightning trains nothing then, and so does not say that training ends."""
    with with_peak(1, 1):
        cloned(data, tmp_path, epochs=1, averaged=averaged)
    again = cloned(data, tmp_path, epochs=1, averaged=averaged, ckpt_path=tmp_path / "last.ckpt")
    own = load_net(tmp_path / "best.ckpt", "policy").net
    assert all(map(torch.equal, again.policy.parameters(), own.parameters()))
    assert (again.policy.memory.strength, again.policy.prior_strength) == (1, 1)
    assert again.facts()["prior"] == read_checkpoint(tmp_path / "best.ckpt")["facts"]["prior"]


def test_calibration_does_not_write_weights_that_are_not_finite(data, tmp_path):
    def poison(policy, *given):
        if not isinstance(policy, ItemKNN):
            policy.item_embedding.weight.data[1] = math.nan
        return dict.fromkeys(given[-1], 0.1)

    with patch.object(calibration, "ndcg_by_strength", poison), pytest.raises(TrainingError, match="item_embedding"):
        cloned(data, tmp_path)
    assert load_net(tmp_path / "best.ckpt", "policy").net.item_embedding.weight.isfinite().all()


@pytest.mark.parametrize("strength", [1.0, 2.0])
def test_calibration_warns_at_the_end_of_the_range(data, tmp_path, recwarn, strength):
    with with_peak(0, strength):
        cloned(data, tmp_path, epochs=1)
    assert any("end of its range" in str(warning.message) for warning in recwarn) == (strength == 2)


def searched(data, value, remembers, alone=0.0):
    """What is found where the ranking has that value at some strengths, and those that each pass tries."""
    asked = []

    def measured(policy, batches, device, strengths):
        if isinstance(policy, ItemKNN):
            return dict.fromkeys(strengths, alone)
        asked.append(strengths)
        return {each: value(*each) for each in strengths}

    trainer = SimpleNamespace(num_val_batches=[1], precision_plugin=SimpleNamespace(val_step_context=nullcontext))
    module = SimpleNamespace(data=data, device=None, visible=lambda batch: batch)
    with patch.object(calibration, "ndcg_by_strength", measured):
        policy = SimpleNamespace(memory=remembers or None)
        return CalibratePrior({})._search(trainer, module, policy), asked


@given(st.floats(-0.5, 2.5))
def test_prior_search_is_coarse_then_fine(data, peak):
    found, (coarse, fine) = searched(data, lambda _, c: 1 - abs(c - peak), remembers=False)
    assert coarse == [(0, 0.25 * step) for step in range(9)]
    around = max(coarse, key=lambda each: (1 - abs(each[1] - peak), -each[1]))[1]
    assert fine == [(0, c) for step in (-3, -2, -1, 1, 2, 3) if 0 <= (c := around + step / 16) <= 2]
    assert abs(found["strength"] - min(max(peak, 0), 2)) <= 1 / 32
    assert found["ndcg@10"] == found["ndcg@10_without_memory"] == 1 - abs(found["strength"] - peak)
    assert found["ndcg@10_without"] == 1 - abs(peak)


@given(st.sampled_from(MEMORY_STRENGTHS), st.floats(0, 1.375))
def test_memory_search_takes_the_weakest_with_most_of_the_gain(data, memory, prior):
    found, asked = searched(data, lambda a, c: 1 - max(0, memory - a) / 20 - abs(c - prior) / 50, remembers=True)
    assert found["memory"] == memory
    assert abs(found["strength"] - prior) <= 1 / 8
    assert found["ndcg@10"] >= found["ndcg@10_without_memory"] >= found["ndcg@10_without"]
    assert len({each for strengths in asked for each in strengths}) <= 42


@pytest.mark.parametrize(("alone", "memory"), [(0.95, 1.0), (0.97, 12.0), (0.98, 16.0), (1.02, 48.0), (2.0, 192.0)])
def test_memory_search_ranks_no_worse_than_item_knn(data, alone, memory):
    """The weakest that does, though a weaker one has nearly all of the gain; the best one where none does."""
    found, _ = searched(data, lambda a, c: 1 - (24 - a) / 480 * bool(a) - (a == 0) * 10 - c / 500, True, alone)
    assert found["memory"] == memory


def test_calibration_ignores_rewards_of_judges_users(log_root, tmp_path, monkeypatch):
    data = small.data_of(RecommenderData, log_root, "tastes", users="all")
    encoder, seen = small.encoder(), []
    module = Recommender(data.num_items, encoder, feedback=True)
    real = calibration.ndcg_by_strength

    def noted(policy, batches, device, strengths):
        batches = list(batches)
        hidden_U = ~torch.from_numpy(data.sequences.users_in("A"))
        seen.extend(batch.reward_BL[hidden_U[batch.user_B]].isnan().all() for batch in batches)
        return real(policy, batches, device, strengths)

    monkeypatch.setattr(calibration, "ndcg_by_strength", noted)
    small.fit(module, data, tmp_path, epochs=1)
    assert seen
    assert all(seen)


@pytest.mark.parametrize("saved", [False, True])
def test_calibration_ignores_sanity_checks(data, tmp_path, saved):
    module, best = Recommender(data.num_items, small.encoder()), RunCheckpoint()
    best.dirpath = str(tmp_path)
    own = {"check_val_every_n_epoch": 2, "num_sanity_val_steps": 1, "enable_checkpointing": saved}
    with pytest.warns(UserWarning, match="no item prior"):
        small.trainer_of(tmp_path, 1, *[best] * saved, **own).fit(module, data)
    assert module.policy.prior_strength == 0
