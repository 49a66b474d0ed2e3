"""Train a reward model: how much would this user value this item now?"""

from __future__ import annotations

import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import polars as pl
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from recalign import files
from recalign.data.sequences import Batch, Windows
from recalign.data.sequences.store import Part
from recalign.distributed import gathered
from recalign.errors import InputError
from recalign.nn import Encoder
from recalign.ranges import NonNegative, Positive
from recalign.recommender import Policy, SequencePolicy
from recalign.recommender.checkpoint import Loaded, load_net, load_or_copy, load_weights, read_checkpoint
from recalign.recommender.policy import mean_nll
from recalign.recommender.training import StageModule, adamw
from recalign.reward.bagging import bagged_mean, bagging_weights
from recalign.reward.data import RewardData
from recalign.reward.heads import Head
from recalign.reward.net import RewardEnsemble, RewardNet
from recalign.reward.trust import Trust, accuracy, compare_predictions, predict, report, trust_of
from recalign.reward.trust.report import TRUST

MEASURED_ON: dict[str, Part] = {"fit": "validation", "validate": "validation", "test": "test"}
"""The part that a reward model is evaluated on, by the trainer's stage."""


class RewardModel(StageModule):
    """Learn the rewards of events by the head's loss: for `MeanHead` the squared error in units of their variance.

    Logs ``train/loss`` and its terms; on validation ``reward/{rmse,mae,r2}``, ``reward/rmse_<mean>`` of the averages
    that it has to beat, and ``reward/<auxiliary>/{rmse,r2}``.

    After `fit` and `test`, ``trust_report`` holds the trust report (`recalign.reward.trust.report`) of the checkpoint's
    weights. It is also written to ``trust.json`` in the trainer's ``default_root_dir``, unless that is the current
    folder, Lightning's default.

    Args:
        num_items: V; linked from the data by the command.
        init_from: checkpoint of the recommender whose encoder and item table initialise the trunk.
        policy: that recommender itself, instead of a checkpoint (Python only); copied.
        encoder: an encoder to use in place of the recommender's, of the same width. It takes over the recommender's
            weights whose names match. Copied.
        trunk: ``frozen``: the recommender's weights stay, and heads and the embedding of earlier rewards are trained;
            ``tuned``: the trunk too; ``joint``: also keep the next-item loss, L = L_reward + imitation * mean_t -log
            pi(a_t | s_t).
        members: K, reward models in the ensemble, each trained on its own bootstrap sample of the users.
        share: what members share, ``trunk`` or ``nothing`` (see `recalign.reward.RewardEnsemble`).
        head: `MeanHead`, `OrdinalHead` or `QuantileHead`; null: `MeanHead`. Copied.
        num_factors: largest rank of the matrix factorisation of the training rewards.
        cooccurrence_dim: dimensions of the items' co-occurrence embeddings; 0: none.
        imitation: weight of the next-item loss under ``joint``.
        auxiliary_weight: weight of the squared errors of ``data.auxiliary``, in units of each reward's variance.
        lr: AdamW's learning rate.
        weight_decay: AdamW's, on matrices only.
    """

    UPSTREAM: ClassVar[dict[str, str]] = {"init_from": "recommender"}
    MAX_EPOCHS: ClassVar[int | None] = 30
    """Epochs where ``trainer.max_epochs`` is null; early stopping ends most runs sooner."""
    saved_networks = ("reward",)
    auxiliary_EA: Tensor
    self_influence_EF: Tensor

    def __init__(
        self,
        num_items: int,
        init_from: str | None = None,
        policy: Policy | Loaded | None = None,
        encoder: Encoder | None = None,
        trunk: Literal["frozen", "tuned", "joint"] = "tuned",
        members: Positive[int] = 5,
        share: Literal["trunk", "nothing"] = "trunk",
        head: Head | None = None,
        num_factors: NonNegative[int] = 8,
        cooccurrence_dim: NonNegative[int] = 16,
        imitation: NonNegative[float] = 1.0,
        auxiliary_weight: NonNegative[float] = 1.0,
        lr: NonNegative[float] = 1e-3,
        weight_decay: NonNegative[float] = 0.1,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False, ignore=["policy"])
        self.lr, self.weight_decay, self.members = lr, weight_decay, members
        self.num_factors, self.cooccurrence_dim = num_factors, cooccurrence_dim
        self.trunk, self.imitation, self.auxiliary_weight = trunk, imitation, auxiliary_weight
        start = None
        if init_from or policy is not None:
            start = load_or_copy(init_from, policy, "policy", where="model.init_from", needed_by="a reward model")
        elif encoder is None:
            raise InputError(
                "a reward model needs an encoder", where="model", remedy="give model.init_from or model.encoder"
            )
        trunk_policy: SequencePolicy | None = start.net.trunk() if start else None
        if trunk == "frozen" and start and not start.net.has_trunk:
            rank_zero_warn("the recommender has no encoder that could be frozen: its trunk, a new HSTU, is tuned")
            self.trunk = trunk = "tuned"
        encoder = copy.deepcopy(encoder or trunk_policy.encoder)  # type: ignore[union-attr]
        temperature = trunk_policy.temperature if trunk_policy else 0.05
        self.reward = RewardEnsemble(
            encoder, num_items, members, share, copy.deepcopy(head), None, temperature, num_factors, cooccurrence_dim
        )
        self.start = replace(start, net=None) if start else None
        for net in self.reward.nets:
            if start and trunk_policy:
                prefixes = ("item_embedding.", "encoder.")
                weights = {k: v for k, v in trunk_policy.state_dict().items() if k.startswith(prefixes)}
                load_weights(net.trunk, weights, where=start.where, partial=True, new=("past_rewards.", "prior."))
            if trunk == "frozen":
                net.trunk.encoder.requires_grad_(False)
                net.trunk.item_embedding.requires_grad_(False)
        self.train()  # Lightning does not call it before fit
        self.register_buffer("auxiliary_EA", torch.empty(0, 0), persistent=False)
        self.register_buffer("self_influence_EF", torch.empty(0, 0), persistent=False)
        self.calibrated = False
        self.trust: Trust | None = None  # on validation
        self._measured_at = -1  # the step of it
        self.trust_report: dict[str, Any] | None = None
        self._predicted: list[dict[str, Tensor]] = []

    def train(self, mode: bool = True) -> Self:
        """Set the mode. A frozen trunk stays in evaluation mode: dropout would change what the recommender says."""
        super().train(mode)
        if self.trunk == "frozen":
            for net in self.reward.nets:
                net.trunk.eval()
        return self

    def setup(self, stage: str) -> None:
        if self.start is not None:
            self.start.check(self.data)
        if stage in MEASURED_ON:
            self.reward_data.require_rated(MEASURED_ON[stage])
        for net in self.reward.nets:  # imitation is cloning
            net.trunk.num_warm, net.trunk.warm_only = self.data.sequences.num_warm, True
        if not self.calibrated:  # once, before a checkpoint is loaded: a later test must not undo the fit
            self.calibrate(self.reward_data)
        if stage == "fit" and not len(self.self_influence_EF):  # slow; for a test the checkpoint has the result
            self.initialise_from_factorization(self.reward_data)

    def calibrate(self, data: RewardData) -> None:
        """Initialise the heads from averages of the training rewards.

        Raises:
            InputError: a head cannot model its rewards, or an auxiliary reward cannot be used.
        """
        self.auxiliary_EA = torch.tensor(data.auxiliary_rewards.fill_null(float("nan")).to_numpy())
        with torch.random.fork_rng(devices=[]):  # Lightning seeds anew where it starts several processes
            torch.manual_seed(data.seed)
            self.reward.add_auxiliary(list(data.auxiliary))
        reward, item = data.rated["reward"].to_numpy(), data.rated["item_id"].to_numpy()
        for net in self.reward.nets:
            net.calibrate(reward, data.item_means(reward, item))
            for name, scorer in net.auxiliary.items():
                reward_of, item_of = data.auxiliary_training(name)
                scorer.calibrate(reward_of, data.item_means(reward_of, item_of))
        self.calibrated = True

    def initialise_from_factorization(self, data: RewardData) -> None:
        """Initialise from a factorisation of the training rewards. Store each event's influence on it."""
        factorization = data.factorization(self.num_factors, self.cooccurrence_dim)
        self.self_influence_EF = torch.from_numpy(data.self_influence(factorization, self.num_factors))
        for net in self.reward.nets:
            net.initialise_from_factorization(factorization)

    @property
    def reward_data(self) -> RewardData:
        return self.data  # type: ignore[return-value]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adamw(self.reward, self.lr, self.weight_decay)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses = self.losses(batch, self.data.seed)
        loss = torch.stack(list(losses.values())).sum()
        self.log("train/loss", loss, batch_size=len(batch.target_T))
        if len(losses) > 1:
            self.log_dict({f"train/{name}": v for name, v in losses.items()}, batch_size=len(batch.target_T))
        return loss

    def losses(self, batch: Batch, seed: int) -> dict[str, Tensor]:
        """Terms of the loss: means over members, each on its own bootstrap sample of the users."""
        weight_KB = bagging_weights(batch.user_B, self.members, seed)
        weights = weight_KB[:, batch.row_T].split(self.members // len(self.reward.nets))
        nets = [self._losses(net, batch, w) for net, w in zip(self.reward.nets, weights, strict=True)]
        return {name: torch.stack([losses[name] for losses in nets]).mean() for name in nets[0]}

    def _losses(self, net: RewardNet, batch: Batch, weight_MT: Tensor) -> dict[str, Tensor]:
        """Terms of one network's loss."""
        h_TD, table_VD, item_T = net.trunk.encode(batch), net.table_VD, batch.target_T
        summary = net.summarise(batch, h_TD)
        user_MTS = net.user_side(summary)
        influence_MT = net.self_influence(user_MTS, self.self_influence_EF[batch.event_T])
        loss_MT = net.losses(user_MTS, table_VD, item_T, batch.reward_T, influence_MT)
        weight_TM, reward_T = gathered(weight_MT.T), gathered(batch.reward_T)
        losses = {"reward": bagged_mean(gathered(loss_MT.T).T, weight_TM.T, reward_T)}
        for a, (name, scorer) in enumerate(net.auxiliary.items()):
            reward_T = self.auxiliary_EA[batch.event_T, a]
            loss_MT = scorer.losses(scorer.project(summary[0]), table_VD, item_T, reward_T)
            loss_TM = gathered(loss_MT.T)
            losses[name] = self.auxiliary_weight * bagged_mean(loss_TM.T, weight_TM.T, gathered(reward_T))
        if self.trunk == "joint":
            losses["imitation"] = self.imitation * mean_nll(net.trunk, h_TD, item_T)
        return losses

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        known_T, item_T = batch.target_T > 0, batch.target_T.clamp(min=1)
        columns = {"event": batch.event_T, "reward": self.reward.predict(self.reward.states(batch), item_T)}
        for name in self.reward_data.auxiliary:
            columns[name] = self.reward.auxiliary_predictions(batch, name, item_T).mean(dim=0)
        self._predicted.append({name: column_T[known_T] for name, column_T in columns.items()})

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        text = "a reward model does not recommend, so there is nothing to predict"
        remedy = "predict with a policy (conf/recommender.yaml, conf/asft.yaml); recalign test measures this one"
        raise InputError(text, where="recalign predict", remedy=remedy)

    def on_validation_epoch_end(self) -> None:
        measured, figures = self._measure()
        if not self.trainer.sanity_checking:
            self.trust, self._measured_at = measured, self.trainer.global_step
            self.log_dict({f"reward/{k}": v for k, v in figures.items()}, sync_dist=True)

    def on_train_epoch_end(self) -> None:
        if self._measured_at != self.trainer.global_step:
            self.trust = None  # of other weights than those that are saved now

    def on_test_epoch_end(self) -> None:
        _, figures = self._measure()
        self.log_dict({f"reward/test/{k}": v for k, v in figures.items()}, sync_dist=True)

    def on_fit_end(self) -> None:
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        if best:  # the best epoch need not be the last one
            self._load_trust(read_checkpoint(best))
            self.reward.load_state_dict(load_net(best, "reward").net.state_dict())
        if self._measured_at >= 0 or self.trust is not None:
            self._write_trust_report(self.reward, ["validation"])

    def on_test_end(self) -> None:
        self._write_trust_report(self.reward, ["validation", "test"])

    def _measure(self) -> tuple[Trust, dict[str, float]]:
        """Evaluate the predictions since the last call. Return the errors, and all figures to log."""
        names = self._predicted[0]
        columns = {name: gathered(torch.cat([part[name] for part in self._predicted])).cpu() for name in names}
        self._predicted.clear()
        frame = pl.DataFrame({k: v.numpy() if k == "event" else v.float().numpy() for k, v in columns.items()})
        expected = self.reward_data.expected_rewards(frame["event"].to_numpy())
        trust = trust_of(expected, frame["reward"])
        figures = trust.figures()
        for name in self.reward_data.auxiliary:
            found = accuracy(self.reward_data.auxiliary_rewards[name].gather(frame["event"]), frame[name])
            figures |= {f"{name}/{figure}": found[figure] for figure in ("rmse", "r2")}
        return trust, figures

    def _write_trust_report(self, reward: RewardEnsemble, parts: list[Part]) -> None:
        if not self.trainer.is_global_zero or self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        data = self.reward_data
        reward.eval().to(data.device)  # when a fit has ended, Lightning has moved it to the CPU

        def predicted(windows: Windows) -> pl.DataFrame:
            return predict(reward, (batch.to(data.device) for batch in data.loader(windows, seen=False)))

        self.trust_report = report(
            data, *compare_predictions(data, predicted, [part for part in parts if data.is_rated(part)])
        )
        reward.to(self.device)
        self.train()
        folder = Path(self.trainer.default_root_dir)
        if folder.resolve() != Path.cwd():
            files.write_json(folder / TRUST, self.trust_report)

    def facts(self) -> dict[str, Any]:
        """Facts for later stages and reports: the reward's expression and digest, validation errors, reliability."""
        known = {"reliability": self.trust.reliability, "trust": asdict(self.trust)} if self.trust else {}
        data = self.data
        read = {"reward": data.reward, "relative_to": data.relative_to and asdict(data.relative_to)}
        return super().facts() | read | {"rewards": data.sequences.rewards} | known

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["self_influence"] = self.self_influence_EF  # not a fact: large, and only for training events

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.self_influence_EF = checkpoint.get("self_influence", self.self_influence_EF)
        self._load_trust(checkpoint)

    def _load_trust(self, checkpoint: dict[str, Any]) -> None:
        known = checkpoint["facts"].get("trust")
        self.trust = Trust(**known) if known else None
