"""IPA: which items make a pair, the snapshot that shows them, and where it goes."""

from __future__ import annotations

import math

import pytest
import small
import torch

from recalign.errors import InputError
from recalign.posttrain import IPA
from recalign.posttrain.ipa import best_and_worst
from recalign.posttrain.rollout import seen_pairs
from recalign.reward import RewardData


@pytest.fixture(scope="module")
def data(log_root):
    return small.data_of(RewardData, log_root, "tastes")


def test_the_pair_by_hand():
    item_TC = torch.tensor([[4, 7, 0, 2], [5, 6, 0, 0], [0, 0, 0, 0]])
    reward_TC = torch.tensor([[1.0, 3.0, 9.0, 2.0], [2.0, 2.0, 5.0, 5.0], [1.0, 2.0, 3.0, 4.0]])
    pair_T2, gap_T = best_and_worst(item_TC, reward_TC)
    assert pair_T2[0].tolist() == [7, 4]
    assert gap_T.tolist() == [2.0, 0.0, 0.0]  # equal rewards, and nothing shown, make no pair


def test_the_first_loss_by_hand(data, start, taste):
    """pi = old, so that each pair costs log 2."""
    module = small.free(IPA, policy=start, reward_net=taste, share=1.0, cloning=0.5)
    batch = small.batch_of(data, "train", rows=8)
    loss, figures = module.loss(batch)
    nll = -start.log_prob(start.encode(batch), batch.target_T).mean()
    torch.testing.assert_close(loss, 0.5 * nll + math.log(2))
    torch.testing.assert_close(figures["nll"], nll.detach())
    assert figures["margin"].abs() < 1e-6


def test_pairs_are_of_unseen_items_that_the_policy_shows(data, start, taste):
    module = small.free(IPA, policy=start, reward_net=taste, candidates=6)
    batch = small.batch_of(data, "train", rows=8)
    pair_T2, gap_T = module._pairs(batch)
    shown_TC = start.top_k(start.encode(batch), 6, seen_pairs(batch))[1]
    assert (gap_T > 0).any()
    for pair, shown, gap in zip(pair_T2.tolist(), shown_TC.tolist(), gap_T, strict=True):
        assert gap == 0 or set(pair) <= set(shown)


@pytest.mark.parametrize("over", ["items", "codes"])
def test_it_raises_the_reward_of_a_reward_model_that_is_right(data, start, taste, tmp_path, over):
    torch.manual_seed(0)
    policy = start if over == "items" else small.coded(data.num_items)
    before = small.liked(policy, data)
    module = small.free(IPA, policy=policy, reward_net=taste, share=1.0, cloning=0.1, lr=3e-3)
    watch = small.fit(module, data, tmp_path, epochs=6)
    assert small.liked(module.policy, data) > before + 0.05
    assert {"ipa/accuracy", "ipa/margin", "ipa/gap", "ipa/nll"} <= set(watch.steps[0])


@pytest.mark.parametrize("over", ["items", "codes"])
def test_where_no_history_is_asked_only_cloning_is_left(data, start, taste, over):
    policy = start if over == "items" else small.coded(data.num_items)
    module = small.free(IPA, policy=policy, reward_net=taste, share=1e-12, cloning=0.5)
    loss, figures = module.loss(small.batch_of(data, "train", rows=8))
    torch.testing.assert_close(loss.detach(), 0.5 * figures["nll"])
    assert set(figures) == {"nll"}


def test_the_snapshot_is_of_the_beginning_of_the_epoch(data, start, taste, tmp_path):
    module = small.free(IPA, policy=start, reward_net=taste, share=1.0, lr=3e-3)
    small.fit(module, data, tmp_path, epochs=1)
    old, first = module.old.state_dict(), start.state_dict()
    assert all(value.equal(first[name]) for name, value in old.items())
    module.on_train_epoch_start()
    assert not all(value.equal(first[name]) for name, value in module.old.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "said"), [({"share": 0.0}, "model.share: 0.0 is no share"), ({"beta": 0.0}, "beta")]
)
def test_settings_that_train_nothing_are_refused(data, start, taste, tmp_path, settings, said):
    with pytest.raises(InputError, match=said):
        small.fit(small.free(IPA, policy=start, reward_net=taste, **settings), data, tmp_path)
