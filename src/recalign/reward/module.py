"""The reward model: how much would this user value this item now?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from recalign.errors import InputError
from recalign.nn import Encoder
from recalign.recommender.checkpoint import check_catalogue, load_net, load_weights, read_checkpoint
from recalign.recommender.training import StageModule, adamw
from recalign.reward.data import RewardData
from recalign.reward.net import RewardEnsemble
from recalign.reward.trust import Trust, trust_of, write_trust
from recalign.sequences import Batch
from recalign.sequences.store import Part

MEASURED_ON: dict[str, Part] = {"fit": "validation", "validate": "validation", "test": "test"}
"""What a reward model is measured on, by the trainer's stage."""
MASK = 2**32 - 1


class RewardModel(StageModule):
    """Squared error of the predicted reward, in units of the rewards' variance, on events that have a reward.

    Logs ``train/loss`` and, on validation, ``reward/{rmse,mae,r2}`` with ``reward/rmse_<mean>`` of the averages it has
    to beat. At the end of `fit` and of `test` writes ``trust.json`` (see `recalign.reward.trust.report`) into the run
    folder, with the figures of the epoch that is handed over.

    Args:
        num_items: V; linked from the data by the command.
        init_from: checkpoint of the recommender whose encoder and item table are the trunk.
        encoder: another encoder than the recommender's; of the same width; then ``init_from`` lends what fits by name.
        trunk: whether the trunk learns too (``tuned``) or the heads alone (``frozen``).
        members: K, networks in the ensemble, each trained on its own resampling of the users.
        lr: AdamW's learning rate.
        weight_decay: AdamW's, on matrices only.
    """

    UPSTREAM: ClassVar[dict[str, str]] = {"init_from": "recommender"}
    handed_over = ("reward",)

    def __init__(
        self,
        num_items: int,
        init_from: str | None = None,
        encoder: Encoder | None = None,
        trunk: Literal["tuned", "frozen"] = "tuned",
        members: int = 1,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.lr, self.weight_decay, self.members = lr, weight_decay, members
        self.start, self.catalogue = init_from, None
        upstream = load_net(init_from, "policy") if init_from else None
        if encoder is None and upstream is None:
            raise InputError(
                "a reward model needs an encoder", where="model", remedy="give model.init_from or model.encoder"
            )
        self.reward = RewardEnsemble(encoder or upstream.net.encoder, num_items, members)  # type: ignore[union-attr]
        if upstream is not None:
            self.catalogue = upstream.catalogue
            weights = {
                k: v for k, v in upstream.net.state_dict().items() if k.startswith(("item_embedding.", "encoder."))
            }
            for net in self.reward.nets:
                load_weights(net, weights, where=str(init_from), partial=True)
        if trunk == "frozen":
            for net in self.reward.nets:
                net.encoder.requires_grad_(False)
                net.item_embedding.requires_grad_(False)
        self.trust: Trust | None = None  # on validation
        self.tested: Trust | None = None
        self._predicted: list[tuple[Tensor, Tensor]] = []

    def setup(self, stage: str) -> None:
        if self.start is not None:
            check_catalogue(self.catalogue, self.data.sequences.catalogue, self.start)
        if stage in MEASURED_ON:
            self.reward_data.require_rated(MEASURED_ON[stage])
        if stage == "fit":
            mean, scale, item_mean_V = self.reward_data.moments()
            for net in self.reward.nets:
                net.calibrate(mean, scale, torch.from_numpy(item_mean_V))  # type: ignore[operator]

    @property
    def reward_data(self) -> RewardData:
        return self.data  # type: ignore[return-value]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adamw(self.reward, self.lr, self.weight_decay)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        known_T = ~batch.reward_T.isnan()
        predicted_KT = self.reward.predictions(self.reward.states(batch), batch.target_T)
        scale: Tensor = self.reward.nets[0].scale  # type: ignore[assignment]
        error_KT = torch.where(known_T, (predicted_KT - batch.reward_T.nan_to_num()) / scale, 0.0)
        weight_KT = bagging_weights(batch.user_B, self.members)[:, batch.row_T] * known_T
        loss = ((weight_KT * error_KT.square()).sum(dim=1) / weight_KT.sum(dim=1).clamp(min=1)).mean()
        self.log("train/loss", loss, batch_size=len(known_T))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        rated = (batch.target_T > 0) & ~batch.reward_T.isnan()
        predicted_T = self.reward.predict(self.reward.states(batch)[:, rated], batch.target_T[rated])
        self._predicted.append((batch.event_T[rated], predicted_T))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        measured = self._measure()
        if not self.trainer.sanity_checking:
            self.trust = measured
            self.log_dict({f"reward/{k}": v for k, v in measured.figures().items()})

    def on_test_epoch_end(self) -> None:
        self.tested = self._measure()
        self.log_dict({f"reward/test/{k}": v for k, v in self.tested.figures().items()})

    def on_fit_end(self) -> None:
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        if best:  # the epoch that is handed over need not be the last
            self._recall(read_checkpoint(best))
        self._report()

    def on_test_end(self) -> None:
        self._report()

    def _measure(self) -> Trust:
        event = torch.cat([e for e, _ in self._predicted]).cpu().numpy()
        predicted = torch.cat([p for _, p in self._predicted]).float().cpu().numpy()
        self._predicted.clear()
        return trust_of(self.reward_data.expected_rewards(event), predicted)

    def _report(self) -> None:
        measured = {name: t for name, t in (("validation", self.trust), ("test", self.tested)) if t}
        if measured and self.trainer.is_global_zero and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            write_trust(Path(self.trainer.default_root_dir), measured)

    def facts(self) -> dict[str, Any]:
        """What later stages and reports want to know: how the model did on validation, and its reliability there."""
        known = {"reliability": self.trust.reliability, "trust": asdict(self.trust)} if self.trust else {}
        return super().facts() | known

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
        members: K, networks in the ensemble.
        lr: AdamW's learning rate.
        weight_decay: AdamW's, on matrices only.
    """

    UPSTREAM: ClassVar[dict[str, str]] = {}

    def __init__(
        self, num_items: int, encoder: Encoder, members: int = 3, lr: float = 1e-3, weight_decay: float = 0.01
    ) -> None:
        super().__init__(num_items, None, encoder, "tuned", members, lr, weight_decay)


def bagging_weights(user_B: Tensor, members: int) -> Tensor:
    """How often each user counts for each member: Poisson(1), a function of (user, member) alone.

    A single member sees everybody once. Shape: int64 (B,) -> float32 (K, B).
    """
    if members == 1:
        return torch.ones(1, len(user_B), device=user_B.device)
    member_K1 = torch.arange(1, members + 1, device=user_B.device)[:, None]
    mixed = (user_B * 0x9E3779B1 + member_K1 * 0x85EBCA77) & MASK
    for _ in range(3):  # an integer hash: without it members would differ by a shift, and be correlated
        mixed = ((mixed ^ (mixed >> 16)) * 0x45D9F3B) & MASK
    uniform = (mixed ^ (mixed >> 16)).double() / 2**32
    steps = torch.tensor(np.cumsum([np.exp(-1) / np.prod(range(1, n + 1)) for n in range(6)]), device=user_B.device)
    return torch.bucketize(uniform, steps).float()
