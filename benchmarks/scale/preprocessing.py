"""From a raw log to the first training steps: time and memory, read whole, prepared in partitions, and from the cache.

    python -m benchmarks.scale.preprocessing [--events 5 20] [--whole 20] [--workers 1 2] [--repeats 3] [--tmp DIR]

ML-1M is read if its zip or folder is under the data root; the other logs are Parquet files
of random events that the script makes: 100 events a user in the mean, 100,000 items, rows in order of time. Each figure
comes from a process of its own; importing recalign is not in the time. Memory is the highest anonymous resident size
(RssAnon: mapped pages do not count) of the process and its workers together, seen every 20 ms, with what the imports
take (the row `imports`). With several numbers of workers only `prepare` is measured, in alternating turns: a busy
machine leaves their ratio. Disk is the most that the cache's folder held, seen every second. Rows of other logs stay as
they are in the saved table.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from lightning.pytorch import Trainer

from benchmarks.lib import by_metric, lines, markdown, middle, options, save
from recalign.data.events import LogMapping, data_root
from recalign.data.sequences import EventDataModule, High, TimeSplit
from recalign.data.sequences.prepare import prepare
from recalign.recommender import Recommender

METRICS = {
    "whole_s": "read whole (s)",
    "whole_gb": "RssAnon (GB)",
    "prepare_s": "`prepare` (s)",
    "prepare_gb": "RssAnon (GB)",
    "prepare_disk": "disk (GB)",
    "cached_s": "from cache (s)",
    "cached_gb": "RssAnon (GB)",
    "fit_gb": "fit, RssAnon (GB)",
}
BY_WORKERS = {
    "ratio": "time, as a share",
    "cpu_s": "CPU (s)",
    "gb": "RssAnon (GB)",
    "largest_gb": "largest process (GB)",
}
ML_1M = LogMapping("ml-1m", ["ml-1m/ratings.parquet"], time_resolution=600)


def main() -> None:
    parser = options(__doc__, data=True)
    parser.add_argument("--events", type=int, nargs="*", default=[5, 20], help="millions of generated events")
    parser.add_argument("--whole", type=int, default=20, help="millions up to which a log is read whole, too")
    parser.add_argument("--workers", type=int, nargs="+", default=[1], help="of recalign prepare")
    parser.add_argument("--repeats", type=int, default=3, help="processes a figure; the median is shown")
    parser.add_argument("--tmp", type=Path, default=None, help="where generated logs and caches go for a while")
    parser.add_argument("--one", nargs=5, metavar=("KIND", "LOG", "ROOT", "CACHE", "WORKERS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(first_batch(*arguments.one)))
        return
    imports = alone("imports", ".", ".", ".", "1")["gb"]
    rows = [lines("imports", "recalign", {"gb": [imports]}, [1])]
    root, several = data_root(arguments.data), len(arguments.workers) > 1
    with tempfile.TemporaryDirectory(dir=arguments.tmp) as folder:
        if (root / "ml-1m.zip").exists() and not several:
            rows.append(measured("ml-1m", root, Path(folder), True, arguments.workers[0], arguments.repeats))
        for millions in arguments.events:
            name = f"random-{millions}M"
            generate(Path(folder) / f"{name}.parquet", millions * 1_000_000)
            if several:
                rows.append(by_workers(name, Path(folder), arguments.workers, arguments.repeats))
            else:
                whole = millions <= arguments.whole
                rows.append(measured(name, Path(folder), Path(folder), whole, arguments.workers[0], arguments.repeats))
            (Path(folder) / f"{name}.parquet").unlink()
    table = pl.concat(rows)
    shown = table.filter(pl.col("log") != "imports")
    text = markdown(shown, BY_WORKERS, 2) if several else markdown(shown.with_columns(row="log"), METRICS, 2)
    print(f"{text}\n\nRssAnon with nothing but the imports: {imports:.2f} GB.")
    print(save(table, "scale/preprocessing", "log"))


def measured(name: str, root: Path, folder: Path, whole: bool, workers: int, repeats: int) -> pl.DataFrame:
    """Rows of one log: each repeat reads it whole (if asked for) and prepares it, then reads the cache."""
    runs: list[dict[str, float]] = []
    for _ in range(repeats):
        runs.append({})
        for kind in ("whole", "prepare") if whole else ("prepare",):
            with tempfile.TemporaryDirectory(dir=folder) as cache:
                runs[-1] |= {f"{kind}_{k}": v for k, v in alone(kind, name, str(root), cache, str(workers)).items()}
                if kind == "prepare":
                    for kind in ("cached", "fit"):
                        found = alone(kind, name, str(root), cache, "1")
                        runs[-1] |= {f"{kind}_{k}": v for k, v in found.items()}
        print(name, runs[-1], file=sys.stderr, flush=True)
    values = {metric: found for metric, found in by_metric(runs).items() if metric in METRICS}
    return lines(name, "recalign", values, [repeats], middle)


def by_workers(name: str, folder: Path, workers: list[int], repeats: int) -> pl.DataFrame:
    """Rows of `prepare` alone by its workers, in alternating turns; ``ratio`` is of its time to that of the first."""
    runs: dict[int, list[dict[str, float]]] = {number: [] for number in workers}
    for _ in range(repeats):
        for number in workers:
            with tempfile.TemporaryDirectory(dir=folder) as cache:
                runs[number].append(alone("prepare", name, str(folder), cache, str(number)))
            runs[number][-1]["ratio"] = runs[number][-1]["s"] / runs[workers[0]][-1]["s"]
            print(name, number, runs[number][-1], file=sys.stderr, flush=True)
    rows = {f"workers: {number}": by_metric(found) for number, found in runs.items()}
    return pl.concat(lines(f"{name} by workers", row, found, [repeats], middle) for row, found in rows.items())


def alone(*words: str) -> dict[str, float]:
    """`first_batch` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale.preprocessing", "--one", *words]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(run.stdout.splitlines()[-1]))


