"""Beam search over semantic ids: the share of the exact ten that it finds, and what it costs.

    python benchmarks/encoders.py --log ml-1m-leave-last --rows onerec/node --seeds 0 1 2
    python benchmarks/beams.py runs/encoders/ml-1m-leave-last/onerec-node/seed-*

Reads what benchmarks/encoders.py has trained. For each width, all test events are searched by a beam of this width
(fixed) and by `top_k` with a beam that begins with it and may become as wide as the policy's ``widest`` (widening). The
exact ten come from a walk over all prefixes. CPU seconds are those of one thread for 1,000 events; the searches take
turns at every batch. Rows of other runs stay.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from functools import partial
from pathlib import Path

import polars as pl
import torch
from tables import RESULTS, SCHEMA, commit, save

from recalign.recommender import CodePolicy, Policy
from recalign.recommender.checkpoint import load_net
from recalign.sequences import EventDataModule
from recalign.stage import parse_stage

SHOWN = 10
WIDTHS = (10, 20, 50)
SEARCHES = {f"{kind}-{width}": (width, kind) for kind in ("fixed", "widening") for width in WIDTHS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "runs", type=Path, nargs="+", help="folders <log>/<row>/seed-<n> of trained policies over codes"
    )
    torch.set_num_threads(1)
    measured: dict[tuple[str, str], dict[str, dict[str, float]]] = defaultdict(dict)
    for folder in parser.parse_args().runs:
        log, row, seed = folder.resolve().parts[-3:]
        measured[log, row.replace("-", "/", 1)][seed.removeprefix("seed-")] = of_run(folder)
    rows = collect(measured)
    earlier = RESULTS / "beams.csv"
    others = [pl.read_csv(earlier).join(rows, on=["log", "row"], how="anti")] if earlier.is_file() else []
    print(f"{table(rows)}\n{save(pl.concat([*others, rows], how='vertical_relaxed'), 'beams')}")


def of_run(folder: Path) -> dict[str, float]:
    """The figures of one trained policy, over the test events of its log."""
    policy = load_net(folder / "checkpoints" / "best.ckpt", "policy").net.eval()
    assert isinstance(policy, CodePolicy), f"{folder} is no policy over codes"
    return measure(policy, parse_stage(["fit", f"--config={folder / 'config.yaml'}"]).datamodule())  # type: ignore[arg-type]


@torch.no_grad()
def measure(policy: CodePolicy, data: EventDataModule) -> dict[str, float]:
    """Recall of the exact ten and CPU seconds for 1,000 events, of each search and of the walk."""
    total: dict[str, float] = defaultdict(float)
    targets = 0
    for batch in data.test_dataloader():
        state = policy.encode(batch)
        began = time.process_time()
        exact_TK = Policy.top_k(policy, state, SHOWN, batch.seen_N)[1]
        total["walk/seconds"] += time.process_time() - began
        for name, (width, kind) in SEARCHES.items():
            policy.beam = width
            search = policy.top_k if kind == "widening" else partial(policy._search, width=width)
            began = time.process_time()
            own_TK = search(state, SHOWN, batch.seen_N)[1]
            total[f"{name}/seconds"] += time.process_time() - began
            found_TK = (exact_TK[:, :, None] == own_TK[:, None, :]).any(dim=2)
            total[f"{name}/recall@10"] += found_TK.float().mean(dim=1).sum().item()
        targets += len(exact_TK)
    scale = {"seconds": 1000 / targets, "recall@10": 1 / targets}
    return {name: value * scale[name.rsplit("/", 1)[1]] for name, value in total.items()}


def collect(measured: dict[tuple[str, str], dict[str, dict[str, float]]]) -> pl.DataFrame:
    """Mean and sd over the seeds, as results are saved."""
    rows: list[tuple[object, ...]] = []
    for (log, row), cells in measured.items():
        for name in next(iter(cells.values())):
            values = [cell[name] for cell in cells.values()]
            sd = statistics.stdev(values) if len(values) > 1 else None
            rows.append((log, row, name, statistics.fmean(values), sd, None, None, " ".join(cells), commit()))
    types = [pl.String] * 3 + [pl.Float64] * 4 + [pl.String] * 2
    return pl.DataFrame(rows, schema=dict(zip(SCHEMA, types, strict=True)), orient="row")


def table(rows: pl.DataFrame) -> str:
    """A line a row and search: recall and CPU seconds."""
    lines = ["| log | row | search | recall of the exact ten | CPU s for 1,000 events |", "|---|---|---|---|---|"]
    for (log, row), own in rows.group_by("log", "row", maintain_order=True):
        value = dict(own.select("metric", "mean").iter_rows())
        lines += [
            f"| {log} | `{row}` | {name} | {value[f'{name}/recall@10']:.2%} | {value[f'{name}/seconds']:.2f} |"
            for name in SEARCHES
        ]
        lines.append(f"| {log} | `{row}` | walk | exact | {value['walk/seconds']:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
