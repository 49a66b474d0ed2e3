"""Preferences in training: towards what is valued, from the same batches the same losses, and through the command."""

from __future__ import annotations

import pytest
import small
from small import liked

from recalign.posttrain import KTO, PairData, PostTrainingData, Preferences
from recalign.recommender.checkpoint import load_net

LOSSES = ["dpo", "ipo", "sdpo", "simpo"]


@pytest.fixture(scope="module")
def data(log_root):
    return small.data_of(PairData, log_root, "tastes")


@pytest.mark.parametrize("loss", LOSSES)
def test_pairs_raise_what_users_value(data, cloned, tmp_path, loss):
    module = small.free(Preferences, init_from=str(cloned), loss=loss, lr=5e-3)
    before = liked(module.policy, data)
    watch = small.fit(module, data, tmp_path, epochs=4)
    assert liked(module.policy, data) > before + 0.05
    names = {"accuracy", "margin", "winner", "loser", "share"}
    assert {f"pairs/{n}" for n in names} | {"train/loss", "policy/kl"} <= set(watch.steps[0])
    first, last = watch.steps[0], watch.steps[-1]
    assert first["policy/kl"] == pytest.approx(0, abs=1e-6)
    assert last["pairs/margin"] > first["pairs/margin"]
    assert last["pairs/share"] == pytest.approx(data.share)


def test_margins_are_histograms_of_logged_steps(log_root, data, cloned, tmp_path):
    for method, source in ((Preferences, data), (KTO, small.data_of(PostTrainingData, log_root, "tastes"))):
        kept = small.histograms(small.free(method, init_from=str(cloned)), source, tmp_path)
        assert {name: len(found) for name, found in kept.items()} == {"pairs/margins": 1}
        assert all(values.size > 1 for values in kept["pairs/margins"])


def test_single_events_raise_what_users_value(log_root, data, cloned, tmp_path):
    module = small.free(KTO, init_from=str(cloned), lr=5e-3)
    before = liked(module.policy, data)
    watch = small.fit(module, small.data_of(PostTrainingData, log_root, "tastes", baseline="user"), tmp_path, epochs=4)
    assert liked(module.policy, data) > before + 0.05
    assert watch.steps[0]["pairs/z"] == pytest.approx(0, abs=1e-6)
    assert watch.steps[-1]["pairs/margin"] > watch.steps[0]["pairs/margin"]
    assert 0.2 < watch.steps[0]["pairs/good"] < 0.8


def test_with_one_loser_a_run_of_softmax_dpo_is_a_run_of_dpo(data, cloned, tmp_path):
    start = load_net(cloned, "policy").net
    runs = [
        small.fit(small.free(Preferences, policy=start, loss=loss, lr=1e-3), data, tmp_path, epochs=2).steps
        for loss in ("dpo", "sdpo")
    ]
    for one, other in zip(*runs, strict=True):
        assert one["train/loss"] == pytest.approx(other["train/loss"], rel=1e-4)
