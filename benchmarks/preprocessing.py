"""From a raw log to the first training batch: time and memory, cold and from the cache.

    python benchmarks/preprocessing.py [--events 5 20 80] [--repeats 3] [--data DIR] [--tmp DIR]

ML-1M is read from ``ratings.dat`` (or its zip) under the data root, if it is there; the other logs are Parquet files
of random events that the script makes: 100 events a user in the mean, 100,000 items, rows in order of time. Each figure
comes from a process of its own; importing recalign is not in the time. Peak memory is the process's highest resident
size, with what the imports take (the row `imports`). Rows of other logs stay as they are in the saved table.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from tables import SCHEMA, beside_other_logs, commit, save

from recalign.events import Log, data_root
from recalign.sequences import EventDataModule, High, TimeSplit

METRICS = {"cold_s": "cold (s)", "cold_gb": "peak (GB)", "cached_s": "from cache (s)", "cached_gb": "peak (GB)"}
ML_1M = Log("ml-1m", ["ml-1m/ratings.dat"], time_resolution=600)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, nargs="*", default=[5, 20, 80], help="millions of generated events")
    parser.add_argument("--repeats", type=int, default=3, help="processes a figure; the median is shown")
    parser.add_argument("--data", type=Path, default=None, help="data root that holds ml-1m")
    parser.add_argument("--tmp", type=Path, default=None, help="where generated logs and caches go for a while")
    parser.add_argument("--one", nargs=3, metavar=("LOG", "ROOT", "CACHE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(first_batch(*arguments.one)))
        return
    rows = [row("imports", [alone("imports", ".", ".")], ["gb"])]
    root = data_root(str(arguments.data) if arguments.data else None)
    with tempfile.TemporaryDirectory(dir=arguments.tmp) as folder:
        if any((root / name).exists() for name in ("ml-1m", "ml-1m.zip")):
            rows.append(measured("ml-1m", root, Path(folder), arguments.repeats))
        for millions in arguments.events:
            name = f"random-{millions}M"
            generate(Path(folder) / f"{name}.parquet", millions * 1_000_000)
            rows.append(measured(name, Path(folder), Path(folder), arguments.repeats))
            (Path(folder) / f"{name}.parquet").unlink()
    table = pl.concat(rows)
    print(text(table))
    print(save(beside_other_logs(table, "preprocessing"), "preprocessing"))


def measured(name: str, root: Path, folder: Path, repeats: int) -> pl.DataFrame:
    """Rows of one log: each repeat reads it cold, into a new cache, then from that cache."""
    runs = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            cold, cached = (alone(name, str(root), cache) for _ in range(2))
        runs.append({f"{kind}_{k}": v for kind, r in (("cold", cold), ("cached", cached)) for k, v in r.items()})
        print(name, runs[-1], file=sys.stderr, flush=True)
    return row(name, runs, list(METRICS))


def alone(*words: str) -> dict[str, float]:
    """`first_batch` in a process of its own."""
    command = [sys.executable, __file__, "--one", *words]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(run.stdout.splitlines()[-1]))


def first_batch(name: str, root: str, cache: str) -> dict[str, float]:
    """Seconds to the first training batch of a log, and the peak memory of this process."""
    began = time.perf_counter()
    if name != "imports":
        log = ML_1M if name == "ml-1m" else Log(name, [f"{name}.parquet"])
        settings: dict[str, Any] = {"reward": "rating", "high": High("rating >= 5"), "split": TimeSplit()}
        data = EventDataModule(log, root=root, cache=cache, **settings)
        next(iter(data.train_dataloader()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts KiB
    return {"s": time.perf_counter() - began, "gb": peak}


def generate(path: Path, events: int, block: int = 5_000_000) -> None:
    """A Parquet log of random events: popular items and busy users more often, times ascending."""
    random = np.random.default_rng(0)
    parts = []
    for start in range(0, events, block):
        rows = min(block, events - start)
        parts.append(path.with_suffix(f".{start}"))
        pl.DataFrame(
            {
                "user": (random.random(rows) ** 2 * (events // 100)).astype(np.int64) * 7,
                "item": (random.random(rows) ** 3 * 100_000).astype(np.int64) + 1_000,
                "rating": random.integers(1, 6, rows).astype(np.int8),
                "timestamp": 1_500_000_000 + np.sort(random.integers(start, start + rows, rows)),
            }
        ).write_parquet(parts[-1])
    pl.scan_parquet(parts).sink_parquet(path)
    for part in parts:
        part.unlink()


def row(name: str, runs: list[dict[str, float]], metrics: list[str]) -> pl.DataFrame:
    """Median, least and greatest of each metric, as results are saved."""
    rows = []
    for metric in metrics:
        values = sorted(run[metric] for run in runs)
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
        middle = float(np.median(values))
        rows.append((name, "recalign", metric, middle, spread, values[0], values[-1], str(len(values)), commit()))
    types = [pl.String] * 3 + [pl.Float64] * 4 + [pl.String] * 2
    return pl.DataFrame(rows, schema=dict(zip(SCHEMA, types, strict=True)), orient="row")


def text(table: pl.DataFrame) -> str:
    """The table as Markdown: median (least .. greatest) over the repeats."""
    cells = {(r["log"], r["metric"]): r for r in table.iter_rows(named=True)}
    lines = [f"| log | {' | '.join(METRICS.values())} |", "|---" * (len(METRICS) + 1) + "|"]
    for name in table["log"].unique(maintain_order=True):
        shown = [cells.get((name, metric)) for metric in METRICS]
        line = [f"{c['mean']:.2f} ({c['ci_low']:.2f} .. {c['ci_high']:.2f})" if c else "-" for c in shown]
        lines.append(f"| {name} | {' | '.join(line)} |")
    imports = cells["imports", "gb"]["mean"]
    return "\n".join([*lines, "", f"Peak memory with nothing but the imports: {imports:.2f} GB."])


if __name__ == "__main__":
    main()
