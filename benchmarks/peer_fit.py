"""Train RecTools' HSTU or SASRec on a log of ours, by its tutorial's recipe, and rank the test events.

    python benchmarks/peer_fit.py --model HSTUModel [--data ROOT] [--log ml-1m] [--seed 42] [--out FOLDER]

The same events as ours, from the same file, read by the same mapping; each user's last event the test, the one before
it validation; the catalogue ranked whole, seen items left out. The program makes RecTools' virtual environment, and
goes on where it was stopped. `peers/rectools_fit.py` says what the recipe is, and what rows it writes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from peers.environment import REQUIREMENTS, python_of
from peers.recalign_hstu import CONF, write_events

from recalign.events import LogMapping, load_events
from recalign.stage.cli import parse_stage

HERE = Path(__file__).parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, choices=["HSTUModel", "SASRecModel"])
    parser.add_argument("--data", type=Path, help="the data root (else RECALIGN_DATA, else data)")
    parser.add_argument("--log", default="ml-1m", help="a name in conf/data")
    parser.add_argument("--seed", type=int, default=42, help="42 is the tutorial's")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--users", type=int, help="the first so many users alone, to try the program")
    parser.add_argument("--out", type=Path, help="else runs/<log>/rectools-<model>/seed-<seed>")
    parser.add_argument("--venvs", type=Path, default=HERE / ".venvs", help="peers' environments")
    arguments = parser.parse_args()
    out = arguments.out or Path("runs") / arguments.log / f"rectools-{arguments.model}" / f"seed-{arguments.seed}"
    python = python_of(arguments.venvs.resolve() / "rectools", REQUIREMENTS["rectools"])
    given = [f"--{name}={vars(arguments)[name]}" for name in ("model", "seed", "epochs")]
    if arguments.users:
        given.append(f"--users={arguments.users}")
    with tempfile.TemporaryDirectory() as folder:
        events = Path(folder) / "events.npz"
        write_events(load_events(mapping(arguments.log), root(arguments.data), None).frame, events)
        command = [str(python), "-m", "peers.rectools_fit", str(events), f"--out={out.resolve()}", *given]
        return subprocess.run(command, cwd=HERE).returncode


def mapping(log: str) -> LogMapping:
    """What conf/data says of a log."""
    yaml = CONF / "data" / f"{log}.yaml"
    parsed = parse_stage(["fit", f"--config={CONF / 'recommender.yaml'}", f"--config={yaml}"])
    return LogMapping(**parsed.config["data"]["init_args"]["log"])


def root(given: Path | None) -> Path:
    return (given or Path(os.environ.get("RECALIGN_DATA", "data"))).resolve()


if __name__ == "__main__":
    sys.exit(main())
