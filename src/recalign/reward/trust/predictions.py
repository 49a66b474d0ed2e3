"""What a reward model predicts of the events it is measured on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recalign.reward.net import RewardEnsemble
from recalign.sequences import Batch

NEAR = 10
"""Two events of a user are compared where the later is one of the next so many."""

Predicted = tuple[Tensor, Tensor, Tensor]


def predicted_rewards(reward: RewardEnsemble, batch: Batch) -> Predicted:
    """Events with a reward and a known item, the members' mean, and their standard deviation (0 for one): (N,) each."""
    rated_T = _rated(batch)
    predicted_KN = reward.predictions(reward.states(batch)[:, rated_T], batch.target_T[rated_T])
    return batch.event_T[rated_T], *_summary(predicted_KN)


def concatenated(parts: list[Predicted]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Events, float32 means and spreads of several batches."""
    event, mean, spread = (torch.cat(column) for column in zip(*parts, strict=True))
    return event.cpu().numpy(), mean.float().cpu().numpy(), spread.float().cpu().numpy()


def further_errors(further: dict[str, list[Tensor]]) -> dict[str, Tensor]:
    """RMSE and R2 of further rewards, by name observed and predicted in batches, (2, N) each, which are used up."""
    figures: dict[str, Tensor] = {}
    for name, parts in further.items():
        reward_N, predicted_N = torch.cat(parts, dim=1)
        mse = (predicted_N - reward_N).square().mean()
        figures |= {f"{name}/rmse": mse.sqrt(), f"{name}/r2": 1 - mse / reward_N.var(correction=0)}
    further.clear()
    return figures


@torch.no_grad()
def predictions(reward: RewardEnsemble, batches: Iterable[Batch]) -> pl.DataFrame:
    """All that `recalign.reward.trust.report` asks of a reward model.

    Returns:
        A row an event with a reward and a known item: ``event``, ``model`` (the prediction), ``spread`` (the members'
        standard deviation), and ``ahead``: by how much the items of the user's next `NEAR` such events are predicted to
        be better than this event's own, all from the history before this event; nan where there is no such event in
        the same window.
    """
    parts, ahead = [], []
    for batch in batches:
        rated_T = _rated(batch)
        state_KNS, item_N, row_N = reward.states(batch)[:, rated_T], batch.target_T[rated_T], batch.row_T[rated_T]
        index_NC = torch.arange(len(item_N), device=item_N.device)[:, None] + torch.arange(
            NEAR + 1, device=item_N.device
        )
        index_NC = index_NC.clamp(max=len(item_N) - 1)
        predicted_KNC = reward.predictions(state_KNS, item_N[index_NC])
        predicted_NC, spread_NC = _summary(predicted_KNC)
        same_NC = (row_N[index_NC] == row_N[:, None]) & (index_NC.diff(dim=1, prepend=index_NC[:, :1] - 1) > 0)
        ahead.append((predicted_NC - predicted_NC[:, :1]).where(same_NC, torch.nan)[:, 1:].cpu())
        parts.append((batch.event_T[rated_T], predicted_NC[:, 0], spread_NC[:, 0]))
    event, mean, spread = concatenated(parts)
    columns = {"event": pl.Series(event).cast(pl.UInt32), "model": mean, "spread": spread}
    return pl.DataFrame(columns | {"ahead": torch.cat(ahead).float().numpy()}).sort("event")


def _summary(predicted_KN: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the members, as `torch.std_mean`, which warns where there is no event."""
    mean_N = predicted_KN.mean(dim=0)
    return mean_N, (predicted_KN - mean_N).square().mean(dim=0).sqrt()


def _rated(batch: Batch) -> Tensor:
    return (batch.target_T > 0) & ~batch.reward_T.isnan()
