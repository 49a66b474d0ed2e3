"""Rank metrics that are exact over several processes, and bootstrap intervals."""
