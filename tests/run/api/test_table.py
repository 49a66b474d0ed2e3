from __future__ import annotations

import polars as pl

from recalign.evaluation.comparison import JUDGE_VALUE, SCHEMA
from recalign.evaluation.report import MARKS
from recalign.evaluation.roles import Roles
from recalign.run.api.table import Comparison

ROWS = [
    ("start", "all", "test", JUDGE_VALUE, 3.6, None, None),
    ("asft", "all", "test", JUDGE_VALUE, 3.8, None, None),
    ("asft", "all", "test", f"holm_best_baseline/{JUDGE_VALUE}", 0.2, 0.1, 0.3),
]


def report(low: float):
    """A judge that orders 60 % of the pairs of one user's rewards right; ``low``: the interval's lower end."""
    return {"judged_on": "validation", "validation": {"table": {"model": {"pairwise": [0.6, low, 0.7]}}}}


def test_printed_comparison_marks_values_only_if_judges_beat_chance():
    frame = pl.DataFrame(ROWS, schema=SCHEMA, orient="row")

    def marks(low: float) -> int:
        trust = {"judge_report": {"0": report(low)}}
        return str(Comparison(frame, ["start", "asft"], Roles(baselines=("start",)), trust=trust)).count(MARKS[1])

    assert (marks(0.55), marks(0.45)) == (2, 1)  # one is in the caption
