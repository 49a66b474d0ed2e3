"""One event for each user and item: a view, a cart and a purchase are one choice."""

import polars as pl


def strongest(frame: pl.DataFrame) -> pl.Series:
    """Whether each event is the one that stands for its user and item.

    It is the event with the highest reward; of equal ones, the first. An event without a reward is the weakest.

    Args:
        frame: events in the order of each user's time, with ``user``, ``item`` and ``reward``.

    Returns:
        A bool for each event.
    """
    place = frame.select("user", "item", "reward").with_row_index("place")
    by_strength = place.sort("reward", descending=True, nulls_last=True, maintain_order=True)
    kept = by_strength.unique(["user", "item"], keep="first")["place"]
    return place["place"].is_in(kept.implode())
