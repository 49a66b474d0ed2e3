"""Rewards that say nothing: the table marks no gain in value, because the judges are known to know nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import tiny

from recalign.data.simulation import simulate, write
from recalign.evaluation.comparison import JUDGE_VALUE
from recalign.evaluation.comparison_table import ComparisonTable
from recalign.evaluation.sources import Sources

LOGS = 20
METHODS = ["popularity", "popularity_high", "item_mean", "popularity_tilt", "rerank", "rerank_item_mean", "start"]
WORDS = [f"--methods={METHODS}", "--placebos={}", "--baselines=[start]", "--highlight=null"]


def marked(folder: Path, seed: int) -> tuple[int, int]:
    """Rows that a log of permuted rewards marks by their value, and those that it would mark if judges were trusted."""
    tiny.prepare(folder)
    write(simulate(replace(tiny.WORLD, seed=seed)), folder / "data")
    file = folder / "data/simulated/events.parquet"
    events = pl.read_parquet(file)
    events.with_columns(pl.col("reward").shuffle(seed)).write_parquet(file)
    said = tiny.chain(folder, *WORDS)
    assert said.code == 0, said.err
    sources = Sources.of(folder / "runs/tiny")
    table, trusting = sources.table(), ComparisonTable(sources.comparison, sources.roles)
    return tuple(sum(one.mark(method, JUDGE_VALUE) != 0 for method in METHODS) for one in (table, trusting))  # type: ignore


@pytest.mark.long
def test_at_most_one_of_20_logs_with_permuted_rewards_marks_any_row(tmp_path: Path):
    found = [marked(tmp_path / str(seed), seed) for seed in range(LOGS)]
    logs, logs_if_trusted = (sum(marks > 0 for marks in each) for each in zip(*found, strict=True))
    assert logs <= LOGS / 20
    assert logs_if_trusted > LOGS / 20  # what prevents marks is the judges' own test
