"""How many trials of a promise the tests have made: a run with ``--long`` writes it down."""

from __future__ import annotations

import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from recalign.files import write_text
from recalign.run.stage.folder import git_state

RESULTS = Path(__file__).parents[2] / "benchmarks" / "promises" / "trials.csv"
PROPERTY = "trials"
"""Name under which a test reports; its value: a promise, what was tried, how often."""
KEY = ["promise", "faults", "test"]


class TrialCounts:
    """Plugin of pytest: adds up what tests report and, at the end, replaces the rows of these tests in a CSV.

    Columns: ``promise, faults, test``, then ``trials``, ``failed`` (1 for a test that failed: it ends at its first),
    ``date`` (UTC) and ``commit``, with a plus where the code had changes.
    """

    def __init__(self, file: Path = RESULTS) -> None:
        self.file = file
        self.trials: Counter[tuple[str, str, str]] = Counter()
        self.failed: Counter[tuple[str, str, str]] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        reported = [value for name, value in report.user_properties if name == PROPERTY and report.when == "call"]
        for promise, faults, count in reported:
            self.trials[promise, faults, report.nodeid] += count
        for promise, faults in {(promise, faults) for promise, faults, _ in reported if report.failed}:
            self.failed[promise, faults, report.nodeid] += 1

    def pytest_sessionfinish(self) -> None:
        if not self.trials:
            return
        git = git_state() or {"commit": "", "dirty": False}
        made = datetime.now(UTC).date().isoformat(), git["commit"][:7] + "+" * git["dirty"]
        rows = [(*key, count, self.failed[key], *made) for key, count in self.trials.items()]
        frame = pl.DataFrame(rows, schema=[*KEY, "trials", "failed", "date", "commit"], orient="row")
        if self.file.is_file():
            frame = pl.concat([pl.read_csv(self.file).join(frame, on=KEY, how="anti"), frame], how="vertical_relaxed")
        frame.sort(KEY).write_csv(self.file)
        self.write_page()

    def write_page(self) -> None:
        """Fill the table of benchmarks/promises/README.md."""
        sys.path.insert(0, str(RESULTS.parents[2]))
        from benchmarks import tables

        path = RESULTS.with_name("README.md")
        write_text(path, tables.filled(path.read_text()))
