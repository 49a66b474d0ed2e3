"""Figures of a comparison and trust reports, made up by hand."""

import polars as pl

from recalign.evaluation.comparison import SCHEMA
from recalign.evaluation.comparison_table import ComparisonTable
from recalign.evaluation.roles import Roles

ROLES = Roles("mine", {"sham": "mine"})


def table(values, kept=None, gains=None, over_tilt=None, seeds=("0",), split="test"):
    """A split's figures: values, shares of the ranking kept, and intervals of gains, by method."""
    rows = []
    for method, value in values.items():
        share = (kept or {}).get(method, 1.0)
        rows += [(method, "all", split, "all/ndcg@10", 0.1 * share, 0.0, 1.0)]
        rows += [(method, "all", split, f"value/{who}@10", value, value, value) for who in ("judge", "select_judge")]
        rows += [(method, seed, split, "value/judge@10", value, None, None) for seed in seeds]
        low, high = (gains or {}).get(method, (0.1, 0.3))
        rows += [(method, "all", split, "diff_best_bc/value/judge@10", (low + high) / 2, low, high)]
    for method, (low, high) in (over_tilt or {}).items():
        rows += [(method, "all", split, "diff_popularity_tilt/value/judge@10", (low + high) / 2, low, high)]
    return ComparisonTable(pl.DataFrame(rows, schema=SCHEMA, orient="row"), ROLES, split)


def reports(verdict="moderate", pairwise=(0.6, 0.55, 0.65)):
    judged = {"judged_on": "validation", "validation": {"table": {"model": {"pairwise": list(pairwise)}}}}
    return {"reward": {"0": {"verdict": verdict, "implication": "Use A-SFT."}}, "judge_report": {"0": judged}}


VALUES = {"start": 3.0, "bc": 2.9, "mine": 3.2}
