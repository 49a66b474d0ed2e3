"""The study of rewards shows what the command found, to the last digit."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from recalign.reward.candidates.comparison import SCHEMA
from recalign.reward.candidates.text import render

ROOT = Path(__file__).parents[2]


def test_the_studys_output_is_that_of_the_saved_rows():
    saved = pl.read_csv(ROOT / "benchmarks/rewards/kuairand-pure-excerpt.csv", schema=SCHEMA)
    assert render(saved) in (ROOT / "benchmarks/rewards/output.txt").read_text()
