"""How fast our HSTU trains beside a peer's, on one machine, in alternating turns.

    python -m benchmarks.scale.throughput [--peer rectools] [--data ROOT]

Both sides train as their users train them: ours by the line `recalign fit recommender ...`, the peer
by its own fit in a virtual environment of its own, which this script makes; each with its own preprocessing, loader,
trainer and optimiser. The same log (all but each user's last two events), the newest 200 events of each user, d 50,
2 layers, 1 head, the softmax over the whole catalogue, and 128 users a batch: every batch of the peer has so many;
ours, whose users have similar lengths, have so many on average, so that an epoch has as many steps. Counted are real
events (targets that are trained on, never padding) over the wall clock, loader and all. Every mode of either side is a
process of its own, which stands still while another has its turn; the first turn of each is thrown away.

Prints a table, `ratio_fp32=` (both in eager float32), `ratio_own_modes=` (our best mode over
the peer's best without torch.compile, which this script adds to it: no peer has a setting for it), and last `ratio=`
(our best mode over the peer's best). Rows of other peers stay in the file of results.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import polars as pl
import torch

from benchmarks.lib import FOLDER, lines, middle, options, save
from benchmarks.peers import recalign_hstu
from benchmarks.peers.environment import python_of
from benchmarks.peers.turns import Trainee, Turn

BF16, COMPILE = ["--precision=bf16-mixed"], ["--compile"]
PEER_MODES = {"fp32": [], "bf16": BF16, "fp32 compiled": COMPILE, "bf16 compiled": [*BF16, *COMPILE]}
OUR_MODES = {"fp32": [], "bf16": ["--trainer.precision=bf16-mixed"]}
PACKAGE = pl.col("row").str.strip_prefix("recalign / ").str.split(" ").list.first()
"""What a row is about: ``recalign / peer``, the ratio, is a row of the peer."""


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--peer", choices=("rectools",), help="without one, ours alone")
    parser.add_argument("--data", type=Path, default=None, help="the data root (else RECALIGN_DATA, else data)")
    parser.add_argument("--log", default="ml-1m", help="a name in conf/logs, or a YAML file")
    parser.add_argument("--users", type=int, default=128, help="histories of a batch")
    parser.add_argument("--turns", type=int, default=5, help="turns of each mode")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long a turn lasts, at least")
    parser.add_argument("--warm-up", type=float, default=5.0, help="how long the first turn lasts, at least")
    parser.add_argument("--modes", nargs="+", choices=list(PEER_MODES), default=list(PEER_MODES))
    parser.add_argument("--accelerator", default="cpu", choices=["cpu", "gpu"])
    parser.add_argument("--venvs", type=Path, default=FOLDER / ".venvs", help="peers' environments")
    arguments = parser.parse_args()
    arguments.data = (arguments.data or Path(os.environ.get("RECALIGN_DATA", "data"))).resolve()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        running = list(start(commands(arguments, Path(folder)), stack))
        measured = alternate(running, arguments.turns, arguments.seconds)
    device = torch.cuda.get_device_name() if arguments.accelerator == "gpu" else machine()
    log = f"{Path(arguments.log).stem}; {device}"
    rows = pl.concat([summary(log, name, turns) for name, turns in measured.items()])
    print(f"{log}\n\n{table(rows)}\n")
    if ratios := compare(rows) if arguments.peer else {}:
        pair = lines(log, f"recalign / {arguments.peer}", {name: [value] for name, value in ratios.items()}, [])
        rows = pl.concat([rows, pair])
    print(save(rows, "scale/throughput", "log", PACKAGE) if arguments.turns > 1 else "one turn is not saved")
    for name, value in ratios.items():
        print(f"{name}={value:.2f}")


def commands(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Name and command of every mode of either side; ours come first, for they write the events that the peer reads."""
    events = folder / "events.npz"
    for mode in (mode for mode in OUR_MODES if mode in arguments.modes):
        words = [f"--trainer.accelerator={arguments.accelerator}", *OUR_MODES[mode]]
        pace = {"users": arguments.users, "warm_up": arguments.warm_up, "events": events}
        line = recalign_hstu.line(arguments.log, arguments.data, folder / mode, pace, words)
        yield f"recalign {mode}", [sys.executable, "-m", "benchmarks.peers.recalign_hstu", *line]
    if arguments.peer:
        python = python_of(arguments.venvs / arguments.peer, arguments.peer)
        program = [str(python), "-m", f"benchmarks.peers.{arguments.peer.replace('-', '_')}_hstu", str(events)]
        given = [f"--{name}={vars(arguments)[name]}" for name in ("users", "accelerator", "warm_up")]
        for mode in arguments.modes:
            yield f"{arguments.peer} {mode}", [*program, *given, *PEER_MODES[mode]]


