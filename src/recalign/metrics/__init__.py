"""Rank metrics that add up exactly over processes, and honest intervals for them."""

from recalign.metrics.rank import RankMetrics

__all__ = ["RankMetrics"]
