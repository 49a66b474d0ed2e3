"""Time and memory by the size of the catalogue, each figure from a process of its own.

    python -m benchmarks.scale.run [--device cpu] [--items 10000 1000000] [--negatives 512 8192] [--bf16] [--quick]

* `full`, `sampled N`: steps of training (HSTU, d 64, 2 layers, 16 histories of 200 events, all positions targets), with
  the softmax over the whole catalogue and over N negatives; optimiser included.
* `rank`: ranks and the ten best of 1,000 users, exact; memory is what is needed beyond the model.
* `history L`: steps of training on histories of L events, 3,200 events in all, with the fewest items and negatives.
* `users N`: `rank` of N users over the fewest items.
* `processes N`: steps of an epoch of ML-1M, shared by N processes of one thread each.
* `average`: what averaging the weights (`PolynomialAveraging`) adds to a step of training.
* `fit`: `recalign fit recommender`, the whole process with validation and checkpoints: an epoch of
  ML-1M (where the data root has it), and 30 steps on a generated log of 200-event histories whose catalogue is the
  largest of --items, d 64, with the first number of negatives, validated on two batches.

Memory is the peak of the resident set (`ru_maxrss` of the process), on a GPU that of what torch has allocated. TFLOP/s
counts matrix products alone. Prints the table, and saves it in benchmarks/scale/rows.csv.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any
from unittest.mock import patch

import polars as pl

ROOT = Path(__file__).parents[1]
GIB = 2**30
LENGTHS, USERS, PROCESSES = (50, 100, 200, 400, 800), (250, 1000, 4000), (1, 2)
TURNS = 2  # of the numbers of processes
COLUMNS = {
    "seconds": "seconds",
    "events_per_second": "events/s",
    "peak_gib": "peak, GiB",
    "beyond_model_gib": "beyond the model, GiB",
    "tflops": "TFLOP/s",
}


@dataclass(frozen=True)
class Run:
    """What a process left: what it printed, its seconds and its peak of resident memory in GiB."""

    output: str
    seconds: float
    peak_gib: float


def main() -> None:
    arguments = parse()
    rows = []
    for items in arguments.items:
        for cell in ("full", *(f"sampled {n:,}" for n in arguments.negatives if n < items), "rank", "average"):
            rows.append((f"{items:,} items", cell, measured(cell, items, arguments)))
            say(rows[-1])
    for row in chain(growth(arguments), fits(arguments) if arguments.device == "cpu" else ()):
        rows.append(row)
        say(row)
    report(rows, arguments)


Row = tuple[str, str, dict[str, Any]]
"""A log, a cell and its figures."""


def growth(arguments: argparse.Namespace) -> Iterator[Row]:
    """How a step grows with the length of histories, and ranking with the number of users."""
    items, negatives = arguments.items[0], arguments.negatives[0]
    for length in LENGTHS:
        yield f"{items:,} items", f"history {length}", measured(f"sampled {negatives}", items, arguments, length=length)
    for users in USERS:
        yield f"{items:,} items", f"users {users}", measured("rank", items, arguments, users=users)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--negatives", type=int, nargs="+", default=[512, 8192])
    parser.add_argument("--bf16", action="store_true", help="products in bfloat16")
    parser.add_argument("--quick", action="store_true", help="a step of each, nothing saved: to see that it runs")
    return parser.parse_args()


def run(command: list[str], folder: Path | None = None) -> Run:
    """Run a process to its end. (This one stays small: a child's `ru_maxrss` is at least its parent's size.)"""
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            command, stdout=out, stderr=err, cwd=folder, env={**os.environ, "WANDB_MODE": "disabled"}
        )
        _, status, usage = os.wait4(process.pid, 0)
        out.seek(0)
        err.seek(0)
        if status:
            sys.exit(f"{' '.join(command)}\n{err.read()}")
        return Run(out.read(), time.monotonic() - began, usage.ru_maxrss * 1024 / GIB)


def measured(cell: str, items: int, arguments: argparse.Namespace, **sizes: int) -> dict[str, Any]:
    """Figures of a cell, from `scale_cell.py` in a process of its own."""
    options = ["--device", arguments.device, *["--bf16"] * arguments.bf16, *["--quick"] * arguments.quick]
    name, _, negatives = cell.partition(" ")
    options += ["--negatives", negatives.replace(",", "")] if negatives else []
    options += [f"--{size}={value}" for size, value in sizes.items()]
    done = run([sys.executable, str(Path(__file__).parent / "scale_cell.py"), name, str(items), *options])
    figures = json.loads(done.output.splitlines()[-1])
    return {"peak_gib": done.peak_gib, **figures}


def fits(arguments: argparse.Namespace) -> list[Row]:
    """Whole runs of the command."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        items = arguments.items[-1]
        write_log(folder, items, arguments.quick)
        sampled = [f"--config={folder / 'large.yaml'}", f"--model.negatives={arguments.negatives[0]}"]
        sampled += ["--model.encoder.dim=64", f"--data.root={folder}"]
        sampled += ["--trainer.limit_train_batches=30", "--trainer.limit_val_batches=2"]
        rows.append((f"{items:,} items", "fit", figures_of(fit(sampled, folder, arguments.quick))))
        ml_1m = Path(os.environ.get("RECALIGN_DATA", "data")).resolve()
        if (ml_1m / "ml-1m.zip").exists():
            options = [f"--config={ROOT / 'conf/logs/ml-1m.yaml'}", f"--data.root={ml_1m}"]
            rows.append(("ML-1M", "fit", figures_of(fit(options, folder, arguments.quick))))
            turns = [[trained(n, options, folder, arguments.quick) for n in PROCESSES] for _ in range(TURNS)]
            seconds = zip(PROCESSES, zip(*turns, strict=True), strict=True)
            rows.extend(("ML-1M", f"processes {n}", {"seconds": list(found)}) for n, found in seconds)
        else:
            print(f"no ML-1M under {ml_1m}: left out", file=sys.stderr)
    return rows


