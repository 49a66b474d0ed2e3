"""Keep one event per user and item: a view, a cart and a purchase are one choice."""

import polars as pl


def strongest(frame: pl.DataFrame) -> pl.Series:
    """Mark the event with the highest reward of each user and item; on ties, the first one.

    An event without a reward ranks below all others.

    Args:
        frame: events sorted by user and time, with ``user``, ``item`` and ``reward``.

    Returns:
        A bool for each event.
    """
    place = frame.select("user", "item", "reward").with_row_index("place")
    by_strength = place.sort("reward", descending=True, nulls_last=True, maintain_order=True)
    kept = by_strength.unique(["user", "item"], keep="first")["place"]
    return place["place"].is_in(kept.implode())
