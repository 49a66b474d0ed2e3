"""NDCG along a path is that of the policies asked one by one; what the points share is computed once."""

from __future__ import annotations

import copy

import pytest
import small
import torch
from compared import run_of

from recalign.evaluation import networks
from recalign.evaluation.counted_rows import log_counts
from recalign.evaluation.networks import LoadedNetworks, ValidationRanking
from recalign.evaluation.reranking import ItemScores, Rerank, interpolate
from recalign.recommender.checkpoint import load_net, read_checkpoint, recipe
from recalign.recommender.interpolation import budget_batches, ndcg_by_user

CPU = torch.device("cpu")
STRENGTHS = (0.0, 0.3, -2.0)
PARTS = (0, None)  # batches whose scores fit: none, or all


def sizes(data) -> list[int]:
    found = [len(batch.target_T) * data.num_items for batch in budget_batches(data)]
    assert len(found) > 2
    return found


@pytest.mark.parametrize("kept", PARTS)
def test_validation_ranking_equals_ndcg_of_each_policy(data, cloned, rewarded, monkeypatch, kept):
    monkeypatch.setattr(networks, "MAX_SCORES", sum(sizes(data)[:kept]))
    start, reward = load_net(cloned, "policy").net, load_net(rewarded, "reward").net
    trained = copy.deepcopy(start)
    torch.nn.init.normal_(trained.item_embedding.weight)
    ranking, loader = ValidationRanking(data, CPU), data.loader(data.windows("validation", "all"))
    for scores in (reward, ItemScores(log_counts(data.sequences))):
        policies = [Rerank(start, scores, strength) for strength in STRENGTHS]
        policies += [Rerank(interpolate(start, trained, alpha), scores, alpha) for alpha in (0.5, 1.0)]
        expected = [ndcg_by_user(policy.eval(), loader, CPU).tolist() for policy in policies]
        assert [ranking.ndcg_by_user(policy).tolist() for policy in policies] == expected
        assert len({sum(one) for one in expected}) > 2
        assert len(expected[0]) == data.sequences.num_users
    assert ranking.ndcg_by_user(start).tolist() == ndcg_by_user(start, loader, CPU).tolist()


@pytest.mark.parametrize("kept", PARTS)
def test_histories_are_read_once_where_their_scores_fit(data, cloned, rewarded, monkeypatch, kept):
    start, reward = load_net(cloned, "policy").net, load_net(rewarded, "reward").net
    monkeypatch.setattr(networks, "MAX_SCORES", sum(sizes(data)[:kept]))
    ranking, read = ValidationRanking(data, CPU), []
    for net, name in ((start, "encode"), (reward, "states")):
        original = getattr(net, name)
        monkeypatch.setattr(net, name, lambda batch, of=original, name=name: (read.append(name), of(batch))[1])
    for strength in STRENGTHS:
        ranking.ndcg_by_user(Rerank(start, reward, strength))
    batches = len(sizes(data))
    once = len(sizes(data)[:kept])
    assert read.count("encode") == read.count("states") == once + len(STRENGTHS) * (batches - once)


@torch.no_grad()
def test_the_start_without_its_memory_has_the_item_prior_that_was_best_then(data, base):
    """Of a checkpoint that has no memory it is the start itself."""
    run, checkpoint = run_of("start_without_memory"), read_checkpoint(base.start)
    policy, without = load_net(base.start, "policy").net, checkpoint["facts"]["prior"]["strength_without_memory"]
    policy.prior_strength = without + 0.5
    for memory in (None, small.with_memory(policy).memory):
        policy.remember(memory)
        weights = {f"policy.{name}": value for name, value in policy.state_dict().items()}
        torch.save(checkpoint | {"state_dict": weights, "recipes": {"policy": recipe(policy)}}, base.start)
        nets, batch = LoadedNetworks(base, data, CPU), small.batch_of(data)
        found = nets.policy(run).eval()
        assert (found is nets.start) == (memory is None)
        assert nets.start.recalls == (memory is not None)
    policy.remember(None)
    policy.prior_strength = without
    expected = policy.eval().log_probs(policy.encode(batch))
    torch.testing.assert_close(found.log_probs(found.encode(batch)), expected)
