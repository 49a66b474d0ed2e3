"""Rank metrics that add up exactly over processes, and bootstrap intervals."""

from recalign.metrics.rank import RankMetrics

__all__ = ["RankMetrics"]
