"""Train a reward model: how much would this user value this item now?"""

from __future__ import annotations

import copy
from dataclasses import asdict, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from recalign.data.sequences import Batch, EventDataModule
from recalign.data.sequences.store import SPLITS, SplitName
from recalign.distributed import all_gather_rows
from recalign.errors import InputError, NonNegative, Positive
from recalign.nn import Encoder
from recalign.recommender.checkpoint import Loaded, load_or_copy, load_weights
from recalign.recommender.policy import Policy
from recalign.recommender.sequence_policy import SequencePolicy
from recalign.recommender.training import StageModule, adamw
from recalign.reward.data import RewardData
from recalign.reward.heads import Head
from recalign.reward.net import RewardEnsemble

MEASURED_ON: dict[str, SplitName] = {"fit": "validation", "validate": "validation", "test": "test"}
"""The split that a reward model is evaluated on, by the trainer's stage."""
HASH_MASK = 2**32 - 1


def bagging_weights(user_B: Tensor, members: int, seed: int) -> Tensor:
    """Bootstrap weight of each user for each member: Poisson(1), from a hash of (seed, user, member) alone.

    With one member all weights are 1. Shape: int64 (B,) -> float32 (K, B).
    """
    if members == 1:
        return torch.ones(1, len(user_B), device=user_B.device)
    member_K1 = torch.arange(1, members + 1, device=user_B.device)[:, None]
    mixed = (user_B * 0x9E3779B1 + member_K1 * 0x85EBCA77 + (seed * 0xC2B2AE3D & HASH_MASK)) & HASH_MASK
    for _ in range(3):  # integer hash: without it, members would be shifted copies and correlated
        mixed = ((mixed ^ (mixed >> 16)) * 0x45D9F3B) & HASH_MASK
    uniform = (mixed ^ (mixed >> 16)).double() / 2**32
    steps = torch.tensor(np.cumsum([np.exp(-1) / np.prod(range(1, n + 1)) for n in range(6)]), device=user_B.device)
    return torch.bucketize(uniform, steps).float()


