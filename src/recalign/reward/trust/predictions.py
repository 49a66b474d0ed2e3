"""Predictions of a reward model on the events that it is measured on."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl
import torch

from recalign.data.sequences import Batch
from recalign.reward.net import RewardEnsemble, member_deviation

NEXT = 10
"""An event is paired with the user's next events, up to so many."""


@torch.no_grad()
def predict(reward: RewardEnsemble, batches: Iterable[Batch]) -> pl.DataFrame:
    """Predict what `recalign.reward.trust.report` needs.

    Returns:
        A row an event with a reward and a known item: ``event``; ``model``, the prediction; ``spread``, the
        `member_deviation`; ``ahead``, predictions for the items of the user's next `NEXT` such events less that for
        this event's own, all from the history before this event; nan where the window has no such event.
    """
    parts = []
    for batch in batches:
        rated_T = (batch.target_T > 0) & ~batch.reward_T.isnan()
        state_KNS, item_N, row_N = reward.states(batch)[:, rated_T], batch.target_T[rated_T], batch.row_T[rated_T]
        index_N = torch.arange(len(item_N), device=item_N.device)
        index_NC = index_N[:, None] + torch.arange(NEXT + 1, device=item_N.device)
        inside_NC, index_NC = index_NC < len(item_N), index_NC.clamp(max=len(item_N) - 1)
        predicted_KNC = reward.predictions(state_KNS, item_N[index_NC])
        predicted_NC, spread_N = predicted_KNC.mean(dim=0), member_deviation(predicted_KNC[..., 0])
        same_NC = inside_NC & (row_N[index_NC] == row_N[:, None])
        ahead_NC = (predicted_NC - predicted_NC[:, :1]).where(same_NC, torch.nan)[:, 1:]
        parts.append((batch.event_T[rated_T], predicted_NC[:, 0].float(), spread_N.float(), ahead_NC.float()))
    event, model, spread, ahead = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
    columns = {"event": pl.Series(event).cast(pl.UInt32), "model": model, "spread": spread, "ahead": ahead}
    return pl.DataFrame(columns).sort("event")
