"""Behaviour cloning reads no reward, so it may train on all users."""

from __future__ import annotations

from recalign.sequences import EventDataModule


class RecommenderData(EventDataModule):
    """Next items of all users (or of ``users``), validated on their next items."""
