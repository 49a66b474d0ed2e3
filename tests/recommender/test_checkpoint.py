"""What a checkpoint hands over, and what it refuses to."""

from __future__ import annotations

import sys

import pytest
import small
import torch

from recalign.errors import InputError, TrainingError
from recalign.nn import HSTU, LazyDecoder, Pooled, SASRec
from recalign.posttrain import PostTrainingData, WeightedSFT
from recalign.recommender import CodePolicy, Recommender, RecommenderData, SequencePolicy
from recalign.recommender.checkpoint import (
    build_net,
    check_catalogue,
    load_net,
    load_weights,
    read_checkpoint,
    recipe,
    write_checkpoint,
)
from recalign.reward import RewardData, RewardEnsemble, RewardModel

ENCODERS = [
    HSTU(dim=8, layers=1, heads=2, max_length=16, dropout=0.1, time_bias=False),
    SASRec(dim=8, layers=2, heads=2, max_length=16, dropout=0.1),
    Pooled(dim=8, max_length=16),
]


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize(
    "make",
    [
        lambda e: SequencePolicy(e, 20, temperature=0.2, feedback=True),
        lambda e: RewardEnsemble(e, 20, members=2),
        lambda e: CodePolicy(LazyDecoder(8, max_length=16), 20, [4, 5]),
    ],
    ids=["policy", "reward", "codes"],
)
def test_recipe_rebuilds_the_same_network(encoder, make, tmp_path):
    net = make(encoder)
    torch.save(recipe(net), tmp_path / "recipe")  # plain values: weights_only reads them
    again = build_net(torch.load(tmp_path / "recipe", weights_only=True))
    assert type(again) is type(net)
    assert recipe(again) == recipe(net)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in net.state_dict().items()}
    load_weights(again, net.state_dict(), where="here")
    assert all(v.equal(net.state_dict()[k]) for k, v in again.state_dict().items())


@pytest.mark.parametrize("part", ["state_dict", "current_model_state"])
def test_write_checkpoint_refuses_weights_that_are_not_finite(tmp_path, part):
    good = {"state_dict": {"bias": torch.zeros(2)}, "current_model_state": {"bias": torch.ones(2)}, "epoch": 1}
    write_checkpoint(good, tmp_path / "it.ckpt")
    with pytest.raises(TrainingError, match=r"NaN or infinite: bias; it\.ckpt is not written"):
        write_checkpoint({**good, part: {"bias": torch.tensor([0.0, torch.nan])}}, tmp_path / "it.ckpt")
    assert read_checkpoint(tmp_path / "it.ckpt")["epoch"] == 1


def test_build_net_refuses_classes_that_are_no_networks(tmp_path):
    harmful = {"class_path": "os.system", "init_args": {"command": f"touch {tmp_path}/harm"}}
    torch.save({"state_dict": {}, "recipes": {"policy": harmful}}, tmp_path / "harmful.ckpt")
    with pytest.raises(InputError, match="cannot be built"):
        load_net(tmp_path / "harmful.ckpt", "policy")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("module", ["harmful_module", "recalign.__main__", "antigravity"])
def test_build_net_refuses_modules_that_are_not_imported(module, tmp_path, monkeypatch):
    (tmp_path / "harmful_module.py").write_text("class Net: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    recipes = {"policy": {"class_path": f"{module}.Net", "init_args": {}}}
    torch.save({"state_dict": {}, "recipes": recipes}, tmp_path / "it.ckpt")
    with pytest.raises(InputError, match=f"(?s){module} is not imported.*run.imports"):
        load_net(tmp_path / "it.ckpt", "policy")
    assert module not in sys.modules


def test_checkpoint_of_a_policy_given_in_python_loads_with_weights_only(log_root, tmp_path):
    data = small.data_of(PostTrainingData, log_root)
    module = small.free(WeightedSFT, policy=small.coded(data.num_items))
    small.fit(module, data, tmp_path)
    path = small.saved(module, tmp_path / "tokens.ckpt")
    assert read_checkpoint(path)["hyper_parameters"]["_class_path"] == "recalign.posttrain.WeightedSFT"
    assert isinstance(load_net(path, "policy").net, CodePolicy)


def test_load_net_names_the_networks_of_a_checkpoint(cloned, rewarded):
    for path, absent, held in ((cloned, "reward", "policy"), (rewarded, "policy", "reward")):
        with pytest.raises(InputError, match=f"holds no {absent} .it holds: {held}"):
            load_net(path, absent)
    assert isinstance(load_net(rewarded, "reward").net, RewardEnsemble)


def test_read_checkpoint_refuses_damaged_missing_and_foreign_files(cloned, tmp_path):
    whole = cloned.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 100):
        (tmp_path / "cut.ckpt").write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"cut\.ckpt: this is not a usable checkpoint"):
            load_net(tmp_path / "cut.ckpt", "policy")
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    torch.save([1, 2], tmp_path / "list.ckpt")
    torch.save({"some": "thing"}, tmp_path / "dict.ckpt")
    torch.save({"state_dict": {}, "object": small.pooled()}, tmp_path / "pickled.ckpt")
    for name in ("text", "list", "dict", "pickled"):
        with pytest.raises(InputError, match=rf"{name}\.ckpt: this is not a usable checkpoint"):
            read_checkpoint(tmp_path / f"{name}.ckpt")
    with pytest.raises(InputError, match="there is no such checkpoint"):
        load_net(tmp_path / "none.ckpt", "policy")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match="no network of recalign"):
        load_net(tmp_path / "other.ckpt", "policy")


