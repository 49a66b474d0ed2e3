"""How fast a bundle answers: over HTTP in a closed loop, and in this process beside the policy in torch.

    python -m benchmarks.serving.run                       untrained policies of ML-1M's size, from 1.7 k items on
    python -m benchmarks.serving.run --kinds OneRec        the same over semantic ids; up to 10 k items
    python -m benchmarks.serving.run --bundle runs/ml-100k/asft/seed-0/bundles --log ml-100k

An untrained policy has random weights in a bundle of the usual shape: speed does not depend on what they are. ``start``
is from the start of the process until it listens, by when it has loaded the bundle and answered its examples.

The server and its clients share this machine, on loopback; each client asks again as soon as it is answered. ``noop``
is the same loop on a route that computes nothing: what HTTP and the clients themselves cost. Each figure is that of the
best of several repeats, because what else runs on a machine only ever adds. One thread each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from benchmarks.lib import by_metric, lines, save
from recalign.data.sequences import Batch
from recalign.files import write_json
from recalign.nn import HSTU, LazyDecoder
from recalign.recommender import CodePolicy, Policy, SequencePolicy
from recalign.recommender.onerec import random_codes
from recalign.seals import seal
from recalign.serve.export.command import PACKAGES, TABLES
from recalign.serve.export.graph import Graph, part_of
from recalign.serve.export.onnx import write
from recalign.serve.server import Bundle
from recalign.serve.server.about import EXAMPLES, GRAPH, ITEMS, BundleConfig

CLIENTS = (1, 8, 64)
LENGTHS = (50, 200)
SEEDS = (0,)


def over_items(items: int) -> SequencePolicy:
    """HSTU of ML-1M's width: 50 wide, 2 layers, 200 events."""
    return SequencePolicy(HSTU(50, layers=2, max_length=200), items)


def over_codes(items: int) -> CodePolicy:
    """OneRec of the same width; two codes an item."""
    sizes = [math.isqrt(items - 1) + 1] * 2
    policy = CodePolicy(LazyDecoder(50, layers=2, heads=1, max_length=200), items, sizes)
    policy.set_codes(random_codes(items, sizes))
    return policy


KINDS: dict[str, tuple[Callable[[int], Any], list[int], Any]] = {
    "HSTU": (over_items, [1_700, 10_000, 100_000, 1_000_000], "items"),
    "OneRec": (over_codes, [1_700, 10_000], "codes"),
}
"""How each is made, for how many items, and what a bundle calls it."""


def untrained(kind: str, items: int, folder: Path) -> Policy:
    """A bundle of a policy with random weights, and the policy."""
    from safetensors.torch import save

    torch.manual_seed(0)
    policy = KINDS[kind][0](items).eval()
    policy.set_counts(torch.arange(items) % 100)
    policy.prior_strength = 0.3
    graph = Graph(part_of(policy), 100, False).eval()
    with torch.no_grad():
        tables = {name: table.detach().contiguous() for name, table in graph.part.tables().items()}
    folder.mkdir()
    write(graph, tables, 200, folder / GRAPH)
    (folder / TABLES).write_bytes(save(tables))
    ids = pl.DataFrame({"item": range(1, items + 1)})
    ids.with_columns(title=pl.format("item {}", "item"), count=pl.lit(1)).write_parquet(folder / ITEMS)
    write_json(folder / EXAMPLES, [])
    BundleConfig(
        name="untrained", version=folder.name, kind=KINDS[kind][2], inputs=graph.inputs, k=100, max_length=200,
        time_unit="s", time_resolution=1, request_time="last_event", reward=None, strength=None, reward_sd=1.0,
        collapse=False, where=None, log="untrained", catalogue="", versions=dict.fromkeys(PACKAGES, ""),
    ).write(folder)  # fmt: skip
    seal(folder)
    return policy


def requests(bundle: Bundle, length: int, count: int = 64) -> list[dict[str, Any]]:
    """Made-up requests whose histories have a length."""
    random, ids = np.random.default_rng(0), bundle.catalogue.ids
    found = []
    for _ in range(count):
        gaps = random.exponential(3600, length).astype(int)
        one: dict[str, Any] = {"items": [ids[n] for n in random.integers(len(ids), size=length)]}
        one["times"] = (1_700_000_000 + gaps.cumsum()).tolist()
        if bundle.about.reward is not None:
            one["rewards"] = random.integers(1, 6, length).tolist()
        found.append(one)
    return found


async def loop(port: int, path: str, bodies: list[bytes], clients: int, seconds: float) -> tuple[list[float], float]:
    """Ask in a closed loop. Returns: seconds of each answer, and until the last one."""
    taken: list[float] = []
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        turn = number
        while time.perf_counter() < end:
            body = bodies[turn % len(bodies)] if bodies else b""
            head = (
                f"{'POST' if bodies else 'GET'} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
            )
            began = time.perf_counter()
            writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200"), answer
            length = re.search(rb"content-length: (\d+)", answer, re.IGNORECASE)
            assert length is not None
            await reader.readexactly(int(length[1]))
            taken.append(time.perf_counter() - began)
            turn += clients
        writer.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return taken, time.perf_counter() - end + seconds


