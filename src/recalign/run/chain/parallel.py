"""Run the steps of a chain, in this process or side by side: in processes of this machine, or on a Ray cluster.

A cluster shares a file system with this machine, and needs the extra ``recalign[ray]``.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from recalign.errors import TrainingError
from recalign.files import read_object, write_json
from recalign.run.chain.experiment import Chain
from recalign.run.chain.steps import Results, Step, run_in_order
from recalign.run.cores import usable_cores, usable_memory
from recalign.run.stage.console import SECONDS_A_LINE, echo, last_progress
from recalign.workers import LocalWorkers, RayWorkers, run_logged, torch_threads

LOADED_SECONDS = 5.0
"""Durations below this are not stored: the step was loaded, or is too short for an estimate."""
MEMORY = 2 * 2**30
"""Bytes of memory to allow for each worker, if their number is not given."""


class Progress:
    """Counts finished steps, and estimates the minutes left from their durations in an earlier run of the chain.

    Args:
        steps: all of them.
        folder: of the chain; stores the seconds of each kind of step (``asft`` of asft/seed-0) in seconds.json.
        workers: how many steps run at a time.
    """

    def __init__(self, steps: Sequence[Step], folder: Path, workers: int = 1) -> None:
        self.file, self.workers, self.total = folder / "seconds.json", workers, len(steps)
        self.left = {step.name: step.name.rstrip("0123456789").removesuffix("/seed-") for step in steps}
        self.seconds: dict[str, float] = read_object(self.file)
        self._earlier, self.done = dict(self.seconds), 0

    def end(self, step: Step, began: float) -> None:
        """Count a finished step, which began at ``began`` (`time.monotonic`)."""
        self.done += 1
        kind, seconds = self.left.pop(step.name), time.monotonic() - began
        if seconds > LOADED_SECONDS:
            self.seconds[kind] = round(seconds, 1)
            write_json(self.file, self.seconds)

    def of_all(self, number: int) -> str:
        """``3 of 12``, and the minutes left, if known from an earlier run."""
        seconds = sum(self._earlier.get(kind, 0.0) for kind in self.left.values()) / self.workers
        left = f", about {seconds / 60:.0f} min left" if seconds >= 60 else ""
        return f"{number} of {self.total}{left}"

    @contextmanager
    def watched(self, step: Step) -> Iterator[None]:
        """Announce a step, and count it when it is done."""
        echo(f"stage {self.of_all(self.done + 1)}: {step.name}")
        began = time.monotonic()
        yield
        self.end(step, began)


def run_here(folder: Path, threads: int | None, steps: Sequence[Step]) -> Results:
    """Run steps one after the other in this process, with ``threads`` torch threads (None: unchanged)."""
    with torch_threads(threads):
        return run_in_order(steps, Progress(steps, folder).watched)


def run_side_by_side(
    workers: LocalWorkers | RayWorkers, folder: Path, threads: int | None, steps: Sequence[Step]
) -> Results:
    """Run steps in parallel, each as soon as those that it needs are done. Steps that most others need come first. If a
    worker dies, the steps that were running are tried once more.

    Args:
        folder: of the chain; a step's output is appended to ``logs/<step>.log``.
        threads: of torch in each worker; None: 1.
        steps: each after those that it needs.

    Returns:
        Results by step name.
    """
    done: dict[str, Any] = {}
    progress, shown = Progress(steps, folder, workers.number), Shown(folder)
    needed = Counter(name for step in steps for name in step.needs)
    left, running, retried = list(steps), dict[Future[Any], tuple[Step, float]](), set[str]()
    with shown.line:
        while left or running:
            ready = [step for step in left if done.keys() >= set(step.needs)]
            if ready and len(running) < workers.number:
                step, began = max(ready, key=lambda step: needed[step.name]), time.monotonic()
                left.remove(step)
                if step.is_short(given := step.inputs(done)):
                    done[step.name] = step.run(given)
                    progress.end(step, began)
                else:
                    shown.begin(step)
                    call = (run_logged, log_of(folder, step), threads or 1, step.run, given)
                    running[workers.submit(*call)] = step, began
                continue
            shown.update(progress, [step for step, _ in running.values()])
            for future in wait(running, SECONDS_A_LINE, return_when=FIRST_COMPLETED).done:
                step, began = running.pop(future)
                try:
                    done[step.name] = future.result()
                except BrokenExecutor as error:
                    if step.name in retried:
                        what = f"{step.name}: its worker died twice ({error}); see {log_of(folder, step)}"
                        raise TrainingError(what) from error
                    echo(f"{step.name}: its worker or another one died; trying once more")
                    retried.add(step.name)
                    left.insert(0, step)
                else:
                    progress.end(step, began)
                    echo(f"done {progress.of_all(progress.done)}: {step.name}")
    return done


class Shown:
    """Progress of running steps on stderr: a status line or, without a terminal, a line every few seconds.

    Args:
        folder: of the chain; progress is read from the steps' logs in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.console = folder, Console(stderr=True)
        self.line, self.logged = self.console.status(""), dict[str, int]()
        self.printed, self.text = time.monotonic(), ""

    def begin(self, step: Step) -> None:
        """Note the end of its log, to read only what it adds."""
        log = log_of(self.folder, step)
        self.logged[step.name] = log.stat().st_size if log.is_file() else 0

    def update(self, progress: Progress, running: Sequence[Step]) -> None:
        """Show these steps, each with its epoch and the time left if its log has them."""
        said = ((step.name, last_progress(log_of(self.folder, step), self.logged[step.name])) for step in running)
        text = f"done {progress.of_all(progress.done)}; {'; '.join(' '.join(filter(None, one)) for one in said)}"
        self.line.update(text)
        waited = time.monotonic() - self.printed >= SECONDS_A_LINE
        if waited and running and text != self.text and not self.console.is_interactive:
            print(text, file=sys.stderr, flush=True)
            self.printed, self.text = time.monotonic(), text


def log_of(folder: Path, step: Step) -> Path:
    """Where a step's output goes."""
    return folder / "logs" / f"{step.name.replace('/', '-')}.log"


def workers_of(chain: Chain, alone: bool = False) -> LocalWorkers | RayWorkers | None:
    """The workers that a chain asks for; None: this process runs its steps.

    Args:
        alone: whether a stage needs the machine for itself: it trains on a GPU, or in several processes.
    """
    if chain.engine == "ray":
        return RayWorkers(chain.workers, chain.num_cpus or chain.threads or 1, chain.num_gpus)
    visible, gpus = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()
    number = chain.workers or (1 if alone else number_of_workers(chain.threads or 1))
    if number == 1:
        return None
    names = visible.split(",")[:gpus] if visible else [str(gpu) for gpu in range(gpus)]
    return LocalWorkers([{"CUDA_VISIBLE_DEVICES": names[n % len(names)]} if names else {} for n in range(number)])


def number_of_workers(threads: int) -> int:
    """Workers that fit the cores (or OMP_NUM_THREADS), with ``threads`` each, and the memory, with `MEMORY` each."""
    cores = min(torch.get_num_threads(), usable_cores())
    return max(1, min(cores // threads, usable_memory() // MEMORY))