def start(commands: Iterable[tuple[str, list[str]]], stack: ExitStack) -> Iterator[Trainee]:
    """Start every program and wait for its first turn; one that does not run is named and left out."""
    for name, command in commands:
        trainee = stack.enter_context(Trainee(name, command, {"WANDB_MODE": "disabled"}))
        try:
            trainee.report()
            yield trainee
        except ChildProcessError as error:
            print(f"{name} does not run: {error}", flush=True)


def alternate(running: list[Trainee], turns: int, seconds: float) -> dict[str, list[Turn]]:
    """Each in turn, and all of it again."""
    measured: dict[str, list[Turn]] = {trainee.name: [] for trainee in running}
    for _ in range(turns):
        for trainee in running:
            measured[trainee.name].append(trainee.train(seconds))
    return measured


def summary(log: str, name: str, turns: list[Turn]) -> pl.DataFrame:
    """Rows of a mode."""
    values = {
        "events_per_second": [turn.events / turn.seconds for turn in turns],
        "peak_gib": [max(turn.peak_gib, turn.device_gib) for turn in turns],
        "padded_share": [1 - turn.events / turn.padded for turn in turns],
        "users_a_step": [turn.users / turn.steps for turn in turns],
    }
    package, mode = turns[0].versions.split(", ")[0], name.split(" ", 1)[1]
    return lines(log, f"{package} {mode}", values, [], middle)


def table(rows: pl.DataFrame) -> str:
    """The rows in Markdown."""
    shown = ["| training | real events/s | padding | users a step | peak memory, GiB |", "|---|---|---|---|---|"]
    for (row,), own in rows.group_by("row", maintain_order=True):
        speed, gib, padded, users = own.iter_rows(named=True)
        interval = f"{speed['mean']:,.0f} ({speed['ci_low']:,.0f} .. {speed['ci_high']:,.0f})"
        shown.append(f"| {row} | {interval} | {padded['mean']:.0%} | {users['mean']:.0f} | {gib['ci_high']:.2f} |")
    return "\n".join(shown)


def compare(rows: pl.DataFrame) -> dict[str, float]:
    """Our events/s over the peer's: both in eager float32, and our best mode over its best uncompiled and its best."""
    speed = {r["row"]: r["mean"] for r in rows.filter(pl.col("metric") == "events_per_second").iter_rows(named=True)}
    ours = {name: value for name, value in speed.items() if name.startswith("recalign")}
    theirs = {name: value for name, value in speed.items() if name not in ours}
    ratios = {}
    if theirs:
        plain = [[v for name, v in side.items() if name.endswith(" fp32")] for side in (ours, theirs)]
        if all(plain):
            ratios["ratio_fp32"] = plain[0][0] / plain[1][0]
        if own := [value for name, value in theirs.items() if not name.endswith(" compiled")]:
            ratios["ratio_own_modes"] = max(ours.values()) / max(own)
        ratios["ratio"] = max(ours.values()) / max(theirs.values())
    return ratios


def machine() -> str:
    """What the figures were taken on: the processor decides more than the code does."""
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.exists() else set()
    extensions = ", ".join(sorted(flags & {"avx512_bf16", "amx_bf16"})) or "no bf16 instructions"
    return f"{torch.get_num_threads()} threads, {extensions}, torch {torch.__version__}"


if __name__ == "__main__":
    main()
