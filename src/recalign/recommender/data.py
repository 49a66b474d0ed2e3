"""Behaviour cloning reads no reward, so it trains on everybody."""

from __future__ import annotations

from recalign.sequences import EventDataModule


class RecommenderData(EventDataModule):
    """Next items of all users (or of ``users``), validated on their next items."""
