"""The policy over codes: walk, teacher forcing and beam say the same, and say it of items alone."""

from __future__ import annotations

import dataclasses
import math

import pytest
import small
import torch

from recalign.data.sequences import Batch
from recalign.nn import LazyDecoder
from recalign.recommender import CodePolicy, Policy, RecommenderData
from recalign.recommender import onerec_choices as choices_file
from recalign.recommender import onerec_policy as codes_file
from recalign.recommender.onerec import random_codes
from recalign.recommender.onerec_choices import follow

SIZES = {"two levels": [9, 8], "three levels": [4, 5, 6], "one level": [60]}


@pytest.fixture(scope="module")
def data(log_root):
    return small.data_of(RecommenderData, log_root)


@pytest.fixture(scope="module")
def batch(data) -> Batch:
    """Test targets, several of a row."""
    return small.batch_of(data, rows=12)


def lazy() -> LazyDecoder:
    return LazyDecoder(16, layers=2, heads=2, kv_heads=1, max_length=32)


def made(items: int, sizes: list[int], seed: int = 0, **settings: object) -> CodePolicy:
    torch.manual_seed(seed)
    policy = CodePolicy(lazy(), items, sizes, **settings).eval()  # type: ignore[arg-type]
    policy.set_codes(random_codes(items, sizes))
    for weight in policy.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    policy.set_counts(torch.randint(0, 100, (items,)).float())
    policy.prior_strength = 0.5
    return policy


@pytest.fixture(params=[*((sizes, None) for sizes in SIZES), ("two levels", 0.2)], ids=str)
def policy(request: pytest.FixtureRequest, data) -> CodePolicy:
    """Over products, or over cosines at a temperature with a memory."""
    sizes, temperature = request.param
    policy = made(data.num_items, SIZES[sizes], temperature=temperature)
    return small.with_memory(policy) if temperature else policy


@torch.no_grad()
def test_code_policy_walk_teacher_forcing_and_full_beam_agree(policy, batch, monkeypatch):
    state, items = policy.encode(batch), policy.num_items
    logp_TV = policy.log_probs(state)
    forced_TV = policy._descend(state, follow(policy.trie, torch.arange(1, items + 1).expand(len(state), -1)))[1]
    torch.testing.assert_close(forced_TV, logp_TV, atol=1e-5, rtol=0)
    score_TV, item_TV, exact_T = policy._search(state, items, None, items)
    assert exact_T.all()
    assert item_TV.sort(dim=1).values.equal(torch.arange(1, items + 1).expand_as(item_TV))
    torch.testing.assert_close(score_TV, logp_TV.gather(1, item_TV - 1), atol=1e-5, rtol=0)
    monkeypatch.setattr(codes_file, "PREFIX_EVENTS", 500)  # a few states at a time
    torch.testing.assert_close(policy.log_probs(state), logp_TV, atol=1e-5, rtol=0)
    torch.testing.assert_close(policy._search(state, items, None, items)[0], score_TV, atol=1e-5, rtol=0)


@pytest.mark.parametrize("k", [1, 10, 1000])
@torch.no_grad()
def test_ranks_within_k_are_those_of_the_walk(policy, batch, k, monkeypatch):
    monkeypatch.setattr(choices_file, "AT_ONCE", 2)
    state, place_T = policy.encode(batch), torch.arange(len(batch.target_T))
    best_TK = policy.top_k(state, 10, batch.seen_N)[1]
    for item_T in (batch.target_T, best_TK[place_T, place_T % 10], torch.zeros_like(batch.target_T)):
        for seen_N in (batch.seen_N, None):
            rank_T, within_T = policy.ranks(state, item_T, seen_N), policy.ranks_within(state, item_T, k, seen_N)
            assert within_T.clamp(max=k + 1).equal(rank_T.clamp(max=k + 1))


@torch.no_grad()
def test_ranks_within_k_read_few_prefixes(data, batch, monkeypatch):
    policy = made(data.num_items, [9, 8])
    monkeypatch.setattr(choices_file, "AT_ONCE", 1)
    read, below = [], policy._below
    monkeypatch.setattr(policy, "_below", lambda *of: read.append(of[-1].numel()) or below(*of))
    policy.ranks_within(policy.encode(batch), batch.target_T, 10)
    targets, prefixes = len(batch.target_T), policy.trie.nodes(1)
    assert read[:2] == [targets, targets]  # the targets' own, then the best
    assert sum(read) - targets < targets * prefixes / 2


