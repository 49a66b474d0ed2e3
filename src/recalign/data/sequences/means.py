"""Mean rewards: state values for advantages, and baselines that a reward model has to beat.

Global and item means come from training rows. A user's mean at an event uses only earlier events, of any split: a
leave-one-out mean would be negatively correlated with the event's own reward.
"""

from __future__ import annotations

import polars as pl

from recalign.data.sequences.splits import TRAIN
from recalign.data.sequences.store import TIE_GROUP

SHRINKAGE = 5.0
"""Pseudo-events: the weight of the global mean in the mean of an item or user."""


def reward_means(frame: pl.DataFrame, shrinkage: float = SHRINKAGE) -> pl.DataFrame:
    """Compute four mean rewards for every event.

    With mu the mean training reward and k the shrinkage in pseudo-events:

    - ``global``: mu;
    - ``item``: (sum of the item's training rewards + k mu) / (their number + k);
    - ``user``: (sum of the user's earlier rewards + k mu) / (their number + k);
    - ``user_item``: item + (sum of the user's earlier residuals r - item) / (their number + k).

    With tie groups, "earlier" means before the event's group.

    Args:
        frame: events in order. Validation and test rows get means too: of items from training rows, of users from
            their earlier events.
        shrinkage: k, the number of events that weigh as much as mu.

    Returns:
        The four f64 columns, one row per event.
    """
    reward, item = pl.col("reward"), pl.col("item_mean")
    train = frame.filter((pl.col("split") == TRAIN) & reward.is_not_null())
    mu = pl.lit(train["reward"].mean(), dtype=pl.Float64)
    items = train.group_by("item").agg(item_mean=(reward.sum() + shrinkage * mu) / (pl.len() + shrinkage))
    joined = frame.select("user", "item", "reward", f"^{TIE_GROUP}$")
    joined = joined.join(items, on="item", how="left", maintain_order="left").with_columns(item.fill_null(mu))
    known, residual = reward.is_not_null().cast(pl.Float64), (reward - item).fill_null(0.0)
    joined = with_sums_before(joined, count=known, sum=reward.fill_null(0.0), residual=residual)
    count = pl.col("count") + shrinkage
    return joined.select(
        mu.alias("global"),
        item.alias("item"),
        ((pl.col("sum") + shrinkage * mu) / count).alias("user"),
        (item + pl.col("residual") / count).alias("user_item"),
    )


def with_sums_before(frame: pl.DataFrame, **values: pl.Expr) -> pl.DataFrame:
    """Add sums of the user's earlier values, in event order; all events of a tie group get the sum before it.

    Shifting the sums, unlike subtracting the event's own value, leaves no rounding error.
    """
    sums = {name: value.cum_sum().shift(1, fill_value=0.0).over("user") for name, value in values.items()}
    frame = frame.with_columns(**sums)
    return frame.with_columns(pl.col(*values).first().over(TIE_GROUP)) if TIE_GROUP in frame else frame
