"""The item prior: c log(n + 1/2) in every figure of a policy, and nothing at all at strength 0."""

from __future__ import annotations

import copy

import pytest
import small
import torch
from hypothesis import given
from hypothesis import strategies as st

from recalign.errors import InputError
from recalign.evaluation.counted_rows import SameForAll
from recalign.recommender import RecommenderData, SequencePolicy
from recalign.recommender.module import estimated_log_prob
from recalign.recommender.prior import ItemPrior, training_pass


@pytest.fixture(scope="module")
def data(log_root):
    return small.data_of(RecommenderData, log_root)


@pytest.fixture(scope="module")
def batch(data):
    return small.batch_of(data, "train", rows=8)


@pytest.fixture
def policy(data):
    torch.manual_seed(1)
    made = SequencePolicy(small.encoder(), data.num_items, temperature=0.3).eval()
    torch.nn.init.normal_(made.item_embedding.weight, std=0.3)
    made.set_counts(torch.arange(data.num_items) ** 2)
    return made


def figures(policy, batch):
    """Log-probabilities, the loss with its gradient, ranks, the best, what is drawn and the sampled softmax."""
    policy.zero_grad()
    state, item_T = policy.encode(batch), batch.target_T
    loss = policy.weighted_nll(state, item_T, torch.linspace(0, 1, len(item_T)))
    loss.backward()
    torch.manual_seed(3)
    seen_N = torch.stack([torch.arange(len(item_T)), batch.item_BL[batch.row_T, 0]])
    return [
        policy.log_probs(state),
        policy.log_probs(state, item_T[:, None].repeat(1, 3)),
        policy.log_prob(state, item_T),
        loss,
        policy.item_embedding.weight.grad.clone(),
        policy.ranks(state, item_T, seen_N),
        *policy.top_k(state, 7, seen_N),
        policy.sample(state, 5),
        estimated_log_prob(policy, state, item_T, 9),
    ]


def test_prior_of_strength_0_changes_nothing(policy, batch):
    plain = copy.deepcopy(policy)
    plain.set_counts(torch.zeros(policy.num_items))
    assert all(a.equal(b) for a, b in zip(figures(policy, batch), figures(plain, batch), strict=True))


def test_prior_is_added_to_log_probabilities_and_renormalised(policy, batch):
    plain_TV = policy.log_probs(policy.encode(batch))
    policy.prior_strength = 1.3
    log_count_V = (torch.arange(policy.num_items) ** 2 + 0.5).log()
    expected_TV = (plain_TV + 1.3 * log_count_V).log_softmax(dim=1)
    torch.testing.assert_close(policy.log_probs(policy.encode(batch)), expected_TV, atol=2e-5, rtol=1e-5)


@given(st.lists(st.integers(0, 10**7), min_size=2, max_size=20), st.floats(-2, 2), st.floats(1, 50))
def test_prior_bound_holds_for_any_counts(counts, strength, scale):
    prior = ItemPrior(len(counts))
    prior.set_counts(torch.tensor(counts))
    prior.strength = strength
    every = slice(len(counts))
    item = prior.augment_items(torch.zeros(len(counts), 3), scale, every)
    query = prior.augment_queries(torch.zeros(1, 3))
    added_V = (query @ item.T)[0]
    log_count_V = (torch.tensor(counts) + 0.5).log()
    expected_V = strength * (log_count_V - log_count_V.max())
    torch.testing.assert_close(scale * added_V, expected_V, atol=1e-4, rtol=1e-4)
    rounding = torch.finfo(torch.float32).tiny  # of subnormal numbers
    assert added_V.abs().max() <= prior.bound(scale) * (1 + 1e-5) + rounding


def test_prior_is_in_the_state_dict_and_not_trained(policy):
    policy.prior_strength = 0.3
    assert not any("prior" in name for name, _ in policy.named_parameters())
    other = SequencePolicy(small.encoder(), policy.num_items, temperature=0.3)
    other.load_state_dict(policy.state_dict())
    assert (other.prior_strength, other.prior.spread) == (0.3, policy.prior.spread)
    assert copy.deepcopy(policy).prior_strength == 0.3


def test_policy_without_a_prior_refuses_a_strength():
    policy = SameForAll(torch.zeros(5))
    policy.set_counts(torch.ones(5))
    policy.prior_strength = 0.0
    assert policy.prior_strength == 0
    with pytest.raises(InputError, match=r"model\.prior: SameForAll has no item prior"):
        policy.prior_strength = 0.5


def test_training_pass_turns_priors_off_and_restores_them(policy, batch):
    other = copy.deepcopy(policy)
    cloned_TV = policy.log_probs(policy.encode(batch))
    small.with_memory(policy).prior_strength, other.prior_strength = 0.5, 1.5
    with training_pass(policy, other):
        assert policy.prior_strength == other.prior_strength == 0
        torch.testing.assert_close(policy.log_probs(policy.encode(batch)), cloned_TV)
    assert (policy.prior_strength, other.prior_strength) == (0.5, 1.5)
    assert (policy.log_probs(policy.encode(batch)) - cloned_TV).abs().max() > 0.1


def test_training_pass_restores_priors_if_a_step_cannot_begin(policy, monkeypatch):
    def fail():
        raise RuntimeError("no step")

    policy.prior_strength = 0.5
    monkeypatch.setattr(policy, "begin_step", fail)
    with pytest.raises(RuntimeError, match="no step"), training_pass(policy):
        pass
    assert (policy.prior_strength, policy.in_training_pass) == (0.5, False)


@torch.no_grad()
def test_log_probs_ignore_autocast(policy, batch):
    policy.temperature, state = 0.05, policy.encode(batch)
    exact_TV = policy.log_probs(state)
    with torch.autocast("cpu", torch.bfloat16):
        assert policy.log_probs(state).equal(exact_TV)
