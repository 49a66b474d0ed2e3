"""Reward models and judges in training, and what they say of themselves."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict

import numpy as np
import polars as pl
import pytest
import small
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from recalign.data.sequences import LeaveLast, correlation_within_users, permuted_rewards
from recalign.errors import InputError
from recalign.nn import HSTU, LazyDecoder
from recalign.recommender import CodePolicy
from recalign.recommender.checkpoint import load_net, read_checkpoint
from recalign.reward import Judge, OrdinalHead, PermutedRewardData, RewardData, RewardModel
from recalign.reward.placebo import as_placebo


def data_with(root, rewards, **settings) -> RewardData:
    """The small log with its rewards changed: a Polars expression."""
    frame = pl.read_csv(root / "small.csv")
    frame.with_columns(rewards.alias("rating")).write_csv(root / "small.csv")
    return small.data_of(RewardData, root, **settings)


@pytest.fixture
def own_root(log_root, tmp_path):
    (tmp_path / "small.csv").write_text((log_root / "small.csv").read_text())
    return tmp_path


def test_trained_reward_model_beats_every_average(rewarded):
    figures = json.loads((rewarded.parent / "trust.json").read_text())["validation"]
    assert figures["rmse"] < 0.95 * min(v for k, v in figures.items() if k.startswith("rmse_"))


def untrained_error(module: RewardModel, data: RewardData) -> torch.Tensor:
    """Of the first training batch, in standard deviations; the module is calibrated on the way, as set-up does."""
    module.bind(data).setup("fit")
    batch = small.batch_of(data, "train")
    with torch.no_grad():
        states = module.reward.eval().states(batch)
        predicted_T = module.reward.predict(states, batch.target_T)
        own_T = module.reward.nets[0].self_influence(states, module.self_influence_EF[batch.event_T])[0]
    module.train()
    return (batch.reward_T - predicted_T) / data.reward_moments().sd + own_T


def test_reward_loss_is_the_squared_error_in_standard_deviations(log_root, tmp_path):
    data = small.data_of(RewardData, log_root)
    torch.manual_seed(0)
    module = RewardModel(data.num_items, encoder=small.encoder(), members=1)
    error_T = untrained_error(module, data)
    watch = small.fit(module, data, tmp_path, limit_train_batches=1)
    assert watch.steps[0]["train/loss"] == pytest.approx(float(error_T.square().mean()), rel=1e-4)


def test_frozen_trunk_is_not_trained(log_root, cloned, tmp_path):
    data = small.data_of(RewardData, log_root, "tastes")
    start = dict(load_net(cloned, "policy").net.named_parameters())
    trunks = {}
    for trunk in ("frozen", "tuned"):
        module = RewardModel(data.num_items, init_from=str(cloned), members=1, trunk=trunk)
        small.fit(module, data, tmp_path)
        net = module.reward.nets[0].trunk
        trunks[trunk] = {k: v for k, v in net.named_parameters() if k in start}
    assert all(weight.equal(start[name]) for name, weight in trunks["frozen"].items())
    assert not trunks["tuned"]["item_embedding.weight"].equal(start["item_embedding.weight"])


def test_placebo_trains_on_permuted_and_validates_on_true_rewards(log_root):
    real, sham = (small.data_of(kind, log_root, "tastes") for kind in (RewardData, PermutedRewardData))
    event, user = real.rated_events["event"].to_numpy(), real.rated_events["user"].to_numpy()
    expected = permuted_rewards(real.rated_events["reward"].to_numpy(), user, sham.seed)
    np.testing.assert_array_equal(sham.rated_events["reward"].to_numpy(), expected)  # for factors and item means
    placebo_V, sham_V, real_V = (data.reward_moments().item_mean_V for data in (as_placebo(real), sham, real))
    assert placebo_V.tolist() == sham_V.tolist() != real_V.tolist()
    batch, other = (small.batch_of(data, "train") for data in (sham, real))
    of_event = dict(zip(event.tolist(), expected.tolist(), strict=True))
    assert batch.reward_T.tolist() == pytest.approx([of_event[e] for e in batch.event_T.tolist()])
    assert batch.reward_BL.nan_to_num().equal(other.reward_BL.nan_to_num())  # histories are as they will be at serving
    for part in ("validation", "test"):
        np.testing.assert_array_equal(sham.windows(part).reward, real.windows(part).reward)
    rows = sham.target_events["split"].to_numpy() > 0
    assert sham.target_events.filter(rows)["reward"].to_list() == real.target_events.filter(rows)["reward"].to_list()
    left = correlation_within_users(real.rated_events["reward"].to_numpy(), expected, user)
    assert (real.facts(), sham.facts()) == ({}, {"placebo/correlation": left})
    assert abs(left) < 0.1


class SaysTwice(Callback):
    """Whether the heads and the trunk train, and whether the trunk says the same twice, before each step."""

    def __init__(self) -> None:
        self.heard: set[tuple[bool, bool, bool]] = set()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        net = pl_module.reward.nets[0]
        same = net.trunk.encode(batch).equal(net.trunk.encode(batch))
        self.heard.add((net.training, net.trunk.encoder.training, same))


@pytest.mark.parametrize(("trunk", "heard"), [("frozen", (True, False, True)), ("tuned", (True, True, False))])
def test_frozen_trunk_has_no_dropout(log_root, cloned, tmp_path, trunk, heard):
    data = small.data_of(RewardData, log_root, "tastes")
    module = RewardModel(
        data.num_items, init_from=str(cloned), members=1, encoder=small.encoder(dropout=0.5), trunk=trunk
    )
    says = SaysTwice()
    small.trainer_of(tmp_path, 2, says, num_sanity_val_steps=1).fit(module, data)
    assert says.heard == {heard}
    module.eval().train()  # as a tuner or a user would
    assert module.reward.nets[0].trunk.training == (trunk == "tuned")


def test_validation_leaves_out_unknown_items(own_root, tmp_path):
    frame = pl.read_csv(own_root / "small.csv")
    step = (pl.col("timestamp") - 1000 - (pl.col("user") - 1)) // 60
    cold = (step == 15) & (pl.col("user") % 2 == 0)
    frame.with_columns(pl.when(cold).then(99).otherwise("item").alias("item")).write_csv(own_root / "small.csv")
    data = small.data_of(RewardData, own_root)
    module = RewardModel(data.num_items, encoder=small.encoder(), members=1)
    small.fit(module, data, own_root)
    windows = data.windows("validation")
    assert (windows.target == 0).sum() > 0
    assert module.trust_report["validation"]["events"] == (windows.target > 0).sum()


def test_reward_model_refuses_a_trunk_of_another_catalogue(log_root, cloned, tmp_path):
    data = small.data_of(RewardData, log_root, "tastes", split=LeaveLast(test=2, validation=2))
    with pytest.raises(InputError, match="another catalogue"):
        small.fit(RewardModel(data.num_items, init_from=str(cloned)), data, tmp_path)


@pytest.mark.parametrize("group", ["all", "A"])
def test_judge_refuses_users_of_the_policies(log_root, tmp_path, group):
    data = small.data_of(RewardData, log_root, users=group)
    with pytest.raises(InputError, match=f"a judge on users {group}"):
        small.fit(Judge(data.num_items, small.pooled()), data, tmp_path)


@pytest.mark.parametrize("given", ["policy", "encoder"])
def test_networks_that_are_handed_in_are_copied(log_root, cloned, tmp_path, given):
    data = small.data_of(RewardData, log_root, "tastes")
    network = load_net(cloned, "policy").net if given == "policy" else small.encoder()
    head, before = OrdinalHead(), copy.deepcopy(network.state_dict())
    module = RewardModel(data.num_items, members=1, head=head, **{given: network})
    trunk = module.reward.nets[0].trunk
    start = {k: v for k, v in (trunk if given == "policy" else trunk.encoder).named_parameters() if k in before}
    assert all(weight.equal(before[name]) for name, weight in start.items())  # it starts from them,
    small.fit(module, data, tmp_path)
    assert all(weight.equal(before[name]) for name, weight in network.state_dict().items())  # and leaves them alone
    assert len(head.level_J1) == 2


def test_reward_model_from_a_code_policy_takes_its_item_table_and_freezes_nothing(log_root, tmp_path):
    data = small.data_of(RewardData, log_root, "tastes")
    start = CodePolicy(LazyDecoder(16, max_length=64), data.num_items, [8, 8])
    with pytest.warns(UserWarning, match="a new HSTU is trained instead"):
        module = RewardModel(data.num_items, policy=start, members=2, trunk="frozen")
    trunk = module.reward.nets[0].trunk
    assert trunk.item_embedding.weight.equal(start.item_embedding.weight)
    assert (type(trunk.encoder), trunk.encoder.dim) == (HSTU, 16)
    assert trunk.encoder.training
    assert all(w.requires_grad for w in trunk.encoder.parameters())
    small.fit(module, data, tmp_path, limit_train_batches=1)


@pytest.mark.parametrize(
    ("rewards", "said"),
    [(pl.lit(3), "all rewards are 3"), (pl.lit(None, pl.Int64), "no event has a reward")],
    ids=["constant", "none"],
)
def test_require_rewards_refuses_equal_and_missing_rewards(own_root, rewards, said):
    test_part = pl.col("timestamp") > 1000 + 60 * 15 + 30  # the events of validation and test keep theirs
    data = data_with(own_root, pl.when(test_part).then(pl.col("rating")).otherwise(rewards))
    for ask in (data.training, data.reward_moments):
        with pytest.raises(InputError, match=f"{said}.* in the training split of users A"):
            ask()


def test_require_rated_refuses_a_split_without_rewards(own_root, tmp_path):
    data = data_with(own_root, pl.when(pl.col("timestamp") < 1000 + 60 * 14).then(pl.col("rating")))
    with pytest.raises(InputError, match="no event of the validation split of users A has a reward"):
        small.fit(RewardModel(data.num_items, encoder=small.encoder(), members=1), data, tmp_path)


def test_reward_moments_use_training_events_of_the_group(log_root):
    data = small.data_of(RewardData, log_root)
    frame = data.sequences.frame
    frame = frame.with_columns(pl.Series("group", data.sequences.group).gather(frame["user"]))
    rated = frame.filter((pl.col("group") == "A") & (pl.col("split") == 0))
    mean, scale, item_mean_V = data.reward_moments()
    assert mean == pytest.approx(rated["reward"].mean())
    assert scale == pytest.approx(rated["reward"].std())
    of_item = rated.filter(pl.col("item_id") == 7)["reward"]
    assert item_mean_V[6] == pytest.approx((of_item.sum() + 5 * mean) / (len(of_item) + 5))


class Users(Callback):
    """Who is in the batches."""

    def __init__(self) -> None:
        self.met: set[int] = set()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.met |= set(batch.user_B.tolist())

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        self.met |= set(batch.user_B.tolist())


@pytest.mark.parametrize("group", ["B1", "B2"])
def test_judge_trains_only_on_its_users(log_root, tmp_path, group):
    data = small.data_of(RewardData, log_root, "tastes", users=group)
    module, users = Judge(data.num_items, small.pooled()), Users()
    trainer = small.trainer_of(tmp_path, 1, users)
    trainer.fit(module, data)
    groups = data.sequences.group
    assert {groups[u] for u in users.met} == {group}
    assert len(users.met) == (groups == group).sum() > 5
    assert module.reward.members == 3
    # nor do other users' rewards reach it by way of the averages that it starts from
    frame = data.rated_events.select(pl.Series(groups).gather(data.rated_events["user"]).alias("group"))
    assert frame["group"].unique().to_list() == [group]


# -- trust.json


def test_trust_report_is_written_after_fit_and_completed_by_test(log_root, tmp_path, monkeypatch):
    data = small.data_of(RewardData, log_root)
    module = RewardModel(data.num_items, encoder=small.encoder(), members=1, lr=1e-2)
    best = ModelCheckpoint(tmp_path, "best", monitor="reward/rmse", mode="min")
    trainer = small.trainer_of(tmp_path, 5, best, enable_checkpointing=True, num_sanity_val_steps=2)
    trainer.fit(module, data)
    written = json.loads((tmp_path / "trust.json").read_text())
    assert {"verdict", "implication", "judged_on", "reliability", "validation"} <= set(written)
    assert "test" not in written
    assert written["validation"]["rmse"] == pytest.approx(float(best.best_model_score))  # not the last epoch's
    facts = read_checkpoint(best.best_model_path)["facts"]
    assert written["reliability"] == pytest.approx(facts["reliability"])
    assert "users" not in facts  # the checkpoint says it, of every stage alike
    assert written["users"] == read_checkpoint(best.best_model_path)["users"] == asdict(data.cohort)
    again = RewardModel(data.num_items, encoder=small.encoder(), members=1)
    monkeypatch.setattr(RewardModel, "initialise", None)  # a test takes the checkpoint's factors
    tester = small.trainer_of(tmp_path)
    figures = tester.test(again, data, ckpt_path=best.best_model_path, verbose=False, weights_only=True)[0]
    completed = json.loads((tmp_path / "trust.json").read_text())
    assert completed["judged_on"] == "validation"
    assert completed["validation"]["rmse"] == pytest.approx(written["validation"]["rmse"], rel=1e-5)
    assert completed["verdict"] == written["verdict"]  # validation's: the test decides nothing
    assert completed["test"]["rmse"] == pytest.approx(figures["reward/test/rmse"])
    assert completed["test"]["events"] == len(data.windows("test").target)
    assert again.trust_report == completed


def test_trust_report_measures_the_saved_weights(log_root, tmp_path):
    data = small.data_of(RewardData, log_root)
    module = RewardModel(data.num_items, encoder=small.encoder(), members=1)
    small.fit(module, data, tmp_path, epochs=3, check_val_every_n_epoch=2)  # the last epoch is not validated
    assert "reliability" not in module.facts()
    small.fit(module, data, tmp_path, epochs=2, check_val_every_n_epoch=2)
    assert "reliability" in module.facts()


def test_hand_over_of_a_loaded_reward_model_has_self_influence(log_root, cloned, rewarded, tmp_path):
    data = small.data_of(RewardData, log_root, "tastes")
    module = RewardModel(data.num_items, init_from=str(cloned), members=1)
    small.trainer_of(tmp_path, 1, small.Watch()).test(module, data, ckpt_path=str(rewarded))
    expected = torch.load(rewarded, weights_only=True)["self_influence"]
    torch.testing.assert_close(module.hand_over("reward").self_influence.cpu(), expected)
