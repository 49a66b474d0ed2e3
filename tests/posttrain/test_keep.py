"""What is handed over keeps its share of the start's ranking; training knows nothing of it.

The log is one whose next items can be foretold, so that there is a ranking to lose.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import small
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.trainer.states import TrainerFn

from recalign.errors import InputError, TrainingError
from recalign.nn.layers import Dropout
from recalign.posttrain import PostTrainingData, WeightedSFT
from recalign.posttrain.base import KEEP
from recalign.posttrain.keep import KeepRanking
from recalign.recommender import PolynomialAveraging, Recommender, RecommenderData, SequencePolicy
from recalign.recommender.checkpoint import load_net
from recalign.recommender.interpolation import ALPHAS, Retention, budget_batches, ndcg_by_user
from recalign.run.stage.callbacks import RunCheckpoint

FAR = 0.03  # a rate that leads far from the start


@pytest.fixture(scope="module")
def walks(tmp_path_factory):
    """A data root: everybody walks through the catalogue, each from another item."""
    root, users, items, events = tmp_path_factory.mktemp("walks"), 120, 40, 20
    rows = [(u, (7 * u + t) % items, 1 + (u * t) % 5, 1000 + t) for u in range(users) for t in range(events)]
    pl.DataFrame(rows, schema=["user", "item", "rating", "timestamp"], orient="row").write_csv(root / "walks.csv")
    return root


@pytest.fixture(scope="module")
def cloned(walks, tmp_path_factory):
    """The checkpoint of a policy that knows the walk."""
    data, folder = small.data_of(RecommenderData, walks, "walks", users="all"), tmp_path_factory.mktemp("start")
    torch.manual_seed(0)
    module = Recommender(data.num_items, small.encoder(), temperature=0.1, lr=2e-2)
    small.fit(module, data, folder, epochs=16)
    return small.saved(module, folder / "start.ckpt")


class Last(Callback):
    """Keeps the policy's weights after each step, and after each epoch's last."""

    def __init__(self):
        self.steps, self.reaches = [], []

    def on_train_batch_end(self, trainer, module, *_):
        self.steps.append([p.detach().clone() for p in module.policy.parameters()])

    def on_validation_end(self, trainer, module):
        self.reaches.append(trainer.callback_metrics.get("policy/alpha"))


class Unlearning(WeightedSFT):
    """Loses its ranking on any machine: what was chosen becomes the least likely."""

    def training_step(self, batch, batch_idx):
        return -super().training_step(batch, batch_idx)


def trained(walks, cloned, folder, keep, kind=Unlearning, lr=FAR, epochs=2, callbacks=(), dropout=0.0, **settings):
    data = small.data_of(PostTrainingData, walks, "walks")
    torch.manual_seed(0)
    module, last = small.free(kind, init_from=str(cloned), lr=lr, keep=keep), Last()
    for part in module.policy.modules():
        if isinstance(part, Dropout):
            part.p = dropout
    small.trainer_of(folder, epochs, last, *callbacks, **settings).fit(module, data)
    return module, last, data


def kept(policy, start, data):
    figures = (ndcg_by_user(p.eval(), budget_batches(data), torch.device("cpu")) for p in (policy, start))
    return Retention.measure(*figures)


def test_keep_ranking_interpolates_a_policy_that_lost_its_ranking(walks, cloned, tmp_path):
    module, last, data = trained(walks, cloned, tmp_path, keep=KEEP)
    start = load_net(cloned, "policy").net
    alpha = module.trainer.callback_metrics["policy/alpha"].item()
    assert 0 < alpha < 1
    for now, first, end in zip(module.policy.parameters(), start.parameters(), last.steps[-1], strict=True):
        torch.testing.assert_close(now, torch.lerp(first, end, alpha))
    found, said = kept(module.policy, start, data), module.trainer.callback_metrics
    assert found.enough(KEEP)
    assert found.error > 0
    assert said["policy/ndcg_retained"].item() == pytest.approx(found.share, abs=1e-6)
    assert said["policy/ndcg_retained_se"].item() == pytest.approx(found.error, abs=1e-6)
    handed_over = load_net(small.saved(module, tmp_path / "last.ckpt"), "policy")
    assert kept(handed_over.net, start, data) == found
    assert handed_over.facts["reach"] == pytest.approx(alpha)


def test_training_is_left_as_it_is(walks, cloned, tmp_path):
    free, plain, data = trained(walks, cloned, tmp_path, keep=None, dropout=0.3)
    _, held, _ = trained(walks, cloned, tmp_path, keep=KEEP, dropout=0.3)
    assert len(plain.steps) == len(held.steps) > 2
    for a, b in zip(plain.steps, held.steps, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(a, b, strict=True))
    assert kept(free.policy, load_net(cloned, "policy").net, data).share < KEEP  # or the others would prove nothing
    assert [found is None for found in held.reaches] == [True, False]  # nothing but the last epoch is handed over


def test_keep_ranking_searches_every_epoch_if_training_may_stop(walks, cloned, tmp_path):
    stop = EarlyStopping("val/loss", strict=False)
    _, last, _ = trained(walks, cloned, tmp_path, keep=KEEP, callbacks=[stop])
    assert None not in last.reaches
    assert len(last.reaches) == 2


@pytest.mark.parametrize("end", [{"epochs": 2}, {"epochs": 9, "max_steps": 6}])
def test_keep_ranking_resuming_a_finished_run_keeps_its_weights(walks, cloned, tmp_path, end):
    """Lightning trains nothing then, and so does not say that training ends."""
    own = {"keep": KEEP, "callbacks": [best := RunCheckpoint()], "enable_checkpointing": True, **end}
    best.dirpath = str(tmp_path)
    module, _, data = trained(walks, cloned, tmp_path, **own)
    again, best = small.free(Unlearning, init_from=str(cloned), lr=FAR, keep=KEEP), RunCheckpoint()
    best.dirpath = str(tmp_path)
    own = {key: value for key, value in end.items() if key != "epochs"}
    trainer = small.trainer_of(tmp_path, end["epochs"], best, enable_checkpointing=True, **own)
    trainer.fit(again, data, ckpt_path=str(tmp_path / "last.ckpt"))
    assert all(map(torch.equal, again.policy.parameters(), module.policy.parameters()))


@pytest.mark.parametrize("stop", [{"max_steps": 2}, {"max_steps": 5}, {"check_val_every_n_epoch": 9}])
def test_keep_ranking_searches_without_a_validation_epoch(walks, cloned, tmp_path, stop):
    module, last, data = trained(walks, cloned, tmp_path, keep=KEEP, **stop)
    assert len(last.steps) == stop.get("max_steps", 6)
    start = load_net(cloned, "policy").net
    alpha = module.trainer.callback_metrics["policy/alpha"].item()
    for now, first, end in zip(module.policy.parameters(), start.parameters(), last.steps[-1], strict=True):
        torch.testing.assert_close(now, torch.lerp(first, end, alpha))
    found = kept(module.policy, start, data)
    assert found.enough(KEEP)
    assert module.trainer.callback_metrics["policy/ndcg_retained"].item() == pytest.approx(found.share)


def test_keep_ranking_measures_on_limit_val_batches(walks, cloned, tmp_path, monkeypatch):
    data, counts = small.data_of(PostTrainingData, walks, "walks", batch_tokens=64), []
    ranked = np.full(7, 0.5)

    def measured(_, batches, __):
        counts.append(len(list(batches)))
        return ranked

    monkeypatch.setattr("recalign.posttrain.keep.ndcg_by_user", measured)
    trainer = small.trainer_of(tmp_path, 1, limit_val_batches=2)
    trainer.fit(small.free(WeightedSFT, init_from=str(cloned), keep=KEEP), data)
    assert counts == [2] * (1 + len(ALPHAS))  # of the start and of the policy
    assert trainer.callback_metrics["policy/ndcg_retained"] == 1  # a share of the start's


def test_keep_ranking_refuses_weight_averaging(walks, cloned, tmp_path):
    with pytest.raises(InputError, match="weight averaging"):
        trained(walks, cloned, tmp_path, keep=KEEP, callbacks=[PolynomialAveraging()])


def test_keep_ranking_refuses_weights_that_are_not_finite(walks, cloned, tmp_path):
    class Ruin(Callback):
        def on_train_batch_end(self, trainer, module, *_):
            if trainer.global_step == 2:
                next(module.policy.parameters()).data.fill_(float("nan"))

    with pytest.raises(TrainingError, match="weights are not finite"):
        trained(walks, cloned, tmp_path, keep=KEEP, max_steps=2, callbacks=[Ruin()])


def test_keep_ranking_checkpoint_holds_interpolated_and_trained_weights():
    torch.manual_seed(0)
    module, callback = small.free(WeightedSFT, policy=SequencePolicy(small.encoder(), 9, 0.1)), KeepRanking(0.9)
    trained = {name: value.clone() for name, value in module.state_dict().items()}
    callback._other = [weight.detach() + 1 for weight in module.policy.parameters()]
    checkpoint = {"state_dict": dict(trained)}
    callback.on_save_checkpoint(None, module, checkpoint)
    moved = {f"policy.{name}" for name, _ in module.policy.named_parameters()}
    assert set(checkpoint["state_dict"]) == set(checkpoint["current_model_state"]) == set(trained)
    for name, value in checkpoint["state_dict"].items():
        torch.testing.assert_close(value, trained[name] + 1 if name in moved else trained[name])

    module.load_state_dict(checkpoint["state_dict"])
    checkpoint |= {"global_step": 6, "loops": {"fit_loop": {"epoch_progress": {"current": {"processed": 1}}}}}
    again = KeepRanking(0.9)
    for doing, put_aside in ((TrainerFn.VALIDATING, 0), (TrainerFn.FITTING, len(moved))):
        trainer = SimpleNamespace(state=SimpleNamespace(fn=doing), max_epochs=2, max_steps=-1)
        again.on_load_checkpoint(trainer, module, checkpoint)
        assert len(again._other) == put_aside
    assert all(value.equal(trained[name]) for name, value in module.state_dict().items())
    assert all(a.equal(b) for a, b in zip(again._other, callback._other, strict=True))
    again.load_state_dict(KeepRanking(0.9).state_dict() | {"reach": 0.5})
    assert again.state_dict() == {"reach": 0.5, "step": -1}


RARE = [{"check_val_every_n_epoch": 2}, {"check_val_every_n_epoch": None, "val_check_interval": 5}]


@pytest.mark.parametrize("rare", RARE, ids=["epochs", "batches"])
def test_keep_ranking_searches_at_the_end_with_rare_validation(walks, cloned, tmp_path, rare):
    best = RunCheckpoint()
    best.dirpath = str(tmp_path)
    own = {"keep": KEEP, "epochs": 3, "callbacks": [best], "enable_checkpointing": True, **rare}
    module, _, data = trained(walks, cloned, tmp_path, **own)
    handed = load_net(tmp_path / "best.ckpt", "policy")
    assert handed.facts["reach"] == pytest.approx(module.interpolation_alpha)
    assert kept(handed.net, load_net(cloned, "policy").net, data).enough(KEEP)


def test_keep_ranking_searches_every_epoch_if_a_metric_chooses_it(walks, cloned, tmp_path):
    best = RunCheckpoint("rank/all/ndcg@10", "min")  # prefers the first epoch's raw weights
    best.dirpath = str(tmp_path)
    _, last, data = trained(walks, cloned, tmp_path, keep=KEEP, callbacks=[best], enable_checkpointing=True)
    assert None not in last.reaches
    handed = load_net(tmp_path / "best.ckpt", "policy")
    assert "reach" in handed.facts
    assert kept(handed.net, load_net(cloned, "policy").net, data).enough(KEEP)
