"""Policies: the figures they give agree with each other and with what one would count by hand."""

from __future__ import annotations

import dataclasses

import pytest
import small
import torch
from torch import Tensor

from recalign.data.sequences import Batch
from recalign.errors import InputError
from recalign.evaluation.counted_rows import SameForAll
from recalign.evaluation.reranking import Rerank
from recalign.nn import LazyDecoder, Pooled, SASRec
from recalign.recommender import CodePolicy, Policy, RecommenderData, SequencePolicy
from recalign.recommender import policy as policy_file
from recalign.reward import RewardEnsemble


@pytest.fixture(scope="module")
def data(log_root):
    return small.data_of(RecommenderData, log_root)


@pytest.fixture(scope="module")
def batch(data):
    """Test targets, the first of them one that training never saw."""
    batch = small.batch_of(data, rows=8)
    target_T = batch.target_T.clone()
    target_T[0] = 0
    return dataclasses.replace(batch, target_T=target_T)


class Softmax:
    """log pi(target | query) = scale q . e - log sum_v exp(scale q . e_v), which holds all scores at once."""

    def log_prob(self, query_TD: Tensor, item_VD: Tensor, target_T: Tensor, scale: float, bound: float) -> Tensor:
        """Of one item a query, in row ``target_T`` of the catalogue; ``bound``: of all dot products. Shape: -> (T,)."""
        logp_TV = (scale * query_TD @ item_VD.T).log_softmax(dim=1)
        return logp_TV.gather(1, target_T[:, None])[:, 0]

    def weighted_nll(
        self, query_TD: Tensor, item_VD: Tensor, target_T: Tensor, weight_T: Tensor, scale: float, bound: float
    ) -> Tensor:
        """sum_t weight_t * -log pi(target_t | query_t), a scalar."""
        return -(weight_T * self.log_prob(query_TD, item_VD, target_T, scale, bound)).sum()


def sequence_policy(items: int, feedback: bool = False) -> SequencePolicy:
    return SequencePolicy(small.encoder(), items, temperature=0.3, feedback=feedback)


def with_prior(items: int) -> SequencePolicy:
    policy = sequence_policy(items)
    policy.set_counts(torch.arange(items) ** 2)
    policy.prior_strength = 0.7
    return policy


def with_all_scores(items: int) -> SequencePolicy:
    """The softmax as its formula."""
    return type("Plain", (SequencePolicy,), {"softmax": Softmax()})(small.encoder(), items)


POLICIES = {
    "formula": with_all_scores,
    "sequence": sequence_policy,
    "prior": with_prior,
    "memory": lambda items: small.with_memory(with_prior(items)),
    "codes with memory": lambda items: small.with_memory(small.coded(items)),
    "feedback": lambda items: sequence_policy(items, feedback=True),
    "sasrec": lambda items: SequencePolicy(SASRec(dim=16, layers=1, heads=1, max_length=32, dropout=0.0), items),
    "codes": lambda items: CodePolicy(LazyDecoder(16, max_length=32), items, [4, 3, 8], beam=1),
    "node codes": lambda items: CodePolicy(
        LazyDecoder(16, heads=2, max_length=32), items, [7, 12], feedback=True, temperature=0.1
    ),
    "same_for_all": lambda items: SameForAll(torch.randn(items)),
    "rerank": lambda items: Rerank(small.coded(items), RewardEnsemble(small.pooled(), items, members=2), 1.0),
}


@pytest.fixture(params=POLICIES)
def policy(request: pytest.FixtureRequest, data) -> Policy:
    torch.manual_seed(1)
    made = POLICIES[request.param](data.num_items).eval()
    for parameter in made.parameters():  # so that no table is as tame as when it was made
        torch.nn.init.normal_(parameter, std=0.3)
    return made


@torch.no_grad()
def test_policy_methods_accept_batches_without_targets(policy, batch):
    none = batch.keep(torch.zeros(len(batch.target_T), dtype=torch.bool))
    state, item_TC = policy.encode(none), torch.ones(0, 3, dtype=torch.int64)
    nothing_seen = torch.empty(2, 0, dtype=torch.int64)
    assert policy.log_probs(state).shape == (0, policy.num_items)
    assert policy.log_probs(state, item_TC).shape == (0, 3)
    assert policy.log_prob(state, none.target_T).shape == (0,)
    assert policy.ranks(state, none.target_T, nothing_seen).shape == (0,)
    assert [each.shape for each in policy.top_k(state, 5, nothing_seen)] == [(0, 5), (0, 5)]
    assert policy.sample(state, 4).shape == (0, 4)


@torch.no_grad()
def test_log_probs_are_normalised_over_the_catalogue(policy, batch):
    logp_TV = policy.log_probs(policy.encode(batch))
    assert logp_TV.shape == (len(batch.target_T), policy.num_items)
    torch.testing.assert_close(logp_TV.exp().sum(dim=1), torch.ones(len(logp_TV)))


