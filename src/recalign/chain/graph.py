"""A chain as tasks: what each needs, and how they are run, one after the other or side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from recalign.chain.progress import Progress, about, say
from recalign.errors import TrainingError
from recalign.stage.console import seconds_left, whole_run
from recalign.workers import WorkerDied, in_cell, torch_threads

Results = Mapping[str, Any]
"""What tasks returned, by their names."""


@dataclass(frozen=True)
class Task:
    """A piece of a chain.

    Attributes:
        name: names it, and its log.
        function: is called with the results of what it needs; it and its result can be pickled.
        needs: names of the tasks that come first.
        here: whether it runs in the chain's own process, because it is short and prints.
    """

    name: str
    function: Callable[[Results], Any]
    needs: tuple[str, ...] = ()
    here: bool = False

    def given(self, done: Results) -> Results:
        """The results of what it needs."""
        return {name: done[name] for name in self.needs}

    @property
    def log(self) -> str:
        """The file that a worker writes its output to."""
        return f"{self.name.replace('/', '-')}.log"


def in_order(tasks: Sequence[Task], threads: int | None, progress: Progress) -> None:
    """Run tasks, each after what it needs, in this process, with so many threads of torch (None: its own choice)."""
    done: dict[str, Any] = {}
    with torch_threads(threads):
        for task in tasks:
            progress.announce(task.name)
            with whole_run(lambda left, name=task.name: about(progress.left({name: left}))):  # type: ignore[misc]
                done[task.name] = task.function(task.given(done))
            progress.end(task.name)


def side_by_side(
    tasks: Sequence[Task],
    threads: int | None,
    executor: Executor,
    logs: Path,
    progress: Progress,
    verbose: bool = False,
) -> None:
    """Run every task as soon as what it needs is done.

    Args:
        tasks: each after what it needs.
        threads: of torch in each worker; None: its own choice.
        executor: whose futures raise `WorkerDied` where a worker is gone.
        logs: folder of what the tasks print.
        progress: of these tasks.
        verbose: whether to print that too, once a task is done.

    Raises:
        TrainingError: a task's worker died twice.
    """
    done: dict[str, Any] = {}
    left, running, retried = list(tasks), dict[Future[Any], Task](), set[str]()
    printed = {task.name: len(_read(logs / task.log)) for task in tasks}  # by earlier calls

    def printed_since(task: Task) -> str:
        return _read(logs / task.log)[printed[task.name] :]

    def own() -> dict[str, float]:
        """What running tasks say is left of them."""
        said = {task.name: seconds_left(printed_since(task)) for future, task in running.items() if future.running()}
        return {name: left for name, left in said.items() if left is not None}

    with Console(stderr=True).status("") as line:
        while left or running:
            for task in [task for task in left if done.keys() >= set(task.needs)]:
                left.remove(task)
                if task.here:
                    progress.begin(task.name)
                    done[task.name] = task.function(task.given(done))
                    progress.end(task.name)
                else:
                    words = logs / task.log, threads, task.function, task.given(done)
                    running[executor.submit(in_cell, *words)] = task
            for future in wait(running, timeout=1, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                try:
                    done[task.name] = future.result()
                    progress.end(task.name)
                    say(progress.so_far(f": {task.name}", own()))
                    if verbose:
                        say(printed_since(task).rstrip())
                except WorkerDied as error:
                    if task.name in retried:
                        raise TrainingError(
                            f"{task.name}: its worker died twice ({error}); see {logs / task.log}"
                        ) from error
                    retried.add(task.name)
                    progress.restart(task.name)
                    left.insert(0, task)
                    say(f"{task.name}: its worker died ({error}); trying once more")
            names = [task.name for future, task in running.items() if future.running()]
            for name in names:
                progress.begin(name)
            line.update(progress.so_far(f", running {', '.join(names)}", own()))


def _read(log: Path) -> str:
    return log.read_text(encoding="utf-8") if log.is_file() else ""
