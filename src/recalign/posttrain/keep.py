"""Interpolate post-trained weights with the start's, to keep a given share of the start's NDCG."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, Timer, WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from recalign.distributed import broadcast_floats
from recalign.errors import InputError, TrainingError
from recalign.recommender.averaging import has_steps_left
from recalign.recommender.checkpoint import read_checkpoint
from recalign.recommender.interpolation import (
    ALL_RETAINED,
    Retention,
    alpha_within_budget,
    budget_batches,
    ndcg_by_user,
)
from recalign.recommender.policy import Policy


class KeepRanking(Callback):
    """Validate and checkpoint interpolated weights that keep just enough of the start's ranking.

        theta = theta_start + alpha (theta_trained - theta_start)

    The search (`alpha_within_budget`) moves away from the start until the policy keeps less than ``share`` of the
    start's ``all/ndcg@10`` on the validation events of all users, or the estimate is too uncertain
    (`Retention.enough`). It interpolates (alpha < 1) if the trained weights lost too much, and extrapolates, up to
    alpha = 4, if they lost less; at 4 the budget is not spent. Interpolation: WiSE-FT, Wortsman et al., arXiv
    2109.01903; for alignment: Lin et al., arXiv 2309.06256; extrapolation: ExPO, Zheng et al., arXiv 2404.16792.

    The search runs at the end of the last epoch; earlier epochs are validated and saved with the trained weights. If
    a metric chooses the epoch (``checkpoint.monitor``), it runs at every validation; with a callback that may stop
    training at any time (`EarlyStopping`, `Timer`), also after every epoch. As in Lightning's `WeightAveraging`, the
    checkpoint holds the interpolated weights as ``state_dict`` and the trained ones, from which training can continue,
    as ``current_model_state``.

    Logs ``policy/alpha``, ``policy/ndcg_retained`` and its standard error, ``policy/ndcg_retained_se``, measured
    at the run's precision. Evaluation runs in float32 and may differ in the third digit.

    Cost: at most 15 passes over the validation events, one of them for the start. Memory: one copy of the policy's
    weights. The module is a `recalign.posttrain.base.PostTraining`.

    Raises:
        TrainingError: a trained weight is not finite.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self._start_U: np.ndarray | None = None  # NDCG of the start, summed by user
        self._alpha, self._step = 1.0, -1  # result of the search, and the step at which it ran
        # The set of weights that is not in the policy now: the interpolated or the trained ones. Empty before a search.
        self._other: list[Tensor] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._other = []
        if any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            text = "weight averaging and model.keep would each put their own weights into the checkpoint"
            remedy = "remove the averaging callback, or set model.keep to null"
            raise InputError(text, where="trainer.callbacks", remedy=remedy)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            self._swap(pl_module.policy)
        elif _may_end(trainer) or _is_chosen(trainer):
            self._search(trainer, pl_module)
        else:
            self._other, pl_module.interpolation_alpha = [], None  # they came from a resumed checkpoint

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._swap(pl_module.policy)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.limit_val_batches or self._step == trainer.global_step:
            return
        if _may_end(trainer):
            mode = pl_module.training
            pl_module.eval()
            self._search(trainer, pl_module)
            self._swap(pl_module.policy)
            pl_module.train(mode)
        elif not _is_chosen(trainer):
            self._other, pl_module.interpolation_alpha = [], None  # they belong to earlier weights

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._swap(pl_module.policy)
        self._other = []
        best = getattr(trainer.checkpoint_callback, "best_model_path", "") if _is_chosen(trainer) else ""
        if (read_checkpoint(best)["facts"].get("reach") if best else self._alpha) == 0:
            rank_zero_warn(
                "the checkpoint holds the start's weights: even the smallest step tried was not shown to keep "
                f"{self.share:.0%} of their NDCG; lower model.lr, or validate on more users"
            )

    @torch.no_grad()
    def _search(self, trainer: Trainer, module: Any) -> None:
        """Search for alpha, put its weights into the policy, and keep the trained ones as the other set."""
        start, weights = list(module.reference.parameters()), list(module.policy.parameters())
        if not all(weight.isfinite().all() for weight in weights):
            raise TrainingError("trained weights are not finite, so there is nothing to checkpoint; lower model.lr")
        self._other = []  # free the old set before copying the new one
        trained = [weight.clone() for weight in weights]

        def move(alpha: float) -> None:
            for weight, first, last in zip(weights, start, trained, strict=True):
                weight.copy_(torch.lerp(first, last, alpha))

        def ndcg(policy: Policy) -> np.ndarray:
            """NDCG summed by user, on at most ``limit_val_batches``."""
            with trainer.precision_plugin.val_step_context():
                return ndcg_by_user(policy, budget_batches(module.data, trainer.limit_val_batches), module.device)

        with isolate_rng():  # iterating a DataLoader draws a seed
            if self._start_U is None:
                self._start_U = ndcg(module.reference)
            start_U = self._start_U

            def kept(alpha: float) -> Retention:
                move(alpha)
                found = Retention.measure(ndcg(module.policy), start_U)
                return Retention(*broadcast_floats((found.share, found.error), module.device))  # same in all processes

            # A start whose NDCG is 0 has nothing to keep: use the trained weights.
            alpha, found = alpha_within_budget(kept, self.share) if start_U.any() else (1.0, ALL_RETAINED)
        self._alpha, self._other, self._step = alpha, trained, trainer.global_step
        module.interpolation_alpha = alpha
        move(alpha)
        retained = {"policy/ndcg_retained": found.share, "policy/ndcg_retained_se": found.error}
        module.log_dict({"policy/alpha": alpha, **retained})

    @torch.no_grad()
    def _swap(self, policy: Policy) -> None:
        if self._other:
            for weight, other in zip(policy.parameters(), self._other, strict=True):
                now = weight.clone()
                weight.copy_(other)
                other.copy_(now)

    def state_dict(self) -> dict[str, Any]:
        return {"reach": self._alpha, "step": self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._alpha, self._step = state_dict["reach"], state_dict["step"]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if self._other:
            other = dict(zip(pl_module.policy.parameters(), self._other, strict=True))
            named = pl_module.policy.named_parameters("policy", remove_duplicate=False)
            checkpoint["current_model_state"] = checkpoint["state_dict"]
            checkpoint["state_dict"] = checkpoint["state_dict"] | {name: other[weight] for name, weight in named}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Resume from the trained weights; keep the interpolated ones, just loaded, as the other set.

        If no steps are left to train, the interpolated ones stay in the policy.
        """
        fitting = trainer.state.fn == TrainerFn.FITTING and "current_model_state" in checkpoint
        if fitting and has_steps_left(trainer, checkpoint):
            self._other = [weight.detach().clone() for weight in pl_module.policy.parameters()]
            pl_module.load_state_dict(checkpoint["current_model_state"])


def _may_end(trainer: Trainer) -> bool:
    """Whether training may end with this epoch."""
    may_stop = any(isinstance(one, EarlyStopping | Timer) for one in trainer.callbacks)  # type: ignore[attr-defined]
    ends = trainer.current_epoch + 1 == trainer.max_epochs or trainer.global_step == trainer.max_steps
    return ends or may_stop or trainer.should_stop


def _is_chosen(trainer: Trainer) -> bool:
    """Whether a monitored metric chooses the epoch."""
    return any(getattr(one, "monitor", None) is not None for one in trainer.checkpoint_callbacks)