class RewardModel(StageModule):
    """Learn the rewards of events with the head's loss: for `MeanHead`, the squared error over their variance.

    Logs ``train/loss``; `reporter` logs errors.

    Args:
        num_items: V; linked from the data by the command.
        init_from: checkpoint of the recommender whose encoder and item table initialise the trunk.
        policy: that recommender itself, instead of a checkpoint (Python only); copied.
        encoder: an encoder to use in place of the recommender's, of the same width. It takes over the recommender's
            weights whose names match. Copied.
        trunk: ``frozen``: the recommender's weights stay, and heads and the embedding of earlier rewards are trained;
            ``tuned``: the trunk too.
        members: K, reward models in the ensemble, each trained on its own bootstrap sample of the users.
        share: what members share, ``trunk`` or ``nothing`` (see `recalign.reward.RewardEnsemble`).
        head: `MeanHead` or `OrdinalHead`; null: `MeanHead`. Copied.
        num_factors: largest rank of the matrix factorisation of the training rewards.
        cooccurrence_dim: dimensions of the items' co-occurrence embeddings; 0: none.
        lr: AdamW's learning rate.
        weight_decay: AdamW's, on matrices only.

    Attributes:
        errors: validation errors, among them ``r2``; None: not measured with the current weights.
        trust_report: the report in ``trust.json``, made after a fit or test; None before.
    """

    UPSTREAM: ClassVar[dict[str, str]] = {"init_from": "recommender"}
    MAX_EPOCHS: ClassVar[int | None] = 30
    """Epochs if ``trainer.max_epochs`` is null; early stopping ends most runs sooner."""
    initialise: ClassVar[staticmethod[[RewardEnsemble, RewardData, int, int], Tensor]]
    """Initialises the networks from the training rewards; set by the package (`recalign.reward.initial_factors`)."""
    reporter: ClassVar[type[Callback]]
    """The callback that measures predictions and reports on them; the package sets `TrustReport`."""
    saved_networks = ("reward",)
    data: RewardData
    self_influence_EF: Tensor

    def __init__(
        self,
        num_items: int,
        init_from: str | None = None,
        policy: Policy | Loaded | None = None,
        encoder: Encoder | None = None,
        trunk: Literal["frozen", "tuned"] = "tuned",
        members: Positive[int] = 5,
        share: Literal["trunk", "nothing"] = "trunk",
        head: Head | None = None,
        num_factors: NonNegative[int] = 8,
        cooccurrence_dim: NonNegative[int] = 16,
        lr: NonNegative[float] = 1e-3,
        weight_decay: NonNegative[float] = 0.1,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False, ignore=["policy"])
        self.lr, self.weight_decay, self.members = lr, weight_decay, members
        self.num_factors, self.cooccurrence_dim = num_factors, cooccurrence_dim
        start = None
        if init_from or policy is not None:
            start = load_or_copy(init_from, policy, "policy", where="model.init_from", needed_by="a reward model")
        elif encoder is None:
            remedy = "give model.init_from or model.encoder"
            raise InputError("a reward model needs an encoder", where="model", remedy=remedy)
        source: SequencePolicy | None = start.net.trunk() if start else None
        if trunk == "frozen" and start and not start.net.has_trunk:
            rank_zero_warn("the recommender has no encoder to freeze (model.trunk): a new HSTU is trained instead")
            trunk = "tuned"
        self.trunk = trunk
        encoder = copy.deepcopy(encoder or source.encoder)  # type: ignore[union-attr]
        self.reward = RewardEnsemble(
            encoder, num_items, members, share, copy.deepcopy(head), num_factors, cooccurrence_dim
        )
        self.start_metadata = replace(start, net=None) if start else None
        for net in self.reward.nets:
            if start and source:
                prefixes = ("item_embedding.", "encoder.")
                weights = {k: v for k, v in source.state_dict().items() if k.startswith(prefixes)}
                load_weights(net.trunk, weights, where=start.where, partial=True, new=("past_rewards.", "prior."))
            if trunk == "frozen":
                net.trunk.encoder.requires_grad_(False)
                net.trunk.item_embedding.requires_grad_(False)
        self.train()  # Lightning does not call it before fit
        self.register_buffer("self_influence_EF", torch.empty(0, 0), persistent=False)
        self.calibrated = False
        self.errors: dict[str, float] | None = None
        self.trust_report: dict[str, Any] | None = None

    def train(self, mode: bool = True) -> Self:
        """Set the mode. A frozen trunk stays in evaluation mode: dropout would change its states."""
        super().train(mode)
        if self.trunk == "frozen":
            for net in self.reward.nets:
                net.trunk.eval()
        return self

    def configure_callbacks(self) -> list[Callback]:
        return [self.reporter()]

    def bind(self, data: EventDataModule) -> Self:
        data.skipped_targets = tuple(SPLITS)
        return super().bind(data)

    def setup(self, stage: str) -> None:
        data = self.data
        if self.start_metadata is not None:
            self.start_metadata.check(data)
        if stage in MEASURED_ON:
            data.require_rated(MEASURED_ON[stage])
        if not self.calibrated:  # once, before a checkpoint is loaded: a later test must not undo the fit
            for net in self.reward.nets:
                net.calibrate(data.rated_events["reward"].to_numpy(), data.reward_moments().item_mean_V)
            self.calibrated = True
        if stage == "fit" and not len(self.self_influence_EF):  # slow; for a test the checkpoint has the result
            self.self_influence_EF = self.initialise(self.reward, data, self.num_factors, self.cooccurrence_dim)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adamw(self.reward, self.lr, self.weight_decay)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.loss(batch, self.data.seed)
        self.log("train/loss", loss, batch_size=len(batch.target_T))
        return loss

    def loss(self, batch: Batch, seed: int) -> Tensor:
        """Mean of the members' losses. Each is the mean over the rewards of a bootstrap sample of users."""
        weight_KB = bagging_weights(batch.user_B, self.members, seed)
        weights, losses = weight_KB[:, batch.row_T].split(self.members // len(self.reward.nets)), []
        known_T = ~all_gather_rows(batch.reward_T).isnan()
        for net, own_MT in zip(self.reward.nets, weights, strict=True):
            states_MTS = net.states(batch)
            influence_MT = net.self_influence(states_MTS, self.self_influence_EF[batch.event_T])
            z_T = ((batch.reward_T - net.mean) / net.scale).nan_to_num()
            loss_MT = net.head.loss(net.scores(states_MTS, batch.target_T) - influence_MT, z_T)
            loss_MT, weight_MT = all_gather_rows(loss_MT.T).T, all_gather_rows(own_MT.T).T * known_T
            losses.append(((weight_MT * loss_MT).sum(dim=1) / weight_MT.sum(dim=1).clamp(min=1)).mean())
        return torch.stack(losses).mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Predicted rewards of the events with an item in the catalogue."""
        known_T = batch.target_T > 0
        predicted_T = self.reward.predict(self.reward.states(batch), batch.target_T.clamp(min=1))
        return {"event": batch.event_T[known_T], "predicted": predicted_T[known_T]}

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        text = "a reward model does not recommend, so there is nothing to predict"
        remedy = "predict with a policy (recommender, asft); recalign test measures this one"
        raise InputError(text, where="recalign predict", remedy=remedy)

    def facts(self) -> dict[str, Any]:
        """Facts for later stages: the reward's expression and digest, the errors, and the reliability max(R2, 0)."""
        known = {"reliability": max(0.0, self.errors["r2"]), "errors": self.errors} if self.errors else {}
        data = self.data
        read = {"reward": data.reward, "relative_to": data.relative_to and asdict(data.relative_to)}
        return super().facts() | read | {"rewards": data.sequences.rewards_digest} | known

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["self_influence"] = self.self_influence_EF  # not a fact: large, and only for training events

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.self_influence_EF = checkpoint.get("self_influence", self.self_influence_EF)
        self.errors = checkpoint["facts"].get("errors")
