"""Seconds of 8 epochs of the recommender on ML-100K, by its threads and how they wait, alone or beside a busy process.

    python -m benchmarks.speed.threads [--beside] [--turns 2] [--settings shipped "one thread"]

A figure is the median of alternating turns, start of the process included. Needs a machine that does nothing else.
"""

import os
import subprocess
import sys
import tempfile
import time

from benchmarks.lib import lines, middle, options, save

LOG = ("ml-100k", "--trainer.max_epochs", "8", "--trainer.logger", "false")
SETTINGS = {
    "shipped": {},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "two threads, 1000 spins": {"GOMP_SPINCOUNT": "1000", "threads": "2"},
    "two threads, ACTIVE": {"OMP_WAIT_POLICY": "ACTIVE", "threads": "2"},
    "two threads, PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE", "threads": "2"},
}


def seconds(given: dict[str, str]) -> float:
    """What one fit takes."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))} | given
    words = [f"--threads={given['threads']}"] if "threads" in given else []
    with tempfile.TemporaryDirectory() as runs:
        command = [sys.executable, "-m", "recalign", "fit", "recommender", *LOG, f"--run.root={runs}", *words]
        began = time.perf_counter()
        subprocess.run(command, env=own, check=True, capture_output=True)
        return time.perf_counter() - began


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--beside", action="store_true", help="a process that is busy all the time")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=[*SETTINGS])
    given = parser.parse_args()
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if given.beside else None
    try:
        turns = [{name: seconds(SETTINGS[name]) for name in given.settings} for _ in range(given.turns)]
    finally:
        if busy:
            busy.kill()
    metric = "seconds beside a busy process" if busy else "seconds"
    for name in given.settings:
        row = lines("ml-100k", name, {metric: [turn[name] for turn in turns]}, range(given.turns), middle)
        print(row.select("row", "metric", "mean", "ci_low", "ci_high").row(0))
        save(row, "speed/threads", "row", "metric")


if __name__ == "__main__":
    main()
