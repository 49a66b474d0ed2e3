"""Memory and time of training on a large catalogue, in one process and in two with half of the items each.

    python -m benchmarks.scale.row_sharding [--items 10000000] [--negatives 512] [--steps 6] [--processes 1 2]

The model of `cell.py`, with a sampled softmax, in Lightning's Trainer; a step is 16 histories of 200 events of all
processes together. Processes share this machine, a thread each. Memory is the most that a process ever had resident
since its start, before and after a checkpoint is written; of two, the larger. The first step is not in the time.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from benchmarks.lib import lines, markdown, middle, options, save
from benchmarks.scale.cell import EVENTS, GIB, batch_of, peak
from recalign.nn import HSTU
from recalign.recommender import Recommender, RowSharding
from recalign.run.stage.callbacks import WholeCheckpointIO

LENGTH = 200
COLUMNS = {"peak_gib": "peak, GiB a process", "saved_gib": "with the checkpoint, GiB", "seconds": "seconds a step"}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--negatives", type=int, default=512)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    if "RANK" in os.environ:
        print(json.dumps(fit(arguments.items, arguments.negatives, arguments.steps)))
        return
    for processes in arguments.processes:
        found = started(processes)
        figures = {name: [max(one[name] for one in found)] for name in ("peak_gib", "saved_gib")}
        figures["seconds"] = found[0]["seconds"]
        row = lines(f"{arguments.items:,} items", f"processes: {processes}", figures, [0], middle)
        print(markdown(row, COLUMNS))
        save(row, "scale/row_sharding", "log", "row")


def started(processes: int) -> list[dict[str, Any]]:
    """What each of some processes finds that train together, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "GROUP_RANK": 0, "TORCHELASTIC_RUN_ID": "none"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    children = []
    for rank in range(processes):
        told = {name: str(value) for name, value in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()}
        command = [sys.executable, "-m", "benchmarks.scale.row_sharding", *sys.argv[1:]]
        children.append(subprocess.Popen(command, env=os.environ | told, stdout=subprocess.PIPE, text=True))
    answers = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise SystemExit("a process failed")
    return [json.loads(answer.splitlines()[-1]) for answer in answers]


class Clock(Callback):
    """Keeps the seconds of every step but the first."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.ends.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        return [end - begin for begin, end in zip(self.ends, self.ends[1:], strict=False)]


def fit(items: int, negatives: int, steps: int) -> dict[str, Any]:
    """Train this process's part, write the checkpoint, and report."""
    processes = int(os.environ["WORLD_SIZE"])
    torch.manual_seed(0)
    encoder = HSTU(dim=64, layers=2, heads=1, max_length=LENGTH, dropout=0.2)
    module = Recommender(items, encoder, negatives=negatives, prior=False, memory=False)
    batch = batch_of(LENGTH, items, torch.device("cpu"), EVENTS // LENGTH // processes)
    clock = Clock()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    quiet |= {"enable_checkpointing": False, "use_distributed_sampler": False}
    several = {"strategy": RowSharding(), "devices": processes} if processes > 1 else {"devices": 1}
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(max_epochs=1, callbacks=[clock], plugins=[WholeCheckpointIO()], **quiet, **several)  # type: ignore[arg-type]
        trainer.fit(module, DataLoader([batch] * steps, batch_size=None))  # type: ignore[arg-type]
        trained = peak(torch.device("cpu")) / GIB
        trainer.save_checkpoint(Path(folder) / "trained.ckpt")
    return {"peak_gib": trained, "saved_gib": peak(torch.device("cpu")) / GIB, "seconds": clock.seconds}


if __name__ == "__main__":
    main()
