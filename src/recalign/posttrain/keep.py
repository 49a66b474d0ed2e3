"""Post-training that goes back towards its start until enough of the ranking is kept."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from recalign.errors import InputError
from recalign.recommender.interpolation import largest_interpolation, ndcg
from recalign.recommender.policy import Policy
from recalign.recommender.swapped_weights import SwappedWeights

if TYPE_CHECKING:
    from recalign.posttrain.base import PostTraining


class KeepRanking(SwappedWeights):
    """Validate and hand over the largest interpolation between the start and the trained weights that keeps enough.

    theta = theta_start + alpha (theta_trained - theta_start), the largest alpha in 0..1, by halving, with which the
    policy's ``all/ndcg@10`` on the validation events is at least a share of the start's. Weights between a pretrained
    and a fine-tuned model: Wortsman et al. (https://arxiv.org/abs/2109.01903); as the best way to trade what alignment
    gains for what it costs: Lin et al. (https://arxiv.org/abs/2309.06256).

    Measured when a policy is validated, and at the end of an epoch that was not. Training goes on from its own weights.
    A ``last.ckpt`` that is written within an epoch hands over what was found before.

    Logs ``policy/interpolation`` (alpha) and ``policy/kept``, at the run's precision: evaluation, in float32, may
    differ in the third digit.

    Cost: a pass over the validation events beside validation's own, five where less would be kept; one for the start.
    Memory: once more the policy's weights.

    Args:
        share: of the start's ``all/ndcg@10`` to be kept, above 0 and at most 1.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self._base: float | None = None  # the start's all/ndcg@10
        self._alpha, self._step = 1.0, -1  # what was found, and after which step

    def _weights(self, module: LightningModule) -> list[Tensor]:
        return list(module.policy.parameters())  # type: ignore[union-attr]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        others = [one for one in trainer.callbacks if isinstance(one, SwappedWeights | WeightAveraging)]  # type: ignore[attr-defined]
        if len(others) > 1:
            raise InputError(
                "an average of the weights and model.keep would both hand over weights of their own",
                where="trainer.callbacks",
                remedy="leave the average out, or set model.keep to null",
            )
        if stage == "fit" and not trainer.limit_val_batches:
            rank_zero_warn("nothing is validated, so model.keep cannot say how much of the ranking is kept")

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: PostTraining) -> None:  # type: ignore[override]
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._go_back(trainer, pl_module)
        else:
            super().on_validation_epoch_start(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: PostTraining) -> None:  # type: ignore[override]
        if trainer.limit_val_batches and self._step != trainer.global_step:
            mode = pl_module.training
            pl_module.eval()
            self._go_back(trainer, pl_module)
            self._swap(pl_module)
            pl_module.train(mode)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if self._alpha == 0:
            rank_zero_warn(
                f"what is handed over is the start: at a sixteenth of the way to where training ended less than "
                f"{self.share:.0%} of its ranking was kept; take smaller steps (model.lr)"
            )

    @torch.no_grad()
    def _go_back(self, trainer: Trainer, module: PostTraining) -> None:
        """Leave the policy at the weights to hand over; its own are the others, until they are swapped back."""
        start, weights = module.policy.origin(module.reference), self._weights(module)
        self._others = []  # before there are new ones: they are as large as the policy
        trained = [weight.clone() for weight in weights]
        windows, batches = module.data.windows("validation"), trainer.num_val_batches
        some = int(batches[0]) if batches else None

        def go(alpha: float) -> None:
            for weight, first, last in zip(weights, start, trained, strict=True):
                weight.copy_(torch.lerp(first, last, alpha) if alpha else first)  # a share of nan, even of 0, is nan

        def measured(policy: Policy) -> float:
            with trainer.precision_plugin.val_step_context():
                return ndcg(policy, islice(module.data.loader(windows), some), module.device)

        def kept(alpha: float) -> float:
            go(alpha)
            return measured(module.policy) / self._base if self._base else 1.0

        with isolate_rng():  # a pass over a loader draws a seed
            if self._base is None:
                self._base = measured(module.reference)
            self._alpha, share = largest_interpolation(kept, self.share)
        self._others, self._step = trained, trainer.global_step
        go(self._alpha)
        module.log_dict({"policy/interpolation": self._alpha, "policy/kept": share})

    def state_dict(self) -> dict[str, Any]:
        return {"alpha": self._alpha, "step": self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._alpha, self._step = state_dict["alpha"], state_dict["step"]
