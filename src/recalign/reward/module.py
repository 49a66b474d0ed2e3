"""The reward model: how much would this user value this item now?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from recalign.errors import InputError, require_positive
from recalign.nn import Encoder
from recalign.recommender.checkpoint import check_catalogue, load_net, load_weights, read_checkpoint
from recalign.recommender.training import StageModule, adamw
from recalign.reward.data import RewardData
from recalign.reward.heads import Head
from recalign.reward.net import RewardEnsemble, RewardNet
from recalign.reward.trust import Trust, compared, report, trust_of, write_trust
from recalign.reward.trust.predictions import Predicted, concatenated, further_errors, predicted_rewards, predictions
from recalign.sequences import Batch
from recalign.sequences.store import Part

MEASURED_ON: dict[str, Part] = {"fit": "validation", "validate": "validation", "test": "test"}
"""What a reward model is measured on, by the trainer's stage."""
MASK = 2**32 - 1


class RewardModel(StageModule):
    """The head's loss (for a mean: squared error in units of the rewards' variance), on events that have a reward.

    Logs ``train/loss`` and its parts, and on validation ``reward/{rmse,mae,r2}`` with ``reward/rmse_<mean>`` of the
    averages it has to beat and ``reward/<auxiliary>/{rmse,r2}``. At the end of `fit` and of `test` writes
    ``trust.json`` (see `recalign.reward.trust.report`) into the run folder, with the figures of the epoch that is
    handed over.

    Args:
        num_items: V; linked from the data by the command.
        init_from: checkpoint of the recommender whose encoder and item table are the trunk.
        encoder: another encoder than the recommender's; of the same width; then ``init_from`` lends what fits by name.
        trunk: whether the heads alone learn (``frozen``), the trunk too (``tuned``), or the trunk goes on learning to
            recommend as well (``joint``): L = L_reward + imitation * mean_t -log pi(a_t | s_t).
        members: K, reward models in the ensemble, each trained on its own resampling of the users.
        share: what they share, ``trunk`` or ``nothing`` (see `recalign.reward.RewardEnsemble`).
        head: of the reward: `MeanHead`, `OrdinalHead`, `QuantileHead`; null: a mean.
        num_factors: largest rank of the matrix factorisation of the training rewards.
        cooccurrence_dim: dimensions of the items' co-occurrence embeddings, from the users that are trained on.
        imitation: weight of the next-item loss under ``joint``.
        auxiliary_weight: weight of the squared errors of ``data.auxiliary``, in units of each reward's variance.
        lr: AdamW's learning rate.
        weight_decay: AdamW's, on matrices only.
    """

    UPSTREAM: ClassVar[dict[str, str]] = {"init_from": "recommender"}
    handed_over = ("reward",)
    auxiliary_EA: Tensor
    moved_EF: Tensor

    @classmethod
    def check_settings(cls, given: Mapping[str, Any]) -> None:
        super().check_settings(given)
        require_positive("model", given, "members")
        require_positive(
            "model", given, "num_factors", "cooccurrence_dim", "imitation", "auxiliary_weight", or_zero=True
        )

    def __init__(
        self,
        num_items: int,
        init_from: str | None = None,
        encoder: Encoder | None = None,
        trunk: Literal["frozen", "tuned", "joint"] = "tuned",
        members: int = 1,
        share: Literal["trunk", "nothing"] = "trunk",
        head: Head | None = None,
        num_factors: int = 8,
        cooccurrence_dim: int = 16,
        imitation: float = 1.0,
        auxiliary_weight: float = 1.0,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.lr, self.weight_decay, self.members = lr, weight_decay, members
        self.num_factors, self.cooccurrence_dim = num_factors, cooccurrence_dim
        self.trunk, self.imitation, self.auxiliary_weight = trunk, imitation, auxiliary_weight
        self.start, self.catalogue = init_from, None
        upstream = load_net(init_from, "policy") if init_from else None
        if encoder is None and upstream is None:
            raise InputError(
                "a reward model needs an encoder", where="model", remedy="give model.init_from or model.encoder"
            )
        temperature = upstream.net.temperature if upstream else 0.05
        encoder = encoder or upstream.net.encoder  # type: ignore[union-attr]
        self.reward = RewardEnsemble(
            encoder, num_items, members, share, head, None, temperature, num_factors, cooccurrence_dim
        )
        if upstream is not None:
            self.catalogue = upstream.catalogue
            weights = {
                k: v for k, v in upstream.net.state_dict().items() if k.startswith(("item_embedding.", "encoder."))
            }
            for net in self.reward.nets:
                load_weights(net.trunk, weights, where=str(init_from), partial=True)
        if trunk == "frozen":
            for net in self.reward.nets:
                net.trunk.encoder.requires_grad_(False)
                net.trunk.item_embedding.requires_grad_(False)
        self.train()  # Lightning does not call it before fit
        self.register_buffer("auxiliary_EA", torch.empty(0, 0), persistent=False)
        self.register_buffer("moved_EF", torch.empty(0, 0), persistent=False)
        self.calibrated = False
        self.trust: Trust | None = None  # on validation
        self.tested: Trust | None = None
        self._predicted: list[Predicted] = []
        self._further: dict[str, list[Tensor]] = {}  # by further reward: what was observed and predicted, (2, N) each

    def train(self, mode: bool = True) -> Self:
        """Switch dropout on or off; in a frozen trunk it is always off, so that its states are the recommender's."""
        super().train(mode)
        if self.trunk == "frozen":
            for net in self.reward.nets:
                net.trunk.eval()
        return self

    def setup(self, stage: str) -> None:
        if self.start is not None:
            check_catalogue(self.catalogue, self.data.sequences.catalogue, self.start)
        if stage in MEASURED_ON:
            self.reward_data.require_rated(MEASURED_ON[stage])
        if not self.calibrated:  # once: a checkpoint's weights come after this, and a test must not undo a fit
            self.calibrate(self.reward_data)
            if stage == "fit":  # which takes a while, and what is tested has its checkpoint's
                self.initialise_from_factorization(self.reward_data)

    def calibrate(self, data: RewardData) -> None:
        """Size the heads to the rewards, and start them from averages.

        Raises:
            InputError: a head cannot stand for its rewards, or a further reward cannot be used.
        """
        self.auxiliary_EA = torch.from_numpy(data.auxiliary_rewards.fill_null(float("nan")).to_numpy())
        self.reward.add(list(data.auxiliary))
        reward, item = data.rated["reward"].to_numpy(), data.rated["item_id"].to_numpy()
        for net in self.reward.nets:
            net.calibrate(reward, data.item_means(reward, item))
            for name, readings in net.auxiliary.items():
                reward_of, item_of = data.auxiliary_training(name)
                readings.calibrate(reward_of, data.item_means(reward_of, item_of))
        self.calibrated = True

    def initialise_from_factorization(self, data: RewardData) -> None:
        """Know of items what a factorisation of the training rewards believes, and what each event did to that."""
        factorization = data.factorization(self.num_factors, self.cooccurrence_dim)
        self.moved_EF = torch.from_numpy(data.self_influence(factorization, self.num_factors))
        for net in self.reward.nets:
            net.start(factorization)

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
        """The parts of the loss, which is their sum: means over members, each on its own resampling of the users."""
        weight_KB = bagging_weights(batch.user_B, self.members, seed)
        weights = weight_KB[:, batch.row_T].split(self.members // len(self.reward.nets))
        nets = [self._losses(net, batch, w) for net, w in zip(self.reward.nets, weights, strict=True)]
        return {name: torch.stack([losses[name] for losses in nets]).mean() for name in nets[0]}

    def _losses(self, net: RewardNet, batch: Batch, weight_MT: Tensor) -> dict[str, Tensor]:
        """The parts of a network's loss, each a mean over its members and, as bagged, over events."""
        h_TD, table_VD, item_T = net.encode(batch), net.table_VD, batch.target_T
        known = net.recall(batch, h_TD)
        state_MTS = net.state(known)
        own_MT = net.self_influence(state_MTS, self.moved_EF[batch.event_T])
        loss_MT = net.losses(state_MTS, table_VD, item_T, batch.reward_T, own_MT)
        losses = {"reward": _bagged_mean(loss_MT, weight_MT, batch.reward_T)}
        for a, (name, readings) in enumerate(net.auxiliary.items()):
            reward_T = self.auxiliary_EA[batch.event_T, a]
            loss_MT = readings.losses(readings.read(known[0]), table_VD, item_T, reward_T)
            losses[name] = self.auxiliary_weight * _bagged_mean(loss_MT, weight_MT, reward_T)
        if self.trunk == "joint":
            weight_T = torch.full_like(batch.reward_T, self.imitation / len(item_T))
            losses["imitation"] = net.trunk.weighted_nll(h_TD, item_T, weight_T)
        return losses

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._predicted.append(predicted_rewards(self.reward, batch))
        for a, name in enumerate(self.reward_data.auxiliary):
            reward_T, predicted_KT = self.auxiliary_EA[batch.event_T, a], self.reward.auxiliary_predictions(batch, name)
            rated_T = (batch.target_T > 0) & ~reward_T.isnan()
            self._further.setdefault(name, []).append(torch.stack([reward_T, predicted_KT.mean(dim=0)])[:, rated_T])

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        raise InputError(
            "a reward model recommends nothing, so there is nothing to predict",
            where="recalign predict",
            remedy="predict with a policy (conf/recommender.yaml, conf/asft.yaml); recalign test measures this one",
        )

    def on_validation_epoch_end(self) -> None:
        measured = self._measure()
        if self.trainer.sanity_checking:
            self._further.clear()
        else:
            self.trust = measured
            self.log_dict({f"reward/{k}": v for k, v in (measured.figures() | further_errors(self._further)).items()})

    def on_test_epoch_end(self) -> None:
        self.tested = self._measure()
        figures = self.tested.figures() | further_errors(self._further)
        self.log_dict({f"reward/test/{k}": v for k, v in figures.items()})

    def on_fit_end(self) -> None:
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        if best:  # the epoch that is handed over need not be the last
            self._recall(read_checkpoint(best))
        if self.trust is not None:
            self._report(load_net(best, "reward").net.to(self.device) if best else self.reward, ["validation"])

    def on_test_end(self) -> None:
        self._report(self.reward, ["validation", "test"])

    def _measure(self) -> Trust:
        event, predicted, _ = concatenated(self._predicted)
        self._predicted.clear()
        return trust_of(self.reward_data.expected_rewards(event), predicted)

    def _report(self, reward: RewardEnsemble, parts: list[Part]) -> None:
        if not self.trainer.is_global_zero or self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        reward.eval()
        data, measured = self.reward_data, {}
        for part in parts:
            if not data.is_rated(part):
                continue
            batches = (batch.to(self.device) for batch in data.loader(data.windows(part), seen=False))
            measured[part] = predictions(reward, batches)
        write_trust(Path(self.trainer.default_root_dir), report(data, *compared(data, measured)))

    def facts(self) -> dict[str, Any]:
        """What later stages and reports want to know: which reward it predicts, how well on validation, and its
        reliability there.
        """
        known = {"reliability": self.trust.reliability, "trust": asdict(self.trust)} if self.trust else {}
        return super().facts() | {"reward": self.data.reward} | known

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["self_influence"] = (
            self.moved_EF
        )  # beside the facts: large, and for predictions of training events alone

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._recall(checkpoint)

    def _recall(self, checkpoint: dict[str, Any]) -> None:
        if "trust" in checkpoint["facts"]:
            self.trust = Trust(**checkpoint["facts"]["trust"])


class Judge(RewardModel):
    """A reward model that only scores others: trained from scratch, on other users, with another encoder.

    Args:
        num_items: V; linked from the data by the command.
        encoder: its encoder, of another architecture or size than the training reward model's.
        members: K, reward models in the ensemble.
        share: what they share; judges by default ``nothing``, for a shared encoder's mistakes are all members' own.
        head: of the reward; null: a mean.
        lr: AdamW's learning rate.
        weight_decay: AdamW's, on matrices only.
    """

    UPSTREAM: ClassVar[dict[str, str]] = {}

    def __init__(
        self,
        num_items: int,
        encoder: Encoder,
        members: int = 3,
        share: Literal["trunk", "nothing"] = "nothing",
        head: Head | None = None,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(
            num_items,
            None,
            encoder,
            members=members,
            share=share,
            head=head,
            cooccurrence_dim=0,  # each of a judge's few users would be too large a part of it
            lr=lr,
            weight_decay=weight_decay,
        )

    def setup(self, stage: str) -> None:
        if self.data.users not in ("B1", "B2"):
            raise InputError(
                f"a judge on users {self.data.users} would judge what users A taught by what they taught it",
                where="data.users",
                remedy="train judges on B1 (they select settings) or B2 (they report)",
            )
        super().setup(stage)


def _bagged_mean(loss_MT: Tensor, weight_MT: Tensor, reward_T: Tensor) -> Tensor:
    weight_MT = weight_MT * ~reward_T.isnan()
    return ((weight_MT * loss_MT).sum(dim=1) / weight_MT.sum(dim=1).clamp(min=1)).mean()


def bagging_weights(user_B: Tensor, members: int, seed: int) -> Tensor:
    """How often each user counts for each member: Poisson(1), a function of (seed, user, member) alone.

    A single member sees everybody once. Shape: int64 (B,) -> float32 (K, B).
    """
    if members == 1:
        return torch.ones(1, len(user_B), device=user_B.device)
    member_K1 = torch.arange(1, members + 1, device=user_B.device)[:, None]
    mixed = (user_B * 0x9E3779B1 + member_K1 * 0x85EBCA77 + (seed * 0xC2B2AE3D & MASK)) & MASK
    for _ in range(3):  # an integer hash: without it members would differ by a shift, and be correlated
        mixed = ((mixed ^ (mixed >> 16)) * 0x45D9F3B) & MASK
    uniform = (mixed ^ (mixed >> 16)).double() / 2**32
    steps = torch.tensor(np.cumsum([np.exp(-1) / np.prod(range(1, n + 1)) for n in range(6)]), device=user_B.device)
    return torch.bucketize(uniform, steps).float()
