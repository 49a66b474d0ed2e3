"""Measure a reward model on validation and test; after a fit or test, report how far it can be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from recalign import files
from recalign.data.sequences import Batch, Windows
from recalign.data.sequences.store import SplitName
from recalign.distributed import all_gather_rows
from recalign.recommender.checkpoint import load_net, read_checkpoint
from recalign.recommender.shown_ranking import AUC, NDCG, rank_shown
from recalign.reward.data import RewardData
from recalign.reward.module import RewardModel
from recalign.reward.net import RewardEnsemble
from recalign.reward.trust.measures import prediction_errors
from recalign.reward.trust.report import NEXT, TRUST, compare_predictions, report


class TrustReport(Callback):
    """Measure a reward model, and report how far it can be trusted (`recalign.reward.trust.report`).

    Logs `prediction_errors` on validation as ``reward/{rmse,mae,r2}`` and, for the averages that the model has to beat,
    ``reward/rmse_<mean>``; on test as ``reward/test/...``.

    After a fit the module has the weights of the best epoch. The report covers validation, and after a test also test.
    It is stored as ``module.trust_report`` and written to ``trust.json`` in the trainer's ``default_root_dir``, unless
    that is the current folder, Lightning's default.
    """

    def __init__(self) -> None:
        super().__init__()
        self._predicted: list[dict[str, Tensor]] = []
        self._measured_at = -1  # global step

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        self._predicted.append(outputs)

    on_test_batch_end = on_validation_batch_end  # type: ignore[assignment]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        errors = self._measure(pl_module)
        if not trainer.sanity_checking:
            pl_module.errors, self._measured_at = errors, trainer.global_step
            pl_module.log_dict({f"reward/{k}": v for k, v in errors.items()}, sync_dist=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if self._measured_at != trainer.global_step:
            pl_module.errors = None  # they belong to earlier weights

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module.log_dict({f"reward/test/{k}": v for k, v in self._measure(pl_module).items()}, sync_dist=True)

    def _measure(self, module: RewardModel) -> dict[str, float]:
        """The errors of the predictions since the last call."""
        event, predicted = (
            all_gather_rows(torch.cat([part[name] for part in self._predicted])).cpu()
            for name in ("event", "predicted")
        )
        self._predicted.clear()
        return prediction_errors(module.data.expected_rewards(event.numpy()), pl.Series(predicted.float().numpy()))

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        if best:  # the best epoch need not be the last one
            pl_module.errors = read_checkpoint(best)["facts"].get("errors")
            pl_module.reward.load_state_dict(load_net(best, "reward").net.state_dict())
        if self._measured_at >= 0 or pl_module.errors is not None:
            _write(trainer, pl_module, ["validation"])

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        _write(trainer, pl_module, ["validation", "test"])


def _write(trainer: Trainer, module: RewardModel, splits: Sequence[SplitName]) -> None:
    if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    data, reward = module.data, module.reward
    reward.eval().to(data.device)  # after a fit, Lightning has moved it to the CPU

    def predicted(windows: Windows) -> pl.DataFrame:
        return predict(reward, (batch.to(data.device) for batch in data.loader(windows, seen=False)))

    rated = [split for split in splits if data.is_rated(split)]
    shown = ranking_of_shown(reward, data, rated[0]) if data.sequences.skipped is not None else None
    module.trust_report = report(data, compare_predictions(data, predicted, rated), shown)
    reward.to(module.device)
    module.train()
    folder = Path(trainer.default_root_dir)
    if folder.resolve() != Path.cwd():
        files.write_json(folder / TRUST, module.trust_report)


def ranking_of_shown(reward: RewardEnsemble, data: RewardData, split: SplitName) -> dict[str, float]:
    """Mean AUC and NDCG of predictions within the requests of a split, and the number of requests."""

    def scores(batch: Batch, item_TC: Tensor) -> Tensor:
        return reward.predict(reward.states(batch), item_TC)

    found = rank_shown({"model": scores}, data, split)["model"]
    return {"requests": len(found), **{name: float(found[name].mean() or 0) for name in (AUC, NDCG)}}  # type: ignore[arg-type]


@torch.no_grad()
def predict(reward: RewardEnsemble, batches: Iterable[Batch]) -> pl.DataFrame:
    """Make the predictions that `recalign.reward.trust.report` needs.

    Returns:
        A row per event with a reward and a known item: ``event``; ``model``, the prediction; ``ahead``,
        predictions for the items of the user's next `NEXT` such events minus the prediction for this event's item, all
        from the history before this event; nan if the window has no such event.
    """
    parts = []
    for batch in batches:
        rated_T = (batch.target_T > 0) & ~batch.reward_T.isnan()
        state_KNS, item_N, row_N = reward.states(batch)[:, rated_T], batch.target_T[rated_T], batch.row_T[rated_T]
        index_N = torch.arange(len(item_N), device=item_N.device)
        index_NC = index_N[:, None] + torch.arange(NEXT + 1, device=item_N.device)
        inside_NC, index_NC = index_NC < len(item_N), index_NC.clamp(max=len(item_N) - 1)
        predicted_NC = reward.predictions(state_KNS, item_N[index_NC]).mean(dim=0)
        same_NC = inside_NC & (row_N[index_NC] == row_N[:, None])
        ahead_NC = (predicted_NC - predicted_NC[:, :1]).where(same_NC, torch.nan)[:, 1:]
        parts.append((batch.event_T[rated_T], predicted_NC[:, 0].float(), ahead_NC.float()))
    event, model, ahead = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
    columns = {"event": pl.Series(event).cast(pl.UInt32), "model": model, "ahead": ahead}
    return pl.DataFrame(columns).sort("event")
