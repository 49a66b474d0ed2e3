"""Post-training that goes back towards its start until enough of the ranking is kept."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from recalign.errors import InputError
from recalign.recommender.interpolation import largest_interpolation, ndcg
from recalign.recommender.policy import Policy

if TYPE_CHECKING:
    from recalign.posttrain.base import PostTraining


class KeepRanking(Callback):
    """Validate and checkpoint the largest interpolation between start and trained weights that keeps enough ranking.

    theta = theta_start + alpha (theta_trained - theta_start), with the largest alpha in 0..1, found by bisection, at
    which the policy's ``all/ndcg@10`` on the validation events is at least ``share`` of the start's. Weights between a
    pretrained and a fine-tuned model: Wortsman et al., arXiv 2109.01903; for alignment: Lin et al., arXiv 2309.06256.

    Alpha is found at every validation, and at the end of an epoch without one. Training continues from its own weights:
    a checkpoint holds them as ``current_model_state``, and the interpolation as ``state_dict``, as Lightning's
    `WeightAveraging` does. A ``last.ckpt`` written within an epoch holds the interpolation found before.

    Logs ``policy/interpolation`` (alpha) and ``policy/kept``, at the run's precision: evaluation, in float32, may
    differ in the third digit.

    Cost: one pass over the validation events more, five where alpha < 1, and one for the start. Memory: one copy of the
    policy's weights.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self._start_ndcg: float | None = None
        self._alpha, self._step = 1.0, -1  # the interpolation found, and the step after which it was
        # The other set of the policy's weights: the interpolation, or the trained ones while that is in the policy.
        self._other: list[Tensor] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._other = []
        if any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            raise InputError(
                "an average of the weights and model.keep would each put weights of their own into the checkpoint",
                where="trainer.callbacks",
                remedy="leave the average out, or set model.keep to null",
            )
        if stage == "fit" and not trainer.limit_val_batches:
            rank_zero_warn("nothing is validated, so model.keep cannot say how much of the ranking is kept")

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: PostTraining) -> None:  # type: ignore[override]
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._interpolate(trainer, pl_module)
        else:
            self._swap(pl_module.policy)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: PostTraining) -> None:  # type: ignore[override]
        self._swap(pl_module.policy)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: PostTraining) -> None:  # type: ignore[override]
        if trainer.limit_val_batches and self._step != trainer.global_step:
            mode = pl_module.training
            pl_module.eval()
            self._interpolate(trainer, pl_module)
            self._swap(pl_module.policy)
            pl_module.train(mode)

    def on_train_end(self, trainer: Trainer, pl_module: PostTraining) -> None:  # type: ignore[override]
        self._swap(pl_module.policy)
        self._other = []
        if self._alpha == 0:
            rank_zero_warn(
                f"the checkpoint holds the start: a sixteenth of the way to the trained weights already keeps less "
                f"than {self.share:.0%} of its ranking; take smaller steps (model.lr)"
            )

    @torch.no_grad()
    def _interpolate(self, trainer: Trainer, module: PostTraining) -> None:
        """Put the interpolation into the policy, and keep its trained weights as the other set."""
        start, weights = module.policy.origin(module.reference), list(module.policy.parameters())
        self._other = []  # free the old set before a new one is made
        trained = [weight.clone() for weight in weights]
        windows, limit = module.data.windows("validation"), trainer.num_val_batches
        batches = int(limit[0]) if limit else None

        def move(alpha: float) -> None:
            for weight, first, last in zip(weights, start, trained, strict=True):
                weight.copy_(torch.lerp(first, last, alpha) if alpha else first)  # 0 * nan is nan

        def measured(policy: Policy) -> float:
            with trainer.precision_plugin.val_step_context():
                return ndcg(policy, islice(module.data.loader(windows), batches), module.device)

        def kept(alpha: float) -> float:
            move(alpha)
            return measured(module.policy) / self._start_ndcg if self._start_ndcg else 1.0

        with isolate_rng():  # a pass over a loader draws a seed
            if self._start_ndcg is None:
                self._start_ndcg = measured(module.reference)
            self._alpha, share = largest_interpolation(kept, self.share)
        self._other, self._step = trained, trainer.global_step
        move(self._alpha)
        module.log_dict({"policy/interpolation": self._alpha, "policy/kept": share})

    @torch.no_grad()
    def _swap(self, policy: Policy) -> None:
        if self._other:
            for weight, other in zip(policy.parameters(), self._other, strict=True):
                now = weight.clone()
                weight.copy_(other)
                other.copy_(now)

    def state_dict(self) -> dict[str, Any]:
        return {"alpha": self._alpha, "step": self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._alpha, self._step = state_dict["alpha"], state_dict["step"]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: PostTraining, checkpoint: dict[str, Any]) -> None:  # type: ignore[override]
        if self._other:
            other = dict(zip(pl_module.policy.parameters(), self._other, strict=True))
            named = pl_module.policy.named_parameters("policy", remove_duplicate=False)
            checkpoint["current_model_state"] = checkpoint["state_dict"]
            checkpoint["state_dict"] = checkpoint["state_dict"] | {name: other[weight] for name, weight in named}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: PostTraining, checkpoint: dict[str, Any]) -> None:  # type: ignore[override]
        """Keep the interpolation, which was just loaded, as the other set; load the trained weights."""
        if trainer.state.fn == TrainerFn.FITTING and "current_model_state" in checkpoint:
            self._other = [weight.detach().clone() for weight in pl_module.policy.parameters()]
            pl_module.load_state_dict(checkpoint["current_model_state"])
