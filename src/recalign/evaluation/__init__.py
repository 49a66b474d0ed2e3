"""Evaluate policies: ranks, judges, the truth, off-policy estimates, the comparison of methods, the report."""