@torch.no_grad()
def test_beam_widens_until_lists_are_exact(data, batch, monkeypatch):
    """Whatever the weights; of eight draws of them, the fixed beam proves some lists and misses some."""
    beam, proved, missed = 2, 0, 0
    for seed in range(8):
        policy = made(data.num_items, [6, 6, 6], seed=seed, beam=beam)
        assert policy.trie.nodes(2) > 2 * 4 * beam, "the wider search is no walk yet"
        for weight in policy.head.parameters():
            weight.mul_(3)  # some first codes are sure
        state = policy.encode(batch)
        exact_TK = Policy.top_k(policy, state, 1, batch.seen_N)[1]
        _, own_TK, known_T = policy._search(state, 1, batch.seen_N, beam)
        assert own_TK[known_T].equal(exact_TK[known_T])
        proved += int(known_T.sum())
        missed += int((own_TK != exact_TK).sum())

        searched, found_TK = watched(policy, state, batch.seen_N, monkeypatch)
        assert found_TK.equal(exact_TK)
        wider = [] if known_T.all() else [(int((~known_T).sum()), 4 * beam)]
        assert searched == [(len(state), beam), *wider]
        policy.widest = beam
        searched, found_TK = watched(policy, state, batch.seen_N, monkeypatch)
        assert found_TK.equal(own_TK)
        assert searched == [(len(state), beam)]
    assert proved, "the fixed beam proves no list"
    assert missed, "the fixed beam misses nothing"


def watched(policy, state, seen_N, monkeypatch):
    """How many states were searched and how wide, search by search, and the most probable item of each state."""
    searched, search = [], policy._search
    with monkeypatch.context() as patch:
        patch.setattr(policy, "_search", lambda *a: searched.append((len(a[0]), a[3])) or search(*a))
        return searched, policy.top_k(state, 1, seen_N)[1]


