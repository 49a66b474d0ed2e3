"""What a fit costs on two cores, quiet and beside other processes, by how its threads wait for each other.

    python benchmarks/shared_cores.py [--rounds 5] [--epochs 12] [--spins 0 100 1000 10000]

Each fit is `recalign fit recommender simulated` in a process of its own, on the same two cores as the others: one that
is busy, four of them (`heavy`), or two that are busy every other second, out of step (`changing`). The settings take
turns, so that what else runs on the machine falls on all of them. A figure is the median of the seconds that training
took (`manifest.json`), imports not counted. A ratio goes with it: beside the busy process, to the fair share, which is
one thread on a quiet core; else to the fastest setting under the same load. The aims are 1.3, and 1.25 (1.05 if quiet).

Rows: `recalign` is what the command chooses by itself, `torch first` the same in a program that has loaded torch before
it imports recalign, `300000` libgomp's own spin count, the other numbers theirs. Prints the table and saves it to
benchmarks/results/shared_cores.csv.
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

from recalign.data.simulation import World, simulate, write

WORDS = ["fit", "recommender", "simulated", "--trainer.accelerator=cpu"]
OURS, ONE, LATE = "recalign", "one thread", "torch first"
PROGRAMS = {LATE: ["-c", "import sys, torch, recalign.cli; sys.exit(recalign.cli.main())"]}
"""What Python is given to run, if not the command."""
BUSY = "while True: pass"
EVERY_OTHER = "import time\nwhile True:\n    if int(time.time() + {}) % 2: time.sleep(0.1)"
LOADS = {"quiet": [], "busy": [BUSY], "heavy": [BUSY] * 4, "changing": [EVERY_OTHER.format(0), EVERY_OTHER.format(0.5)]}
"""Programs that run beside a fit."""
LIBGOMP = 300_000
Seconds = dict[tuple[str, str], list[float]]
"""Of every fit, by its setting and load."""


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--spins", type=int, nargs="*", default=[0, 100, 1000, 10_000])
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])  # the processes that it starts keep to them
    settings: dict[str, dict[str, str]] = {OURS: {}, LATE: {}, ONE: {"OMP_NUM_THREADS": "1"}}
    settings |= {f"{spins}": {"GOMP_SPINCOUNT": f"{spins}"} for spins in (*arguments.spins, LIBGOMP)}
    settings["passive"] = {"OMP_WAIT_POLICY": "PASSIVE"}
    seconds: Seconds = {(name, load): [] for name in settings for load in LOADS}
    with tempfile.TemporaryDirectory() as folder:
        write(simulate(World()), Path(folder))
        for _ in range(arguments.rounds):
            for name, load in seconds:
                with others(LOADS[load]):
                    program = PROGRAMS.get(name, ["-m", "recalign"])
                    seconds[name, load].append(fit(Path(folder), program, settings[name], arguments.epochs))
                print(f"{name:<12} {load:<8} {seconds[name, load][-1]:.1f} s", flush=True)
    rows = table(seconds)
    shown = [f"{load}/{what}" for load in LOADS for what in ("seconds", "ratio")]
    print(f"{markdown(rows, dict(zip(shown, shown, strict=True)), 2)}\n{save(rows, 'shared_cores')}")


@contextmanager
def others(programs: list[str]) -> Iterator[None]:
    """Run some programs for a while."""
    processes = [subprocess.Popen([sys.executable, "-c", program]) for program in programs]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def fit(folder: Path, program: list[str], setting: dict[str, str], epochs: int) -> float:
    """Seconds that a training takes."""
    chosen = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    words = [*WORDS, f"--data.root={folder}", f"--run.root={folder}", f"--trainer.max_epochs={epochs}"]
    environment = {**chosen, "WANDB_MODE": "disabled", **setting}
    subprocess.run([sys.executable, *program, *words], env=environment, check=True, capture_output=True)
    return json.loads((folder / "simulated/recommender/seed-0/manifest.json").read_text())["seconds"]


def table(seconds: Seconds) -> pl.DataFrame:
    """The medians of all settings, and their ratios."""
    fair = median(seconds[ONE, "quiet"])
    rows = []
    for (name, load), values in seconds.items():
        best = min(median(found) for (_, same), found in seconds.items() if same == load)
        ratio = median(values) / (fair if load == "busy" else best)
        rows.append(lines("simulated", name, {f"{load}/seconds": values}, [0], middle))
        rows.append(lines("simulated", name, {f"{load}/ratio": [ratio]}, [0]))
    return pl.concat(rows)


if __name__ == "__main__":
    main()
