"""`recalign serve` beside the app that one writes in an hour (`benchmarks.serving.plain`), in alternating turns of wrk.

    python -m benchmarks.serving.beside                       an untrained HSTU of ML-100K's size
    python -m benchmarks.serving.beside --bundle runs/ml-100k/asft/seed-0/bundles/<version>
    python -m benchmarks.serving.beside --decisions [FOLDER]  with and without a log of decisions, and drawn lists

A second log lies in FOLDER: in one that is kept in memory, such as /dev/shm, it costs what is not the disk's.

Both run for the whole time, and one is asked at a time; who is not asked does nothing. Server and load share this
machine. A row is the median of turns, with the least and the greatest; ``cpu ms`` is the server's, of both cores, for a
request. Needs wrk (Debian: ``apt install wrk``).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.lib import by_metric, lines, middle, save
from benchmarks.serving.run import CLIENTS, memory, requests, untrained
from recalign.serve.server import Bundle
from recalign.serve.server.command import DECISIONS_KEY

LENGTHS = (10, 50, 200)
LOAD = Path(__file__).with_name("post.lua")
ITEMS = 1_682
"""As ML-100K has."""


@contextmanager
def serving(command: list[str], **environment: str) -> Iterator[tuple[str, int]]:
    """A server's address and process; it is stopped at the end."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment}
    ) as server:
        try:
            assert server.stdout is not None
            while not (found := re.search(r"(http://[\d.:]+)", said := server.stdout.readline())):
                assert said, "it does not start"
            yield found[1], server.pid
        finally:
            server.terminate()


def ours(bundle: Path, *words: str, **environment: str) -> Any:
    """`recalign serve` on a free port."""
    return serving([sys.executable, "-m", "recalign", "serve", str(bundle), "--port", "0", *words], **environment)


def plain(bundle: Path) -> Any:
    """The other one."""
    command = [sys.executable, "-m", "uvicorn", "--port", "0", "--no-access-log", "benchmarks.serving.plain:app"]
    return serving(command, BUNDLE=str(bundle))


def turn(url: str, bodies: Path, process: int, clients: int, seconds: float) -> dict[str, float]:
    """What wrk says of some seconds."""
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:g}s", "-s", str(LOAD), f"{url}/recommend", "--", str(bodies)]
    before = cpu_seconds(process)
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    took = cpu_seconds(process) - before
    count, failed, lasted, p50, p95, p99 = map(float, re.findall(r"measured (.*)", said)[0].split())
    assert not failed, said  # an answer of another status than 200, or none
    return {"requests/s": count / lasted, "p50 ms": p50, "p95 ms": p95, "p99 ms": p99, "cpu ms": took / count * 1000}


def cpu_seconds(process: int) -> float:
    """What a process has used of all cores."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def alternating(servers: dict[str, tuple[str, Path, int]], row: str, clients: int, seconds: float, turns: int) -> None:
    """Ask servers in turn, and save a row of each.

    Args:
        servers: by name: address, file of bodies, process.
        row: what is asked.
        clients: connections that ask again as soon as they are answered.
        seconds, turns: how long each is asked, and how often.
    """
    found: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
    for number in range(turns):
        for name in sorted(servers, reverse=bool(number % 2)):  # what slows the machine down slows both
            url, bodies, process = servers[name]
            found[name].append(turn(url, bodies, process, clients, seconds) | {"memory MB": memory(process)})
    for name, cells in found.items():
        save(
            lines("untrained", f"{name}, {row}, {clients} clients", by_metric(cells), range(turns), middle),
            "serving/beside",
            "log",
            "row",
        )
        figures = (
            f"{metric} {middle(values)[0]:,.1f} ({min(values):,.1f}-{max(values):,.1f})"
            for metric, values in by_metric(cells).items()
        )
        print(f"{name}, {row}, {clients} clients: {', '.join(figures)}", flush=True)


def main() -> None:
    """Measure what the words ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="of integer ids that reads no rewards; else an untrained one")
    parser.add_argument("--decisions", nargs="?", const="", help="compare ours with itself, with logs of decisions")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--clients", type=int, nargs="+", default=list(CLIENTS))
    parser.add_argument("--seconds", type=float, default=5.0, help="of a turn")
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    with ExitStack() as stack:
        Path("runs").mkdir(exist_ok=True)  # on the disk, where syncing takes its time
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="runs")))
        if given.bundle is None:
            untrained("HSTU", ITEMS, scratch / "bundle")
        folder = given.bundle or scratch / "bundle"
        asked = {length: requests(Bundle(folder), length) for length in given.lengths}

        def bodies(name: str, length: int, **more: Any) -> Path:
            file = scratch / f"{name}-{length}.jsonl"
            file.write_text("".join(json.dumps(one | more) + "\n" for one in asked[length]))
            return file

        first = stack.enter_context(ours(folder))
        logs = {} if given.decisions is None else {"with decisions": scratch}
        if given.decisions:
            elsewhere = tempfile.TemporaryDirectory(dir=given.decisions)
            logs[f"with decisions in {given.decisions}"] = Path(stack.enter_context(elsewhere))
        key = {DECISIONS_KEY: secrets.token_hex(16)}
        logging = {
            name: stack.enter_context(ours(folder, "--decisions", str(place / "log"), **key))
            for name, place in logs.items()
        }
        other = None if logs else stack.enter_context(plain(folder))
        for length in given.lengths:
            row, own = f"{length} events", bodies("own", length)
            pairs = {row: {"recalign": (first[0], own, first[1]), "plain": (other[0], own, other[1])}} if other else {}
            for what, more in {"": {}, ", drawn": dict[str, object](explore={})}.items() if logs else ():
                logged = bodies(f"with{what}", length, **more, user="somebody")
                pairs[f"{row}{what}"] = {
                    "without decisions": (first[0], bodies(f"without{what}", length, **more), first[1])
                }
                pairs[f"{row}{what}"] |= {name: (url, logged, process) for name, (url, process) in logging.items()}
            for clients in given.clients:
                for what, servers in pairs.items():
                    alternating(servers, what, clients, given.seconds, given.turns)


if __name__ == "__main__":
    main()
