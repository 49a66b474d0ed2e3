"""Post-training that goes back towards its start until enough of the ranking is kept."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from recalign.errors import InputError
from recalign.recommender.handover import OtherWeights
from recalign.recommender.kept import furthest, ndcg

if TYPE_CHECKING:
    from recalign.posttrain.base import PostTraining


class KeepRanking(OtherWeights):
    """Validates, and hands over, a policy between the start and where training is: the furthest that keeps enough.

    theta = theta_start + reach (theta_trained - theta_start), the largest reach in 0..1, by halving, with which the
    policy's ``all/ndcg@10`` on the validation events is at least a share of the start's. Weights between a pretrained
    and a fine-tuned model: Wortsman et al. (https://arxiv.org/abs/2109.01903); as the best way to trade what alignment
    gains for what it costs: Lin et al. (https://arxiv.org/abs/2309.06256).

    Logs, with the figures of each validation, ``policy/reach`` and ``policy/kept``.

    Cost: at each validation that would keep less, five more passes over the validation events, and once one for the
    start. Memory: once more the policy's weights.

    Args:
        share: of the start's ``all/ndcg@10`` to be kept, above 0.

    Raises:
        InputError: it is not above 0.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        if not share > 0:
            raise InputError(
                f"{share} is no share to keep", where="model.keep", remedy="give 0.97, say, or null to keep nothing"
            )
        self.share = share
        self._base: float | None = None  # the start's all/ndcg@10
        self._reach = 1.0

    def _weights(self, module: LightningModule) -> list[Tensor]:
        return list(module.policy.parameters())  # type: ignore[union-attr]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        others = [one for one in trainer.callbacks if isinstance(one, OtherWeights | WeightAveraging)]  # type: ignore[attr-defined]
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
            self._others = self._furthest(trainer, pl_module)
        super().on_validation_epoch_start(trainer, pl_module)

    @torch.no_grad()
    def _furthest(self, trainer: Trainer, module: PostTraining) -> list[Tensor]:
        """The weights to hand over. The policy's own are as they were afterwards."""
        start, weights = module.origin(), self._weights(module)
        trained = [weight.clone() for weight in weights]

        def measured(policy: Any) -> float:
            batches = islice(module.data.loader(module.data.windows("validation")), int(trainer.num_val_batches[0]))
            with trainer.precision_plugin.val_step_context():
                return ndcg(policy, batches, module.device)

        def go(reach: float) -> None:
            for weight, first, last in zip(weights, start, trained, strict=True):
                weight.copy_(torch.lerp(first, last, reach))

        def kept(reach: float) -> float:
            go(reach)
            return measured(module.policy) / self._base if self._base else 1.0

        if self._base is None:
            self._base = measured(module.reference)
        self._reach, share = furthest(kept, self.share)
        go(self._reach)
        found = [weight.clone() for weight in weights]
        go(1.0)
        module.log_dict({"policy/reach": self._reach, "policy/kept": share})
        return found

    def state_dict(self) -> dict[str, Any]:
        return {"reach": self._reach}