@torch.no_grad()
@pytest.mark.parametrize("candidates", [2, 200])
def test_log_prob_of_item_candidates_and_catalogue_agree(policy, batch, candidates):
    state = policy.encode(batch)
    logp_TV = policy.log_probs(state)
    random = torch.Generator().manual_seed(0)
    items_TC = torch.randint(1, policy.num_items + 1, (len(state), candidates), generator=random)
    expected_TC = logp_TV.gather(1, items_TC - 1)
    torch.testing.assert_close(policy.log_probs(state, items_TC), expected_TC, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(policy.log_prob(state, items_TC[:, 0]), expected_TC[:, 0], atol=1e-5, rtol=1e-5)
    weight_T = torch.linspace(0, 2, len(state))
    nll = policy.weighted_nll(state, items_TC[:, 0], weight_T)
    torch.testing.assert_close(nll, -(weight_T * expected_TC[:, 0]).sum(), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("policy", ["prior", "memory", "codes with memory", "node codes"], indirect=True)
@torch.no_grad()
def test_ranks_by_strengths_equal_ranks_under_each(policy, batch):
    policy.set_counts(torch.arange(policy.num_items) ** 2)
    state, strengths = policy.encode(batch), [(3.0, 0.5), (0.0, 0.0), (1.0, 2.0)]
    found = policy.ranks_by_strengths(state, batch.target_T, policy.num_items, batch.seen_N, strengths)
    for each, rank_T in zip(strengths, found, strict=True):
        policy.set_strengths(*each)
        bounds = small.naive_ranks(policy.log_probs(state), batch.target_T, batch.seen_N)
        assert all(low <= rank <= high for rank, (low, high) in zip(rank_T.tolist(), bounds, strict=True))


@torch.no_grad()
def test_ranks_equal_a_plain_count_and_a_miss_is_0(policy, batch):
    state = policy.encode(batch)
    ranks = policy.ranks(state, batch.target_T, batch.seen_N).tolist()
    bounds = small.naive_ranks(policy.log_probs(state), batch.target_T, batch.seen_N)
    assert all(first <= rank <= last for rank, (first, last) in zip(ranks, bounds, strict=True))
    assert sum(first == last for first, last in bounds) > len(bounds) / 2
    assert ranks[0] == 0
    assert min(ranks[1:]) >= 1


@torch.no_grad()
def test_top_k_returns_the_best_unseen_items(policy, batch):
    state = policy.encode(batch)
    score_TK, item_TK = policy.top_k(state, 10, batch.seen_N)
    logp_TV = policy.log_probs(state)
    logp_TV[batch.seen_N[0], batch.seen_N[1] - 1] = -torch.inf
    torch.testing.assert_close(logp_TV.gather(1, item_TK - 1), logp_TV.topk(10, dim=1).values)
    gap_TK = score_TK - logp_TV.gather(1, item_TK - 1)
    torch.testing.assert_close(gap_TK, gap_TK[:, :1].expand_as(gap_TK), atol=1e-4, rtol=1e-4)
    seen = set(map(tuple, batch.seen_N.T.tolist()))
    assert not seen & {(t, v) for t, row in enumerate(item_TK.tolist()) for v in row}


@torch.no_grad()
def test_sample_follows_the_probabilities(policy, batch):
    torch.manual_seed(0)
    state = policy.encode(batch)[:2]
    drawn = policy.sample(state, 20_000)
    assert drawn.shape == (2, 20_000)
    for row, logp_V in zip(drawn, policy.log_probs(state), strict=True):
        share_V = torch.bincount(row, minlength=policy.num_items + 1)[1:] / 20_000
        error_V = (logp_V.exp() * (1 - logp_V.exp()) / 20_000).sqrt()
        assert ((share_V - logp_V.exp()).abs() <= 5 * error_V + 1e-4).all()


@torch.no_grad()
def test_overridden_policy_methods_equal_the_protocols(policy, batch, monkeypatch):
    monkeypatch.setattr(policy_file, "ROWS", 3)  # stretches of states, seen pairs each with their own
    state = policy.encode(batch)
    for method, arguments in [
        ("log_prob", (batch.target_T.clamp(min=1),)),
        ("weighted_nll", (batch.target_T.clamp(min=1), torch.rand(len(state)))),
    ]:
        own, general = getattr(policy, method)(state, *arguments), getattr(Policy, method)(policy, state, *arguments)
        torch.testing.assert_close(own, general, atol=1e-4, rtol=1e-5)
    ranks = policy.ranks(state, batch.target_T, batch.seen_N), Policy.ranks(policy, state, batch.target_T, batch.seen_N)
    assert (ranks[0] - ranks[1]).abs().max() <= 1  # scores that are all but equal round either way
    assert policy.top_k(state, 5, batch.seen_N)[1].equal(Policy.top_k(policy, state, 5, batch.seen_N)[1])


def test_weighted_nll_has_the_gradient_of_log_probs(data, batch):
    policy = sequence_policy(data.num_items)
    item_T, weight_T = batch.target_T.clamp(min=1), torch.linspace(0, 1, len(batch.target_T))
    gradients = []
    for loss in (policy.weighted_nll, lambda *args: Policy.weighted_nll(policy, *args)):
        policy.zero_grad()
        loss(policy.encode(batch), item_T, weight_T).backward()
        gradients.append(policy.item_embedding.weight.grad.clone())
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)
    assert gradients[0].abs().sum() > 0


def with_reward(batch, column: int):
    reward_BL = batch.reward_BL.clone()
    reward_BL[0, column] += 3
    return dataclasses.replace(batch, reward_BL=reward_BL)


@torch.no_grad()
def test_feedback_is_seen_after_its_event_and_never_before(data):
    policy = sequence_policy(data.num_items, feedback=True).eval()
    torch.nn.init.normal_(policy.past_rewards.project.weight)
    batch = small.batch_of(data, "train", rows=1)
    before, after = policy.encode(batch), policy.encode(with_reward(batch, 5))
    same_T = (before == after).all(dim=1)
    assert same_T[batch.column_T < 5].all()
    assert not same_T[batch.column_T >= 5].any()


def test_read_refuses_histories_longer_than_the_encoder():
    policy = SequencePolicy(Pooled(4, max_length=3), 5)
    ids = torch.ones(1, 4, dtype=torch.long)
    one = torch.zeros(1, dtype=torch.long)
    batch = Batch(one, ids, one + 4, ids, ids, ids.float(), one, one, one + 1, one.float(), one.bool(), one)
    with pytest.raises(InputError, match=r"data\.max_length: histories have 4 events"):
        policy.encode(batch)
