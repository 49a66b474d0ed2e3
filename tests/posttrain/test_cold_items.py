"""Post-training from a policy that knows items by their features: cold items are neither drawn nor pushed down."""

from __future__ import annotations

import featured
import pytest
import small
import torch
from featured import COLD, WARM
from taste import Taste

from recalign.posttrain import GRPO, PairData, PostTrainingData, Preferences, WeightedSFT
from recalign.recommender import Recommender
from recalign.recommender.checkpoint import load_net
from recalign.reward import RewardData, RewardModel


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return featured.write(tmp_path_factory.mktemp("cold"))


@pytest.fixture(scope="module")
def start(root, tmp_path_factory):
    folder, data = tmp_path_factory.mktemp("start"), featured.data_of(root)
    torch.manual_seed(0)
    module = Recommender(data.num_items, small.encoder(), temperature=0.1, lr=5e-3)
    small.fit(module, data, folder, epochs=4)
    return small.saved(module, folder / "policy.ckpt")


@pytest.mark.parametrize("pairs", ["sampled", "generated"])
def test_pairs_are_drawn_from_items_in_training(root, start, pairs):
    data = featured.data_of(root, kind=PairData, users="A", pairs=pairs, init_from=str(start))
    assert 0 < data.training().rejected.max() <= WARM


@pytest.mark.parametrize("method", ["asft", "dpo", "grpo"])
def test_methods_train_the_features_and_leave_cold_ids_alone(root, start, tmp_path, method):
    kind = {"asft": PostTrainingData, "dpo": PairData, "grpo": RewardData}[method]
    data = featured.data_of(root, kind=kind, users="A")
    given = {"init_from": str(start), "lr": 1e-3}
    if method == "asft":
        module = small.free(WeightedSFT, **given)
    elif method == "dpo":
        module = small.free(Preferences, **given)
    else:
        taste = Taste([item % 2 for item in range(1, WARM + COLD + 1)])
        module = small.free(GRPO, reward_net=taste, **given)
    before = {name: weight.clone() for name, weight in module.policy.state_dict().items()}
    watch = small.fit(module, data, tmp_path, epochs=1)
    after = module.policy.state_dict()
    assert all(torch.isfinite(torch.tensor([*step.values()])).all() for step in watch.steps)
    assert watch.steps[0]["policy/kl"] == pytest.approx(0, abs=1e-5)  # over all items, cold ones too
    assert not torch.equal(after["features.embedding_CD"], before["features.embedding_CD"])
    assert torch.equal(after["item_embedding.weight"][WARM + 1 :], before["item_embedding.weight"][WARM + 1 :])
    assert torch.equal(after["features.code_N"], before["features.code_N"])


def test_reward_model_scores_cold_items_from_their_vectors(root, start, tmp_path):
    data = featured.data_of(root, kind=RewardData, users="A")
    torch.manual_seed(0)
    module = RewardModel(data.num_items, init_from=str(start), members=1, num_factors=2, cooccurrence_dim=2)
    policy = load_net(start, "policy").net.eval()
    with torch.no_grad():
        table = module.reward.nets[0].trunk.item_embedding.weight
        torch.testing.assert_close(table[1:], policy.item_table()[1:])
    watch = small.fit(module, data, tmp_path, epochs=1)
    assert all(torch.isfinite(torch.tensor([*step.values()])).all() for step in watch.steps)
    batch = small.batch_of(data, "test", rows=4)
    with torch.no_grad():
        predicted_TV = module.reward.eval().predict(module.reward.states(batch))
    assert predicted_TV.shape[1] == WARM + COLD
    assert predicted_TV.isfinite().all()