def fit(options: list[str], folder: Path, quick: bool) -> Run:
    """One epoch of `recalign fit`, runs and all in a folder."""
    command = [sys.executable, "-m", "recalign", "fit", f"--config={ROOT / 'conf/stages/recommender.yaml'}", *options]
    command += ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    few = ["--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1", "--trainer.log_every_n_steps=1"]
    return run(command + few * quick, folder)


def trained(processes: int, options: list[str], folder: Path, quick: bool) -> float:
    """Seconds of a step, the median over the epoch: the processes' own start is not in it."""
    together = ["--trainer.strategy=ddp"] * (processes > 1)
    with patch.dict(os.environ, OMP_NUM_THREADS="1"):
        fit([*options, f"--trainer.devices={processes}", *together], folder, quick)
    steps = pl.read_csv(folder / "runs/ml-1m/recommender/seed-0/metrics.csv")["speed/step_seconds"]
    return float(steps.median())  # type: ignore[arg-type]


def figures_of(done: Run) -> dict[str, Any]:
    return {"seconds": [done.seconds], "peak_gib": done.peak_gib}


def write_log(folder: Path, items: int, quick: bool) -> None:
    """A log in which every item is met, by users of 202 events: 200 train, one validates, one tests."""
    users = -(-items * (11 if quick else 13) // (10 * 202))
    events = users * 202
    every = pl.int_range(items, eager=True)
    more = pl.select(pl.int_range(events - items).hash(seed=1) % items).to_series().cast(pl.Int64)
    frame = pl.DataFrame({"item": pl.concat([every, more]).shuffle(seed=0)}).with_row_index("row")
    frame = frame.select(
        (pl.col("row") // 202).alias("user"),
        "item",
        (pl.col("row") * 60).cast(pl.Int64).alias("timestamp"),
        (pl.col("row") % 5).alias("rating"),
    )
    frame.write_parquet(folder / "large.parquet")
    (folder / "large.yaml").write_text(
        "data:\n  log: {name: large, files: [large.parquet]}\n  reward: rating\n  high: {expression: rating >= 4}\n"
        "  split: {class_path: recalign.data.sequences.LeaveLast, init_args: {test: 1, validation: 1}}\n"
        "  max_length: 200\n"
    )


def say(row: Row) -> None:
    print(*row, file=sys.stderr, flush=True)


def report(rows: list[Row], arguments: argparse.Namespace) -> None:
    """Print the table, and save it; what was measured several times with its mean and deviation."""
    from benchmarks.lib import lines, markdown, save  # when all is measured, because it loads torch: see `run`

    saved = []
    for log, cell, figures in rows:
        values = {name: figures[name] for name in COLUMNS if name in figures}
        values = {name: value if isinstance(value, list) else [value] for name, value in values.items()}
        saved.append(lines(log, cell, values, [0]))
    frame = pl.concat(saved)
    named = frame.with_columns(row=pl.concat_str("log", "row", separator=": "))
    print(f"\n{markdown(named, COLUMNS, shown=lambda line, _: format(line['mean'], ',.3g'))}")
    if not arguments.quick:
        print(f"\n{save(frame, 'scale/rows' if arguments.device == 'cpu' else 'scale/gpu')}")


if __name__ == "__main__":
    main()
