"""Rollouts: what is drawn, what is known of it, and what is refused."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import small
import torch

from recalign.errors import InputError
from recalign.posttrain import PPO, PostTrainingData
from recalign.posttrain.rollout import FrozenRewardModel, roll_out, seen_pairs
from recalign.recommender.checkpoint import Loaded
from recalign.reward import RewardData


@pytest.fixture(scope="module")
def data(log_root):
    return small.data_of(RewardData, log_root, "tastes")


def test_share_limits_the_histories_with_rollouts(data, start, taste):
    batch = small.batch_of(data, "train", rows=30)
    everywhere, rarely = (small.free(PPO, policy=start, reward_net=taste, share=share) for share in (1.0, 0.1))
    before = torch.get_rng_state()
    assert everywhere.sampled_targets(batch) is batch
    assert torch.get_rng_state().equal(before)
    asked = len(rarely.sampled_targets(batch).target_T) / len(batch.target_T)
    assert 0.02 < asked < 0.25


def unseen(logp_TV: torch.Tensor, batch) -> torch.Tensor:
    """Log-probabilities over what is not in the history."""
    target_N, item_N = seen_pairs(batch)
    return logp_TV.index_put((target_N, item_N - 1), torch.tensor(-1e4)).log_softmax(dim=1)


def drawn(start, taste, batch, samples, candidates):
    """The items that are drawn, and what is known of them."""
    environment = FrozenRewardModel(Loaded(taste))
    candidate_TC, column_TS, known = roll_out(start, start, environment, batch, samples, candidates)
    return candidate_TC.gather(1, column_TS).clamp(min=1), known


def test_roll_out_draws_unseen_candidates(data, start, taste):
    batch = small.batch_of(data, "train", rows=20)
    torch.manual_seed(0)
    item_TS, known = drawn(start, taste, batch, samples=16, candidates=5)
    logp_TV = start.log_probs(start.encode(batch)).detach()
    for t, items in enumerate(item_TS.tolist()):
        history = batch.item_BL[batch.row_T[t], : batch.column_T[t] + 1].tolist()
        left = [v for v in (logp_TV[t].argsort(descending=True) + 1).tolist() if v not in history]
        assert set(items) <= set(left[:5])
        p_5 = logp_TV[t, torch.tensor(left[:5]) - 1].log_softmax(dim=0)
        torch.testing.assert_close(known.old_TS[t], p_5[[left.index(item) for item in items]])
    assert len(item_TS.unique()) > 20
    assert known.start_TS.equal(known.old_TS)
    torch.testing.assert_close(known.reward_TS, taste.predict(taste.states(batch), item_TS))


def test_roll_out_follows_the_policys_probabilities(data, start, taste):
    batch = small.batch_of(data, "train", rows=2)
    torch.manual_seed(0)
    item_TS, _ = drawn(start, taste, batch, samples=20000, candidates=1000)
    logp_TV = start.log_probs(start.encode(batch)).detach()
    p_TV = unseen(logp_TV, batch).exp()
    often_TV = torch.stack([row.bincount(minlength=data.num_items + 1)[1:] / 20000 for row in item_TS])
    torch.testing.assert_close(often_TV, p_TV, atol=0.02, rtol=0)


def test_roll_out_without_unseen_items_is_finite(data, start, taste):
    batch = small.batch_of(data, "train", rows=1)
    everything = torch.arange(1, data.num_items + 1).remainder(32).add(1)[None, :32]
    seen = copy.copy(batch)
    object.__setattr__(seen, "item_BL", everything)
    item_TS, known = drawn(start, taste, seen, samples=4, candidates=5)
    assert ((item_TS >= 1) & (item_TS <= data.num_items)).all()
    assert known.old_TS.isfinite().all()


def test_methods_refuse_a_judge_as_reward_model(data, taste, log_root):
    judge = Loaded(taste, users=replace(data.cohort, group="B2"), where="judge.ckpt")
    learner = small.data_of(PostTrainingData, log_root, "tastes", source="predicted", reward_net=judge)
    for learns in (lambda: FrozenRewardModel(judge).setup(data), lambda: learner.advantages):
        with pytest.raises(
            InputError, match=r"judge\.ckpt: it was trained on users B2 .*; judges learn from some of them"
        ):
            learns()


def test_sampled_actions_train_only_the_policy_without_dropout(data, start, rewarded, tmp_path):
    module = small.free(PPO, policy=start, reward_model=str(rewarded), lr=1e-2)
    frozen = {k: v.clone() for k, v in module.state_dict().items() if k.startswith(("reference.", "frozen_reward."))}
    small.fit(module, data, tmp_path)
    assert all(v.equal(frozen[k]) for k, v in module.state_dict().items() if k in frozen)
    module.train()
    assert not any(part.training for part in module.policy.modules())
    optimised = {id(p) for group in module.configure_optimizers().param_groups for p in group["params"]}
    assert optimised == {id(p) for p in [*module.policy.parameters(), *module.value.parameters()]}


def test_frozen_reward_model_refuses_unusable_models(data, start, cloned, rewarded, log_root, taste, tmp_path):
    with pytest.raises(InputError, match=r"model\.reward_model: PPO needs a reward model"):
        small.free(PPO, policy=start)
    with pytest.raises(InputError, match="holds no reward"):
        small.free(PPO, policy=start, reward_model=str(cloned))
    other = small.data_of(RewardData, log_root, "small")
    with pytest.raises(InputError, match="another catalogue"):
        small.fit(small.free(PPO, policy=start, reward_model=str(rewarded)), other, tmp_path)
