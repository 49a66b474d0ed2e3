"""What a fit costs on two cores, quiet and beside a busy process, by how its threads wait for each other.

    python benchmarks/shared_cores.py [--rounds 5] [--epochs 12] [--spins 0 100 1000 10000]

Each fit is `recalign fit recommender simulated` in a process of its own, on the same two cores as the busy one. The
settings take turns, so that what else runs on the machine falls on all of them. A figure is the median of the seconds
that training took (`manifest.json`), imports not counted. Two ratios go with it: quiet, to the fastest quiet setting;
beside the busy process, to the fair share, which is one thread on a quiet core. The aims are 1.05 and 1.3.

Rows: `recalign` is what the command chooses by itself, `300000` libgomp's own spin count, the other numbers theirs.
Prints the table and saves it to benchmarks/results/shared_cores.csv.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import polars as pl
from tables import lines, markdown, middle, options, save

from recalign.simulation import World, simulate, write

COMMAND = [sys.executable, "-m", "recalign", "fit", "recommender", "simulated", "--trainer.accelerator=cpu"]
BUSY = [sys.executable, "-c", "while True: pass"]
OURS, ONE = "recalign", "one thread"
LIBGOMP = 300_000
Seconds = dict[tuple[str, bool], list[float]]
"""Of every fit, by its setting and by whether another process was busy."""


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--spins", type=int, nargs="*", default=[0, 100, 1000, 10_000])
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])  # the processes that it starts keep to them
    settings: dict[str, dict[str, str]] = {OURS: {}, ONE: {"OMP_NUM_THREADS": "1"}}
    settings |= {f"{spins}": {"GOMP_SPINCOUNT": f"{spins}"} for spins in (*arguments.spins, LIBGOMP)}
    settings["passive"] = {"OMP_WAIT_POLICY": "PASSIVE"}
    seconds: Seconds = {(name, busy): [] for name in settings for busy in (False, True)}
    with tempfile.TemporaryDirectory() as folder:
        write(simulate(World()), Path(folder))
        for _ in range(arguments.rounds):
            for name, busy in seconds:
                with another_process(busy):
                    seconds[name, busy].append(fit(Path(folder), settings[name], arguments.epochs))
                print(f"{name:<12} {'busy' if busy else 'quiet':<6} {seconds[name, busy][-1]:.1f} s", flush=True)
    rows = table(seconds)
    shown = [f"{when}/{what}" for when in ("quiet", "busy") for what in ("seconds", "ratio")]
    print(f"{markdown(rows, dict(zip(shown, shown, strict=True)), 2)}\n{save(rows, 'shared_cores')}")


@contextmanager
def another_process(busy: bool) -> Iterator[None]:
    """Keep one core busy for a while."""
    process = subprocess.Popen(BUSY) if busy else None
    try:
        yield
    finally:
        if process:
            process.kill()
            process.wait()


def fit(folder: Path, setting: dict[str, str], epochs: int) -> float:
    """Seconds that a training takes."""
    chosen = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    words = [f"--data.root={folder}", f"--run.root={folder}", f"--trainer.max_epochs={epochs}"]
    environment = {**chosen, "WANDB_MODE": "disabled", **setting}
    subprocess.run([*COMMAND, *words], env=environment, check=True, capture_output=True)
    return json.loads((folder / "simulated/recommender/seed-0/manifest.json").read_text())["seconds"]


def table(seconds: Seconds) -> pl.DataFrame:
    """The medians of all settings, and their ratios."""
    best = min(median(values) for (_, busy), values in seconds.items() if not busy)
    fair = median(seconds[ONE, False])
    rows = []
    for (name, busy), values in seconds.items():
        metric, against = ("busy", fair) if busy else ("quiet", best)
        rows.append(lines("simulated", name, {f"{metric}/seconds": values}, [0], middle))
        rows.append(lines("simulated", name, {f"{metric}/ratio": [median(values) / against]}, [0]))
    return pl.concat(rows)


if __name__ == "__main__":
    main()