def best(port: int, path: str, bodies: list[bytes], clients: int, seconds: float, repeats: int) -> dict[str, float]:
    """Milliseconds and requests a second of the best repeat."""
    found = []
    for _ in range(repeats):
        taken, lasted = asyncio.run(loop(port, path, bodies, clients, seconds))
        ms = np.array(taken) * 1000
        p50, p95, p99 = np.percentile(ms, [50, 95, 99])
        found.append({"p50 ms": p50, "p95 ms": p95, "p99 ms": p99, "requests/s": len(ms) / lasted})
    return {name: (max if name == "requests/s" else min)(one[name] for one in found) for name in found[0]}


def over_http(folder: Path, log: str, row: str, lengths: list[int], seconds: float, repeats: int) -> None:
    """Measure and save what a server of a bundle does."""
    bundle, began = Bundle(folder), time.perf_counter()
    command = [sys.executable, "-m", "recalign", "serve", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            found = re.search(r":(\d+), described", server.stdout.readline())
            assert found is not None
            port, start = int(found[1]), time.perf_counter() - began
            for length in lengths:
                bodies = [json.dumps(one).encode() for one in requests(bundle, length)]
                for clients in CLIENTS:
                    cell = best(port, "/recommend", bodies, clients, seconds, repeats)
                    noop = best(port, "/health", [], clients, seconds, repeats)
                    cell |= {"noop p50 ms": noop["p50 ms"], "start s": start, "memory MB": memory(server.pid)}
                    shown(log, f"{row}, {length} events, {clients} clients", cell)
        finally:
            server.terminate()


def memory(process: int) -> float:
    """Proportional set size of a process, in MB."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    found = re.search(r"Pss:\s+(\d+)", text)
    return int(found[1]) / 1024 if found else float("nan")


def in_process(policy: Policy, bundle: Bundle, log: str, row: str, repeats: int) -> None:
    """Measure and save the policy in torch beside the graph in ONNX Runtime, full histories, ten items."""
    for clients in CLIENTS:
        encoded = [bundle.encode(one) for one in requests(bundle, 200, clients)]
        item = torch.from_numpy(np.stack([one.item_L for one in encoded]))
        at = torch.from_numpy(np.stack([one.time_L for one in encoded]))
        rows, none = torch.arange(clients), torch.zeros(clients, dtype=torch.long)
        seen = torch.stack([rows.repeat_interleave(200), item.flatten()])
        lengths, rewards = torch.full((clients,), 200), torch.full((clients, 200), float("nan"))
        batch = Batch(
            none, item, lengths, at, at, rewards, rows, lengths - 1, none, rewards[:, 0], none.bool(), none, seen_N=seen
        )

        def eager(batch: Batch = batch) -> None:
            with torch.no_grad():
                policy.top_k(policy.encode(batch), 10, batch.seen_N)

        def runtime(encoded: list = encoded) -> None:
            bundle.run(encoded, ["items", "scores"])

        cell = {"torch ms": fastest(eager, repeats), "onnxruntime ms": fastest(runtime, repeats)}
        shown(log, f"{row}, 200 events, batch of {clients}", cell)


def fastest(what: Callable[[], None], repeats: int) -> float:
    """Milliseconds of the fastest of some calls."""
    taken = []
    for _ in range(4 * repeats):
        began = time.perf_counter()
        what()
        taken.append(time.perf_counter() - began)
    return min(taken) * 1000


def shown(log: str, row: str, cell: dict[str, float]) -> None:
    """Print a row and save it."""
    print(f"{row}: " + ", ".join(f"{name} {value:,.2f}" for name, value in cell.items()), flush=True)
    save(lines(log, row, by_metric([cell]), SEEDS), "serving/rows", "log", "row")


def main() -> None:
    """Measure what the words ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=["HSTU"])
    parser.add_argument("--items", type=int, nargs="+", help="of untrained policies; else as many as suit their kind")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--bundle", type=Path, help="measure this one, over HTTP alone")
    parser.add_argument("--log", default="untrained", help="what to save the rows of --bundle under")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a repeat")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    if given.bundle:
        kind = Bundle(given.bundle).about.kind
        over_http(given.bundle, given.log, kind, given.lengths, given.seconds, given.repeats)
        return
    with tempfile.TemporaryDirectory() as scratch:
        for kind in given.kinds:
            for items in given.items or KINDS[kind][1]:
                folder = Path(scratch) / f"{kind}-{items}"
                policy, row = untrained(kind, items, folder), f"{kind}, {items} items"
                in_process(policy, Bundle(folder), given.log, row, given.repeats)
                over_http(folder, given.log, row, given.lengths, given.seconds, given.repeats)


if __name__ == "__main__":
    main()
