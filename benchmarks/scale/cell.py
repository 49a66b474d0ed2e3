"""One cell of `scale.py`: measures itself and prints a line of JSON.

python -m benchmarks.scale.cell full|sampled|rank|average ITEMS [--negatives N] [--length L] [--users U]
    [--device cuda] [--bf16] [--quick]
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.utils.flop_counter import FlopCounterMode

from recalign.data.sequences import Batch
from recalign.nn import HSTU
from recalign.recommender import PolynomialAveraging, Recommender

GIB = 2**30
EVENTS = 3200  # of a training batch, as in conf/stages/recommender.yaml
SHOWN = 10  # items a user
LONGEST = 5.0  # seconds spent on repetitions


def main() -> None:
    warnings.filterwarnings("ignore")  # a module without a trainer logs nowhere
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["full", "sampled", "rank", "average"])
    parser.add_argument("items", type=int)
    parser.add_argument("--negatives", type=int)
    parser.add_argument("--length", type=int, default=200, help="events of a history")
    parser.add_argument("--users", type=int, default=1000, help="who are ranked for")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    encoder = HSTU(dim=64, layers=2, heads=1, max_length=arguments.length, dropout=0.2)
    module = Recommender(arguments.items, encoder, negatives=arguments.negatives).to(device)
    measure = {"rank": rank, "average": average}.get(arguments.what, train)
    figures = measure(module, arguments, device, 1 if arguments.quick else 10)
    if device.type == "cuda":
        figures["peak_gib"] = torch.cuda.max_memory_allocated() / GIB
    print(json.dumps(figures))


def batch_of(length: int, items: int, device: torch.device, rows: int | None = None) -> Batch:
    """Full histories of random items, every position a target."""
    rows = rows or EVENTS // length
    item_BL = torch.randint(1, items + 1, (rows, length))
    time_BL = torch.randint(1, 100_000, (rows, length)).cumsum(dim=1)
    target_T = torch.randint(1, items + 1, (rows * length,))
    return Batch(
        user_B=torch.arange(rows),
        item_BL=item_BL,
        length_B=torch.full((rows,), length),
        time_BL=time_BL,
        request_time_BL=time_BL,
        reward_BL=torch.ones(rows, length),
        row_T=torch.arange(rows).repeat_interleave(length),
        column_T=torch.arange(length).repeat(rows),
        target_T=target_T,
        reward_T=torch.ones(rows * length),
        high_T=torch.ones(rows * length, dtype=torch.bool),
        event_T=torch.arange(rows * length),
    ).to(device)


def train(module: Recommender, sizes: argparse.Namespace, device: torch.device, repetitions: int) -> dict[str, object]:
    optimizer, batch = module.configure_optimizers(), batch_of(sizes.length, sizes.items, device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with half(sizes, device):
            loss = module.training_step(batch, 0)
        loss.backward()
        optimizer.step()

    with FlopCounterMode(display=False) as counter:
        step()
    seconds = timed(step, device, repetitions)
    average = sum(seconds) / len(seconds)
    products = counter.get_total_flops()
    return {"seconds": seconds, "events_per_second": len(batch.target_T) / average, "tflops": products / average / 1e12}


@torch.no_grad()
def rank(module: Recommender, sizes: argparse.Namespace, device: torch.device, repetitions: int) -> dict[str, object]:
    """Users, each with one target and a history of items met."""
    policy, users, met = module.policy.eval(), sizes.users, (sizes.users * sizes.length,)
    state = torch.randn(users, 64, device=device)
    target_T = torch.randint(1, sizes.items + 1, (users,), device=device)
    state_N = torch.arange(users).repeat_interleave(sizes.length)
    seen_N = torch.stack([state_N, torch.randint(1, sizes.items + 1, met)]).to(device)
    before = resident(device)

    def once() -> None:
        with half(sizes, device):
            policy.ranks(state, target_T, seen_N)
            policy.top_k(state, SHOWN, seen_N)

    once()
    seconds = timed(once, device, repetitions)
    return {"seconds": seconds, "beyond_model_gib": (peak(device) - before) / GIB}


def average(
    module: Recommender, sizes: argparse.Namespace, device: torch.device, repetitions: int
) -> dict[str, object]:
    """What averaging the weights adds to a step of a long run: 32 steps together, divided by their number."""
    callback, trainer, steps = PolynomialAveraging(), SimpleNamespace(global_step=10_000, strategy=None), 32
    module.trainer = trainer  # type: ignore[assignment]
    callback.on_fit_start(trainer, module)  # type: ignore[arg-type]

    def together() -> None:
        for _ in range(steps):
            trainer.global_step += 1
            callback.on_train_batch_end(trainer, module, None, None, 0)  # type: ignore[arg-type]

    together()
    return {"seconds": [seconds / steps for seconds in timed(together, device, repetitions)]}


def half(sizes: argparse.Namespace, device: torch.device) -> torch.autocast:
    """Lightning's bf16-mixed: around a step's forward pass, without a cache of weights."""
    return torch.autocast(device.type, torch.bfloat16, enabled=sizes.bf16, cache_enabled=False)


def timed(work: Callable[[], None], device: torch.device, repetitions: int) -> list[float]:
    """Seconds of each repetition; fewer where they take long."""
    seconds: list[float] = []
    while len(seconds) < repetitions and sum(seconds) < LONGEST:
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return seconds


def resident(device: torch.device) -> int:
    """Bytes held now."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak(device: torch.device) -> int:
    """The most bytes that were ever held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main()
