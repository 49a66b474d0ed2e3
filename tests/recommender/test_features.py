"""Items by their features: the sum by hand, cold items in training and in lists, checkpoints, nothing without them."""

from __future__ import annotations

import copy
import math

import featured
import numpy as np
import pytest
import several
import small
import torch
import torch.distributed as dist
from featured import COLD, WARM, data_of

from recalign.data.sequences.features import FeatureCoder, ItemFeatures
from recalign.errors import InputError
from recalign.nn import LazyDecoder
from recalign.posttrain.drift import kl_and_entropy
from recalign.recommender import OneRecRecommender, Recommender
from recalign.recommender.checkpoint import build_net, load_net, recipe
from recalign.recommender.feature_table import FeatureTable
from recalign.recommender.module import estimated_log_prob
from recalign.recommender.prior import training_pass


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return featured.write(tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def data(root):
    return data_of(root)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    torch.manual_seed(0)
    module = Recommender(data.num_items, small.encoder(), temperature=0.1, lr=5e-3, prior=False)
    watch = small.fit(module, data, tmp_path_factory.mktemp("trained"), epochs=8)
    return module, watch


def by_hand(dim=3):
    """Three items, the last one cold: codes (1, 2), (0), (2) of a feature of 3 rows, and a number."""
    coder = FeatureCoder([])
    arrays = {
        "code": np.array([1, 2, 0, 2]),
        "weight": np.array([2**-0.5, 2**-0.5, 1, 1], np.float32),
        "offset": np.array([0, 2, 3, 4]),
        "number": np.array([[0.5], [0.0], [-2.0]], np.float32),
    }
    table = FeatureTable(dim, 3, sizes=[3], width=1, codes=4, warm=2, id_dropout=0.5)
    table.fill(ItemFeatures(coder, 2, **arrays))
    return table


def test_feature_table_sums_embeddings():
    table = by_hand()
    with torch.no_grad():
        table.embedding_CD.copy_(torch.tensor([[0.0, 0, 9], [1, 0, 0], [0, 2, 0]]))
        table.projection_WD.copy_(torch.tensor([[0.0, 4, 0]]))
    id_WD = torch.tensor([[0.0, 0, 0], [1, 1, 1], [3, 3, 3], [7, 7, 7]])
    root = math.sqrt(0.5)
    expected = [[0, 0, 0], [1 + root, 1 + 2 * root + 2, 1], [3, 3, 12], [0, 2 - 8, 0]]
    torch.testing.assert_close(table.eval()(id_WD), torch.tensor(expected))


def test_id_dropout_is_the_same_within_a_step():
    table, id_WD = by_hand(dim=4).train(), torch.ones(4, 4)
    torch.manual_seed(0)
    kept = []
    for _ in range(200):
        table.begin_step()
        own_VD = table(id_WD)[1:] - table.item_vectors()
        assert torch.equal(own_VD, table(id_WD)[1:] - table.item_vectors())
        kept.append(own_VD[:, 0].round())
    share_V = torch.stack(kept).mean(dim=0)
    assert share_V[2] == 0
    assert share_V[:2].tolist() == pytest.approx([0.5, 0.5], abs=0.15)
    table.end_step()
    assert torch.equal((table(id_WD)[1:] - table.item_vectors()).round()[:, 0], torch.tensor([1.0, 1, 0]))
    table.eval().begin_step()
    assert table.kept_V1 is None


def drawn() -> torch.Tensor:
    """Which ids are kept by one of several processes, whose random numbers differ."""
    dist.init_process_group("gloo")
    table = by_hand().train()
    torch.manual_seed(dist.get_rank())
    kept = []
    for _ in range(20):
        table.begin_step()
        kept.append(table.kept_V1)
    return torch.stack(kept)


@pytest.mark.slow
def test_id_dropout_is_the_same_in_all_processes():
    one, other = several.together(drawn)
    assert one.equal(other)
    assert 0 < one[:, :2].mean() < 1


def test_training_step_computes_the_table_once_with_the_same_dropped_ids(data):
    torch.manual_seed(0)
    policy = Recommender(data.num_items, small.encoder(), id_dropout=0.5).bind(data).policy.train()
    batch = small.batch_of(data, "train", rows=4)
    whole = policy.item_table()
    with training_pass(policy):
        table = policy.item_table()
        assert policy.item_table() is table
        with training_pass(policy), torch.no_grad():
            inside = policy.item_table()
        assert torch.equal(inside, table)
        assert not inside.requires_grad
        (
            policy.log_prob(policy.encode(batch), batch.target_T).sum() + policy.log_probs(policy.encode(batch)).sum()
        ).backward()
    dropped_V = (table[1:] - policy.features.item_vectors()).abs().sum(dim=1) < 1e-6
    assert 5 < dropped_V[:WARM].sum() < 31
    assert policy.item_embedding.weight.grad[1:][dropped_V].eq(0).all()
    assert torch.equal(policy.item_table(), whole)
    assert policy.item_table() is not policy.item_table()
    copy.deepcopy(policy)  # nothing of the step is left


def test_the_loss_falls_and_a_cold_item_is_ranked_by_its_features(data, trained):
    module, watch = trained
    assert watch.steps[-1]["train/loss"] < watch.steps[0]["train/loss"] - 0.1
    batch, policy = small.batch_of(data), module.policy.eval()
    with torch.no_grad():
        state = policy.encode(batch)
        logp_TV = policy.log_probs(state)
    assert logp_TV.exp().sum(dim=1).tolist() == pytest.approx([1.0] * len(logp_TV), abs=1e-4)
    odd_T, new_TV = batch.target_T % 2 == 1, logp_TV[:, WARM:]  # of a half that the user likes
    own_T = torch.where(odd_T, new_TV[:, ::2].mean(dim=1), new_TV[:, 1::2].mean(dim=1))
    other_T = torch.where(odd_T, new_TV[:, 1::2].mean(dim=1), new_TV[:, ::2].mean(dim=1))
    assert (own_T > other_T).float().mean() > 0.8  # a coin: 0.5


def test_training_leaves_cold_items_out_of_the_softmax(data, trained):
    policy = trained[0].policy.eval()
    batch = small.batch_of(data, "train", rows=4)
    with torch.no_grad():
        state = policy.encode(batch)
        whole_TV = policy.log_probs(state)
        with training_pass(policy):
            logp_TV, one_T = policy.log_probs(state), policy.log_prob(state, batch.target_T)
            few_TC = policy.log_probs(state, batch.target_T[:, None])
            assert policy.sample(state, 50).max() <= WARM
            assert policy.top_k(state, WARM)[1].max() <= WARM
            kl_T, _ = kl_and_entropy(logp_TV, logp_TV)
        assert policy.top_k(state, WARM + COLD)[1].max() == WARM + COLD
    warm_TV = whole_TV[:, :WARM].log_softmax(dim=1)
    torch.testing.assert_close(logp_TV[:, :WARM], warm_TV, atol=1e-5, rtol=0)
    assert logp_TV[:, WARM:].exp().eq(0).all()
    for found_T in (one_T, few_TC[:, 0]):
        torch.testing.assert_close(found_T, warm_TV.gather(1, batch.target_T[:, None] - 1)[:, 0], atol=1e-5, rtol=0)
    assert kl_T.abs().max() < 1e-5


def test_cold_items_get_no_gradient_of_their_own(data):
    torch.manual_seed(0)
    module = Recommender(data.num_items, small.encoder(), temperature=0.1, negatives=None).bind(data)
    batch = small.batch_of(data, "train", rows=4)
    with training_pass(module.policy):
        module.loss(batch).backward()
    gradient = module.policy.item_embedding.weight.grad
    assert gradient[WARM + 1 :].eq(0).all()
    assert gradient[1 : WARM + 1].ne(0).any()
    assert module.policy.features.embedding_CD.grad.ne(0).any()


def test_set_counts_gives_cold_items_the_mean_count(data):
    policy = Recommender(data.num_items, small.encoder()).bind(data).policy
    count_V = torch.from_numpy(data.sequences.item_counts())
    policy.set_counts(count_V)
    expected = math.log(count_V[:WARM].double().mean() + 0.5) - math.log(count_V.max() + 0.5)
    assert policy.prior.log_count_V[WARM:].tolist() == pytest.approx([expected] * COLD)


def test_checkpoint_with_features_needs_no_item_table(data, trained, tmp_path):
    module = trained[0]
    loaded = load_net(small.saved(module, tmp_path / "policy.ckpt"), "policy").net.eval()
    batch, policy = small.batch_of(data), module.policy.eval()
    with torch.no_grad():
        assert torch.equal(loaded.log_probs(loaded.encode(batch)), policy.log_probs(policy.encode(batch)))
    assert loaded.num_warm == WARM
    again = Recommender(data.num_items, small.encoder(), init_from=str(tmp_path / "policy.ckpt")).bind(data)
    assert torch.equal(again.policy.features.embedding_CD, policy.features.embedding_CD)
    assert build_net(recipe(policy)).features.embedding_CD.shape == policy.features.embedding_CD.shape


def test_trunk_without_features_has_the_vectors_of_all_items(data, trained):
    policy, batch = trained[0].policy.eval(), small.batch_of(data)
    with torch.no_grad():
        trunk = policy.trunk().eval()
        assert trunk.features is None
        torch.testing.assert_close(trunk.log_probs(trunk.encode(batch)), policy.log_probs(policy.encode(batch)))


def test_set_features_refuses_other_features(root, data, trained):
    with pytest.raises(InputError, match="made for other item features"):
        trained[0].bind(data_of(root, {"half": "half"}))


def test_onerec_refuses_features(data):
    module = OneRecRecommender(data.num_items, sizes=[8, 8], decoder=LazyDecoder(16, layers=1, max_length=32))
    with pytest.raises(InputError, match="reads the codes of items, not their features"):
        module.bind(data)


def test_sampled_negatives_stand_for_warm_items(data, trained, monkeypatch):
    """Each of them drawn once gives the softmax over them."""
    policy, batch = trained[0].policy.eval(), small.batch_of(data, "train", rows=4)
    monkeypatch.setattr(torch, "randint", lambda low, high, size, device: torch.arange(low, high))
    with torch.no_grad(), training_pass(policy):
        state = policy.encode(batch)
        sampled_T = estimated_log_prob(policy, state, batch.target_T, WARM)
        torch.testing.assert_close(sampled_T, policy.log_prob(state, batch.target_T), atol=1e-4, rtol=1e-4)
