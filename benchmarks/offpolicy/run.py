"""May off-policy estimates be believed? Simulated worlds, Coat's random half, the sample of the Open Bandit Dataset.

    python -m benchmarks.offpolicy.run [--parts worlds coat obd] [--worlds 200] [--seeds 0 1 2] [--cache DIR]

- worlds: how often 95 % intervals hold the true value, by effective sample size; half of each world's events are shown
  at random, and policies are made, not trained, so that 200 worlds take minutes.
- coat: reward models learned from what users chose, and policies that follow them, valued on what was drawn at random.
- obd: the uniform policy valued on what Bernoulli Thompson sampling (bts) showed, and the other way round, against what
  the other one earned. The sample comes with the obp 0.4.1 wheel, which is fetched once and of which nothing is run.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.lib import commit, each, figure, frame, markdown, options, save
from benchmarks.offpolicy.coat import coat
from benchmarks.offpolicy.obd import obd
from benchmarks.offpolicy.worlds import BINS, world
from recalign.bootstrap import CrossedBootstrap
from recalign.evaluation.offpolicy import ESTIMATORS

Line = tuple[str, str, str, float, float | None, float | None, float | None, str]


def main() -> None:
    parser = options(__doc__, seeds=[0, 1, 2], data=True)
    parser.add_argument("--parts", nargs="+", default=["worlds", "coat", "obd"], choices=["worlds", "coat", "obd"])
    parser.add_argument("--worlds", type=int, default=200, help="seeds 0, 1, ...")
    parser.add_argument("--workers", type=int, default=1, help="worlds at a time")
    parser.add_argument("--cache", type=Path, default=Path("data"), help="where the wheel is kept")
    given = parser.parse_args()
    makers = {
        "worlds": lambda: coverage(given.worlds, given.workers),
        "coat": lambda: coat(given.seeds, given.data),
        "obd": lambda: obd(given.cache),
    }
    for part in given.parts:
        rows = frame([(*line, commit()) for line in makers[part]()])
        for log, own in rows.group_by("log", maintain_order=True):
            print(f"\n{log[0]}\n\n{table(own)}", flush=True)
        print(f"\n{save(rows, 'offpolicy/rows', 'log')}")


def coverage(worlds: int, workers: int) -> Iterator[Line]:
    """Coverage and width of the intervals, by policy and by effective sample size."""
    found = pl.concat(each(world, range(worlds), workers))
    for low, high in pairwise([0, *BINS, np.inf]):
        name = f"ess {low} to {high}" if high < np.inf else f"ess {low} and more"
        inside = found.filter((pl.col("ess") >= low) & (pl.col("ess") < high))
        if len(inside):  # few worlds may have none
            yield from _covered("simulated, by effective sample size", name, inside, worlds)
    for (family, sharpness), inside in found.group_by("family", "sharpness", maintain_order=True):
        yield from _covered("simulated, by policy", f"{family}, {sharpness:g}", inside, worlds)


def _covered(log: str, row: str, found: pl.DataFrame, worlds: int) -> Iterator[Line]:
    seeds = f"0-{worlds - 1}"
    yield log, row, "ess", float(found["ess"].mean()), None, None, None, seeds  # type: ignore[arg-type]
    yield log, row, "estimates", float(found.height), None, None, None, seeds
    for name in ESTIMATORS:
        covers_N = ((found[f"{name}_low"] <= found["true"]) & (found["true"] <= found[f"{name}_high"])).to_numpy()
        estimate = CrossedBootstrap(worlds).mean(
            *(np.bincount(found["seed"].to_numpy(), by_N, worlds)[None] for by_N in (covers_N, np.ones(len(found))))
        )
        yield log, row, f"coverage/{name}", estimate.value, None, *estimate.interval(), seeds
        half = ((found[f"{name}_high"] - found[f"{name}_low"]) / 2).median()
        yield log, row, f"halfwidth/{name}", float(half), None, None, None, seeds  # type: ignore[arg-type]
        error = float(((found[name] - found["true"]) ** 2).mean() ** 0.5)  # type: ignore[operator]
        yield log, row, f"rmse/{name}", error, None, None, None, seeds


def table(rows: pl.DataFrame) -> str:
    """A Markdown table: a line a row, a column a metric."""
    metrics = {metric: metric for metric in rows["metric"].unique(maintain_order=True)}
    return markdown(rows, metrics, shown=lambda cell, _: figure(cell, _digits(cell["mean"])))


def _digits(value: float) -> int:
    """Three figures."""
    return max(0, 2 - int(np.floor(np.log10(abs(value))))) if value else 1


if __name__ == "__main__":
    main()
