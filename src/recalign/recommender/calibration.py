"""Choose the strength of the item prior on validation when cloning ends."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from recalign.data.sequences import Batch
from recalign.distributed import broadcast_floats
from recalign.recommender.checkpoint import load_net, read_checkpoint, write_checkpoint
from recalign.recommender.policy import Policy
from recalign.recommender.rank_metrics import RankMetrics
from recalign.recommender.training import PolicyModule

MAX_STRENGTH = 2.0
COARSE_STEP, FINE_STEP = 0.25, 0.0625
"""Of the search: first over the whole range, then around the best."""


class CalibratePrior(Callback):
    """Choose the strength of the policy's item prior when training ends, and write it into the checkpoint.

    Taken is the strength in 0..2 with the highest ``all/ndcg@10`` on the stage's validation events (by default those of
    all users, on which an NDCG budget is measured too), the weakest of several. It goes into the best checkpoint, from
    which the next stage starts, and into the module's policy. Training itself, and the validation that picks its epoch,
    know no prior. Two passes over these events rank once for every strength that is tried.

    Logs ``rank/prior``, the strength, and ``rank/prior/ndcg@10`` with ``rank/prior/ndcg@10_without``, what it is worth;
    the checkpoint's facts hold the same as ``prior``.

    Args:
        facts: what is found goes into this dictionary too, by name: the strength, what it is worth.
    """

    def __init__(self, facts: dict[str, float]) -> None:
        super().__init__()
        self.facts = facts
        self._validated = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated |= not trainer.sanity_checking

    def state_dict(self) -> dict[str, bool]:
        return {"validated": self._validated}

    def load_state_dict(self, state_dict: dict[str, bool]) -> None:
        self._validated = state_dict["validated"]

    def on_train_end(self, trainer: Trainer, pl_module: PolicyModule) -> None:  # type: ignore[override]
        if not trainer.num_val_batches or not self._validated or not pl_module.datamodule:
            what = "nothing is validated" if pl_module.datamodule else "the module knows no log (module.bind)"
            rank_zero_warn(f"{what}, so the policy gets no item prior (model.prior)")
            return
        path = _handed_over(trainer)
        saved = path.is_file()
        policy = load_net(path, "policy").net if saved else copy.deepcopy(pl_module.policy)
        found = self._search(trainer, pl_module, policy.to(pl_module.device).eval())
        pl_module.policy.prior_strength = policy.prior_strength = found["strength"]
        self.facts |= found
        if saved and trainer.is_global_zero:
            checkpoint = read_checkpoint(path)
            checkpoint["state_dict"] |= {f"policy.{name}": x for name, x in policy.cpu().state_dict().items()}
            checkpoint["facts"]["prior"] = found
            write_checkpoint(checkpoint, path)
        strength, with_it, without = found.values()
        if strength == MAX_STRENGTH:
            rank_zero_warn(
                f"the item prior's strength is at the end of its range, {strength:g}: validation asks for even more "
                "common items; the policy may be trained too little"
            )
        rank_zero_info(f"item prior of strength {strength:g}: NDCG@10 on validation {without:.4f} -> {with_it:.4f}")
        figures = {"rank/prior": strength, "rank/prior/ndcg@10": with_it, "rank/prior/ndcg@10_without": without}
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=trainer.global_step)

    def on_fit_end(self, trainer: Trainer, pl_module: PolicyModule) -> None:  # type: ignore[override]
        """Read the prior's figures from the checkpoint if nothing was left to train: `on_train_end` did not run."""
        if not self.facts and (path := _handed_over(trainer)).is_file():
            self.facts |= read_checkpoint(path)["facts"].get("prior", {})
            pl_module.policy.prior_strength = self.facts.get("strength", 0.0)

    def _search(self, trainer: Trainer, module: PolicyModule, policy: Policy) -> dict[str, float]:
        """The strength, and NDCG@10 with and without it."""
        data, limit = module.data, int(trainer.num_val_batches[0])
        windows = data.windows("validation")

        def measure(strengths: list[float]) -> dict[float, float]:
            with trainer.precision_plugin.val_step_context():
                batches = map(module.visible, islice(data.loader(windows), limit))
                return ndcg_by_strength(policy, batches, module.device, strengths)

        def best() -> float:
            return max(sorted(found), key=lambda strength: found[strength])  # of equals, the weakest

        found = measure([step * COARSE_STEP for step in range(round(MAX_STRENGTH / COARSE_STEP) + 1)])
        around = (best() + step * FINE_STEP for step in (-3, -2, -1, 1, 2, 3))
        found |= measure([strength for strength in around if 0 <= strength <= MAX_STRENGTH])
        names, values = ("strength", "ndcg@10", "ndcg@10_without"), (best(), found[best()], found[0.0])
        return dict(zip(names, broadcast_floats(values, module.device), strict=True))


@torch.no_grad()
def ndcg_by_strength(
    policy: Policy, batches: Iterable[Batch], device: torch.device, strengths: list[float]
) -> dict[float, float]:
    """Mean NDCG@10 of all targets under each strength of the policy's item prior; NaN if there is none.

    Ranked over the full catalogue without what was seen. The last strength stays set. A state knows nothing of the
    prior, so histories are encoded once.
    """
    metrics = {strength: RankMetrics((10,), sync_on_compute=False).to(device) for strength in strengths}
    for batch in batches:
        there = batch.to(device)
        state = policy.encode(there)
        for strength, metric in metrics.items():
            policy.prior_strength = strength
            metric.update(policy.ranks_within(state, there.target_T, 10, there.seen_N))
    return {strength: float(metric.compute()["ndcg@10"]) for strength, metric in metrics.items()}


def _handed_over(trainer: Trainer) -> Path:
    """The checkpoint from which the next stage starts; no file, where the run writes none."""
    callback = trainer.checkpoint_callback
    return Path(getattr(callback, "best_model_path", "") or getattr(callback, "last_model_path", ""))
