"""Rank metrics that are exact over several processes, and bootstrap intervals."""

from recalign.metrics.rank import RankMetrics

__all__ = ["RankMetrics"]