def first_batch(kind: str, name: str, root: str, cache: str, workers: str) -> dict[str, float]:
    """Seconds to the first training batch of a log (others: to their end), peak memory, and disk.

    ``fit`` is three training steps and a batch of validation.
    """
    memory, disk = Peak(lambda: sum(anonymous()), 0.02), Peak(lambda: held(Path(cache)), 1.0)
    largest, began, before = Peak(lambda: max(anonymous()), 0.02), time.perf_counter(), sum(os.times()[:4])
    if kind != "imports":
        log = ML_1M if name == "ml-1m" else LogMapping(name, [f"{name}.parquet"])
        settings: dict[str, Any] = {"reward": "rating", "high": High("rating >= 5"), "split": TimeSplit()}
        data = EventDataModule(log, root=root, cache=cache, **settings)
        if kind == "prepare":
            prepare(data, workers=int(workers))
        elif kind == "fit":
            quiet: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
            trainer = Trainer(accelerator="cpu", max_steps=3, val_check_interval=3, limit_val_batches=1, **quiet)
            trainer.fit(Recommender(data.num_items, negatives=64), data)
        else:
            next(iter(data.train_dataloader()))
    spent = {"s": time.perf_counter() - began, "cpu_s": sum(os.times()[:4]) - before}
    return spent | {"gb": memory.highest(), "largest_gb": largest.highest(), "disk": disk.highest()}


class Peak:
    """The highest value of a figure, seen every few milliseconds by a thread."""

    def __init__(self, figure: Callable[[], float], seconds: float) -> None:
        self.figure, self.seconds, self.most = figure, seconds, 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def highest(self) -> float:
        self.most = max(self.most, self.figure())
        return self.most

    def _watch(self) -> None:
        while True:
            self.highest()
            time.sleep(self.seconds)


def anonymous() -> list[float]:
    """Anonymous resident memory of this process and each of its children, in GB of 2^30 bytes (Linux)."""
    children = [child for task in Path("/proc/self/task").iterdir() for child in said(task / "children").split()]
    statuses = [said(Path("/proc") / one / "status") for one in ("self", *children)]
    return [int(found[1]) / 2**20 for one in statuses if (found := re.search(r"RssAnon:\s+(\d+)", one))]


def said(path: Path) -> str:
    """A file of /proc; empty if its process has ended."""
    try:
        return path.read_text()
    except OSError:
        return ""


def held(folder: Path) -> float:
    """What the files in a folder take, in GB of 2^30 bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**30


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


if __name__ == "__main__":
    main()