def test_load_weights_refuses_other_shapes_by_name():
    net, other = SequencePolicy(small.pooled(), 20), SequencePolicy(small.pooled(), 21)
    for partial in (False, True):
        with pytest.raises(InputError, match=r"item_embedding.weight: .*22, 8.*21, 8"):
            load_weights(net, other.state_dict(), where="a checkpoint", partial=partial)


def test_load_weights_refuses_or_reports_missing_and_unexpected_names(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr("recalign.recommender.checkpoint.rank_zero_info", said.append)
    net, other = SequencePolicy(small.pooled(), 20, feedback=True), SequencePolicy(small.pooled(), 20)
    weights = other.state_dict() | {"left.over": torch.zeros(1)}
    with pytest.raises(
        InputError, match=r"its weights do not fit; missing: \['past_rewards.*scale'\], unexpected: \['left.over'\]"
    ):
        load_weights(net, weights, where="a checkpoint")
    load_weights(net, weights, where="a checkpoint", partial=True)
    assert net.item_embedding.weight.equal(other.item_embedding.weight)
    assert "past_rewards.project.weight" in said[0]
    assert "left.over" in said[0]
    load_weights(net, net.state_dict(), where="a checkpoint", partial=True)
    load_weights(net, other.state_dict(), where="a checkpoint", partial=True, new=("past_rewards.",))
    assert len(said) == 1  # nothing to report


def test_load_or_copy_refuses_two_starts_and_other_networks(cloned, rewarded):
    policy = load_net(cloned, "policy")
    with pytest.raises(InputError, match=r"model\.init_from: a checkpoint and a policy are both given"):
        WeightedSFT(init_from=str(cloned), policy=policy)
    for wrong in (load_net(rewarded, "reward"), str(cloned)):
        with pytest.raises(InputError, match=r"policy: .* is not a policy network"):
            WeightedSFT(policy=wrong)


def test_loaded_check_refuses_another_catalogue(log_root, cloned, rewarded, tmp_path):
    check_catalogue(None, "anything", "a checkpoint")  # of a version that noted none
    text = (log_root / "tastes.csv").read_text().splitlines()
    head, rows = text[0], [row.split(",") for row in text[1:]]
    shifted = [",".join([user, str(int(item) + 1), *rest]) for user, item, *rest in rows]
    (tmp_path / "tastes.csv").write_text("\n".join([head, *shifted]))
    settings = {"name": "tastes"}
    cases = [
        (Recommender(40, small.encoder(), init_from=str(cloned)), RecommenderData, {}),
        (RewardModel(40, init_from=str(cloned)), RewardData, {}),
        (small.free(WeightedSFT, init_from=str(cloned)), PostTrainingData, {}),
        (small.free(WeightedSFT, policy=small.coded(40)), PostTrainingData, {"source": "predicted"}),
    ]
    for module, kind, more in cases:
        more = more and {**more, "reward_model": str(rewarded)}
        data = small.data_of(kind, tmp_path, **settings, **more)
        assert data.num_items == 40
        with pytest.raises(InputError, match="another catalogue"):
            small.fit(module, data, tmp_path)


def test_hand_over_equals_the_loaded_checkpoint(log_root, tmp_path):
    data = small.data_of(RewardData, log_root, "tastes")
    module = RewardModel(data.num_items, encoder=small.encoder())
    small.fit(module, data, tmp_path)
    given = module.hand_over("reward")
    loaded = load_net(small.saved(module, tmp_path / "it.ckpt"), "reward", self_influence=True)
    assert given.net is module.reward
    assert (given.catalogue, given.facts, given.users) == (loaded.catalogue, loaded.facts, loaded.users)
    assert given.self_influence.equal(loaded.self_influence)


def test_recommender_copies_its_encoder(log_root, tmp_path):
    encoder, data = small.encoder(), small.data_of(RecommenderData, log_root)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    first, second = (Recommender(data.num_items, encoder) for _ in range(2))
    small.fit(first, data, tmp_path)
    assert all(v.equal(before[k]) for net in (encoder, second.policy.encoder) for k, v in net.state_dict().items())
    assert type(Recommender(40).policy.encoder) is HSTU
