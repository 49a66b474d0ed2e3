"""The CSV file of figures that every run leaves."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from recalign.distributed import is_rank_zero
from recalign.files import atomic_write


class CSVLog(Logger):
    """One row a logging step, appended; a continued run goes on in the same file.

    Lightning's own CSVLogger deletes the file of the run that it continues. New columns are added at the right, which
    rewrites the file once; earlier rows are empty there.

    Args:
        path: the CSV file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.columns: list[str] = []
        if path.exists() and is_rank_zero():
            self._drop_torn_row()
            with open(path, newline="", encoding="utf-8") as file:
                self.columns = next(csv.reader(file), [])

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> int:
        return 0

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {"epoch": metrics.get("epoch"), "step": step} | metrics
        if new := [column for column in row if column not in self.columns]:
            rows, self.columns = self._rows(), self.columns + new
            self._write(rows)
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerow(row)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: the run folder holds the whole configuration."""

    @rank_zero_only
    def drop_from(self, step: int) -> None:
        """Drop the rows of a step and of later ones: those of a continued run are logged again."""
        rows = self._rows()
        kept = [row for row in rows if not row["step"] or int(row["step"]) < step]
        if len(kept) < len(rows):
            self._write(kept)

    def _rows(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        with open(self.path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def _write(self, rows: list[dict[str, str]]) -> None:
        with atomic_write(self.path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)

    def _drop_torn_row(self) -> None:
        """Cut off a last row that a killed process did not finish."""
        content = self.path.read_bytes()
        if not content.endswith(b"\n"):
            self.path.write_bytes(content[: content.rfind(b"\n") + 1])