@torch.no_grad()
def test_beam_memory_is_bounded(data, batch, monkeypatch):
    policy = made(data.num_items, [4, 5, 6], beam=3, widest=0)
    state = policy.encode(batch)
    score_TK, _ = policy.top_k(state, 3)
    held = policy.beam * policy.head.most_numbers(policy.trie)
    assert policy.head.most_numbers(policy.trie) == data.num_items
    monkeypatch.setattr(codes_file, "HEAD_NUMBERS", 3 * held)
    assert max(part.stop - part.start for part in policy._parts(state, policy.beam, own=True)) == 3
    assert max(part.stop - part.start for part in policy._parts(state, policy.beam)) > 3
    torch.testing.assert_close(policy.top_k(state, 3)[0], score_TK, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("beam", [1, 3, 7])
def test_narrow_beam_returns_each_unseen_item_once(data, batch, beam):
    policy = made(data.num_items, SIZES["three levels"], beam=beam, widest=beam)
    prefix_V = policy.trie.node_VS[:, 0]
    seen_X = torch.stack([torch.zeros(data.num_items).long(), torch.arange(1, data.num_items + 1)])
    seen_X = seen_X[:, prefix_V != prefix_V[0]]  # target 0 has seen all but the items of one prefix
    seen = torch.cat([batch.seen_N[:, batch.seen_N[0] > 0], seen_X], dim=1)
    score_TK, item_TK = policy.top_k(policy.encode(batch), 5, seen)
    own = set(map(tuple, seen.T.tolist()))
    logp_TV = policy.log_probs(policy.encode(batch))
    for t, row in enumerate(item_TK.tolist()):
        shown = [item for item in row if item]
        unseen = data.num_items - sum(state == t for state, _ in own)
        assert len(set(shown)) == len(shown) == min(5, unseen)
        assert not own & {(t, item) for item in shown}
        torch.testing.assert_close(score_TK[t, : len(shown)], logp_TV[t, torch.tensor(shown) - 1], atol=1e-5, rtol=0)
    assert set(item_TK[0].tolist()) - {0} <= {v + 1 for v in range(data.num_items) if prefix_V[v] == prefix_V[0]}


@torch.no_grad()
def test_code_policy_with_memory_is_normalised_at_any_strength(data, batch):
    policy = small.with_memory(made(data.num_items, [6, 8]))
    policy.memory.strength = 500.0
    logp_TV = policy.log_probs(policy.encode(batch))
    torch.testing.assert_close(logp_TV.exp().sum(dim=1), torch.ones(len(logp_TV)))


@torch.no_grad()
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_code_policy_prior_counts_events_below_a_node(data, batch, sizes):
    policy = made(data.num_items, sizes)
    state, count_V = policy.encode(batch), policy.count_V
    policy.prior_strength = 0.0
    without_TV = policy.log_probs(state)
    policy.prior_strength = 2.0
    gain_TV = torch.zeros_like(without_TV)
    prefix_V = torch.zeros(data.num_items).long()
    for level in range(len(sizes)):
        node_V = policy.trie.node_VS[:, level]
        below_V = torch.stack([count_V[node_V == node].sum() for node in node_V])
        gain_V = 2.0 * (below_V + 0.5).log()
        for prefix in prefix_V.unique():
            own_V = prefix_V == prefix
            first = torch.tensor([int((own_V & (node_V == node)).nonzero()[0]) for node in node_V[own_V].unique()])
            share_TN = _shares(without_TV, node_V, own_V, first) * gain_V[first].exp()
            gain_TV[:, own_V] += gain_V[own_V] - share_TN.sum(dim=1, keepdim=True).log()
        prefix_V = node_V
    torch.testing.assert_close(policy.log_probs(state), without_TV + gain_TV, atol=1e-4, rtol=1e-5)


def _shares(logp_TV, node_V, own_V, first):
    """Probability of each child of a prefix among its siblings."""
    mass_TN = torch.stack([logp_TV[:, own_V & (node_V == node_V[v])].exp().sum(dim=1) for v in first], dim=1)
    return mass_TN / mass_TN.sum(dim=1, keepdim=True)


def test_code_policy_loss_has_the_gradient_of_the_walk(policy, batch):
    item_T, weight_T = batch.target_T.clamp(min=1), torch.linspace(0, 1, len(batch.target_T))
    gradients = []
    for walks in (False, True):
        policy.zero_grad()
        state = policy.encode(batch)
        if walks:
            loss = -(weight_T * policy.log_probs(state).gather(1, item_T[:, None] - 1)[:, 0]).sum()
        else:
            loss = policy.weighted_nll(state, item_T, weight_T)
        loss.backward()
        gradients.append([torch.zeros_like(w) if w.grad is None else w.grad.clone() for w in policy.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    assert all(one.isfinite().all() for one in gradients[0])


@torch.no_grad()
def test_code_policy_ignores_future_and_padding(policy, batch):
    for column in (int(batch.column_T.min()), int(batch.column_T.max())):
        own_T, item_BL = batch.column_T <= column, batch.item_BL.clone()
        item_BL[:, column + 1 :] = 5  # later events of each row, and padding; padding alone
        other = dataclasses.replace(batch, item_BL=item_BL)
        found_TV, own_TV = (policy.log_probs(policy.encode(one))[own_T] for one in (other, batch))
        torch.testing.assert_close(found_TV, own_TV)


@torch.no_grad()
def test_code_policy_is_normalised_in_bfloat16(policy, batch):
    with torch.autocast("cpu", torch.bfloat16):
        logp_TV = policy.log_probs(policy.encode(batch))
    assert logp_TV.dtype == torch.float32
    assert (logp_TV.double().exp().sum(dim=1) - 1).abs().max() < 1e-5


def test_code_policy_states_do_not_grow_with_targets_times_history(policy, batch):
    state = policy.encode(batch)
    tensors = [state.window.keys, state.first_TD, *(x for past in state.past for x in past)]
    assert max(x.numel() for x in tensors) <= 16 * max(batch.item_BL.numel(), len(state))
    assert math.prod(state.window.keys.shape[::2]) == batch.item_BL.numel()
