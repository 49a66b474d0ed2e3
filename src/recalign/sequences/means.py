"""Mean rewards: the baselines of an advantage and of a reward model.

All means come from training rows. A user's mean at an event uses earlier events only: a leave-one-out mean would move
against the event's own reward.
"""

from __future__ import annotations

import polars as pl

from recalign.sequences.splits import TRAIN


def reward_means(frame: pl.DataFrame, shrinkage: float = 5.0) -> pl.DataFrame:
    """Compute four mean rewards for every event.

    With mu the mean training reward and k the shrinkage in pseudo-events:

    - ``global``: mu;
    - ``item``: (sum of the item's training rewards + k mu) / (their number + k);
    - ``user``: (sum of the user's earlier rewards + k mu) / (their number + k);
    - ``user_item``: item + (sum of the user's earlier residuals r - item) / (their number + k).

    Args:
        frame: events in order, with ``user``, ``item``, ``split`` and ``reward`` (null where there is none). Rows of
            validation and test get means too: items from training rows, users from their own earlier events.
        shrinkage: k, the number of events that weigh as much as mu.

    Returns:
        A frame with these four f64 columns, one row per event.
    """
    train = frame.filter((pl.col("split") == TRAIN) & pl.col("reward").is_not_null())
    mean = train["reward"].mean()
    mu = pl.lit(mean, dtype=pl.Float64)
    items = train.group_by("item").agg(
        ((pl.col("reward").sum() + shrinkage * mu) / (pl.len() + shrinkage)).alias("item_mean")
    )
    joined = frame.select("user", "item", "reward").join(items, on="item", how="left", maintain_order="left")
    joined = joined.with_columns(pl.col("item_mean").fill_null(mean))
    known = pl.col("reward").is_not_null().cast(pl.Float64)
    residual = pl.col("reward") - pl.col("item_mean")
    count = _before(known) + shrinkage
    return joined.select(
        mu.alias("global"),
        pl.col("item_mean").alias("item"),
        ((_before(pl.col("reward").fill_null(0.0)) + shrinkage * mu) / count).alias("user"),
        (pl.col("item_mean") + _before(residual.fill_null(0.0)) / count).alias("user_item"),
    )


def _before(value: pl.Expr) -> pl.Expr:
    """Sum of a user's earlier values. Shifting, unlike subtracting the event's own, leaves no rounding error."""
    return value.cum_sum().shift(1, fill_value=0.0).over("user")
