"""A chain as steps: what each needs, what it keeps, and how they are run, one after the other or side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from recalign.artifacts import Kept, State, is_fresh
from recalign.errors import TrainingError
from recalign.run.chain.progress import Progress
from recalign.run.stage.console import say, seconds_left, whole_run
from recalign.workers import WorkerDied, in_cell, torch_threads

Results = Mapping[str, Any]
"""What steps returned, by their names."""


@dataclass(frozen=True)
class Step:
    """A piece of a chain, which does nothing where what it keeps is fresh.

    Attributes:
        name: names it, and its log.
        keeps: what it keeps, from the results of what it needs; it and what it makes can be pickled.
        needs: names of the steps that come first.
        here: whether it runs in the chain's own process, because it is short and prints.
    """

    name: str
    keeps: Callable[[Results], Kept[Any]]
    needs: tuple[str, ...] = ()
    here: bool = False

    def run(self, given: Results) -> tuple[Any, bool]:
        """Its result, and whether it was made: what is fresh is loaded."""
        kept = self.keeps(given)
        return (kept.load(), False) if is_fresh(kept, say) else (kept.make(), True)

    def given(self, done: Results) -> Results:
        """The results of what it needs."""
        return {name: done[name] for name in self.needs}

    @property
    def log(self) -> str:
        """The file that a worker writes its output to."""
        return f"{self.name.replace('/', '-')}.log"


@dataclass(frozen=True)
class Anew:
    """What keeps nothing, and is made every time: a choice, say.

    Attributes:
        function: is called with the results of what its step needs.
        given: these results.
    """

    function: Callable[[Results], Any]
    given: Results
    name: str = "made every time"

    def state(self) -> State:
        return State()

    def make(self) -> Any:
        return self.function(self.given)

    load = make


def anew(function: Callable[..., Any], *args: Any) -> Callable[[Results], Anew]:
    """What a step keeps that calls a function every time, with some arguments and the results of what it needs."""
    return partial(Anew, partial(function, *args))


def in_order(steps: Sequence[Step], threads: int | None, progress: Progress) -> Results:
    """Run steps, each after what it needs, in this process, with so many threads of torch (None: its own choice).

    Returns:
        The result of each.
    """
    done: dict[str, Any] = {}
    with torch_threads(threads):
        for step in steps:
            progress.announce(step.name)
            with whole_run(lambda left, name=step.name: progress.about({name: left})):  # type: ignore[misc]
                done[step.name], made = step.run(step.given(done))
            progress.end(step.name, made)
    return done


def side_by_side(
    steps: Sequence[Step],
    threads: int | None,
    executor: Executor,
    logs: Path,
    progress: Progress,
    verbose: bool = False,
) -> Results:
    """Run every step as soon as what it needs is done.

    Args:
        steps: each after what it needs.
        threads: of torch in each worker; None: its own choice.
        executor: whose futures raise `WorkerDied` where a worker is gone.
        logs: folder of what the steps print.
        progress: of these steps.
        verbose: whether to print that too, once a step is done.

    Returns:
        The result of each.

    Raises:
        TrainingError: a step's worker died twice.
    """
    done: dict[str, Any] = {}
    left, running, retried = list(steps), dict[Future[Any], Step](), set[str]()
    printed = {step.name: len(_read(logs / step.log)) for step in steps}  # by earlier calls

    def printed_since(step: Step) -> str:
        return _read(logs / step.log)[printed[step.name] :]

    def own() -> dict[str, float]:
        """What running steps say is left of them."""
        said = {step.name: seconds_left(printed_since(step)) for future, step in running.items() if future.running()}
        return {name: left for name, left in said.items() if left is not None}

    with Console(stderr=True).status("") as line:
        while left or running:
            for step in [step for step in left if done.keys() >= set(step.needs)]:
                left.remove(step)
                if step.here:
                    progress.begin(step.name)
                    done[step.name], made = step.run(step.given(done))
                    progress.end(step.name, made)
                else:
                    words = logs / step.log, threads, step.run, step.given(done)
                    running[executor.submit(in_cell, *words)] = step
            for future in wait(running, timeout=1, return_when=FIRST_COMPLETED).done:
                step = running.pop(future)
                try:
                    done[step.name], made = future.result()
                    progress.end(step.name, made)
                    say(progress.so_far(f": {step.name}", own()))
                    if verbose:
                        say(printed_since(step).rstrip())
                except WorkerDied as error:
                    if step.name in retried:
                        raise TrainingError(
                            f"{step.name}: its worker died twice ({error}); see {logs / step.log}"
                        ) from error
                    retried.add(step.name)
                    progress.restart(step.name)
                    left.insert(0, step)
                    say(f"{step.name}: its worker died ({error}); trying once more")
            names = [step.name for future, step in running.items() if future.running()]
            for name in names:
                progress.begin(name)
            line.update(progress.so_far(f", running {', '.join(names)}", own()))
    return done


def _read(log: Path) -> str:
    """What a worker has written so far, which may end within a letter."""
    return log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
