"""Set the moments of the default simulated world beside those of ML-100K.

    python benchmarks/calibrate_world.py [--file u.data] [--seeds 10]

prints the table of docs/simulation.md and saves it to benchmarks/results/calibrate_world.csv. The log is ml-100k/u.data
in the folder that RECALIGN_DATA names, unless `--file` gives another place. The default world was chosen by this table
alone, before any recommender was trained in it.
"""

import os
from pathlib import Path

import numpy as np
import polars as pl
from jsonargparse import auto_cli
from log_moments import moments, next_item, predictable
from tables import commit
from tables import save as save_rows

from recalign.simulation import World, simulate


def main(file: Path | None = None, seeds: int = 10) -> None:
    """Print and save the moments of ML-100K and of the default world.

    Args:
        file: u.data of ML-100K: user, item, rating and timestamp, separated by tabs.
        seeds: number of worlds.
    """
    log = read(file or Path(os.environ.get("RECALIGN_DATA", "data")) / "ml-100k" / "u.data")
    real = describe(log)
    worlds = [describe(simulate(World(seed=seed)).events) for seed in range(seeds)]
    table = pl.DataFrame([row(metric, real[metric], [world[metric] for world in worlds]) for metric in real])
    with pl.Config(tbl_rows=-1, tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True, float_precision=3):
        print(table)
    save(table, seeds)


def read(file: Path) -> pl.DataFrame:
    return pl.read_csv(file, separator="\t", has_header=False, new_columns=["user", "item", "reward", "timestamp"])


def describe(events: pl.DataFrame) -> dict[str, float]:
    return {**moments(events), **predictable(events), **next_item(events)}


def row(metric: str, real: float, worlds: list[float]) -> dict[str, str | float]:
    """The interval is a bootstrap over worlds."""
    draws = np.random.default_rng(0).choice(worlds, size=(2000, len(worlds))).mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return {
        "metric": metric,
        "ml_100k": real,
        "mean": np.mean(worlds),
        "sd": np.std(worlds, ddof=1),
        "ci_low": low,
        "ci_high": high,
    }


def save(table: pl.DataFrame, seeds: int) -> None:
    real = table.select(log=pl.lit("ml-100k"), row=pl.lit("log"), metric="metric", mean="ml_100k")
    world = table.select(
        pl.lit("simulated").alias("log"), pl.lit("default").alias("row"), "metric", "mean", "sd", "ci_low", "ci_high"
    )
    rows = pl.concat([real, world.with_columns(seeds=pl.lit(seeds))], how="diagonal")
    print(save_rows(rows.with_columns(commit=pl.lit(commit())), "calibrate_world"))


if __name__ == "__main__":
    auto_cli(main)
