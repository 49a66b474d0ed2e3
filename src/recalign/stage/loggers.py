"""Where figures go: a CSV file that is always there, and Weights & Biases, which never gets in the way."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn

from recalign.files import replacing
from recalign.stage.private import without_anonymous


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
        if path.exists() and rank_zero_only.rank == 0:
            self._drop_torn_row()
            with open(path, newline="", encoding="utf-8") as file:
                self.columns = next(csv.reader(file), [])

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> int:
        return 0

    @property
    def log_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {"epoch": metrics.get("epoch"), "step": step} | metrics
        if new := [column for column in row if column not in self.columns]:
            self._add_columns(new)
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

    def _add_columns(self, new: list[str]) -> None:
        rows = self._rows()
        self.columns = self.columns + new
        self._write(rows)

    def _rows(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        with open(self.path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def _write(self, rows: list[dict[str, str]]) -> None:
        with replacing(self.path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)

    def _drop_torn_row(self) -> None:
        """Cut off a last row that a killed process did not finish."""
        content = self.path.read_bytes()
        if not content.endswith(b"\n"):
            self.path.write_bytes(content[: content.rfind(b"\n") + 1])


class WandbLog(WandbLogger):
    """Weights & Biases that never asks, never prints and never fails a run: it is off after its first error.

    Args:
        folder: the run folder, where W&B keeps its files.
        wandb_id: the W&B run to start or to go on with; None: a new one.
        **kwargs: of ``wandb.init``: group, job_type, name, config.
    """

    def __init__(self, folder: Path, wandb_id: str | None, **kwargs: Any) -> None:
        if "WANDB_RUN_ID" not in os.environ:  # a W&B sweep chooses the id itself
            kwargs["id"] = wandb_id
        super().__init__(
            save_dir=folder, project=os.environ.get("WANDB_PROJECT", "recalign"), settings=_settings(), **kwargs
        )
        without_anonymous(self)
        self.failed = False

    def begin(self) -> None:
        """Start the run now, so that an error costs one warning, before training."""
        self._safely(lambda: self.experiment)

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self._safely(super().log_metrics, metrics, step)

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Nothing to do: the whole configuration was logged at the start."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._safely(super().finalize, status)
        self._safely(lambda: self.experiment.finish(exit_code=int(status == "failed")))

    def _safely(self, call: Callable[..., Any], *args: Any) -> None:
        if self.failed:
            return
        try:
            call(*args)
        except Exception as error:  # whatever wandb raises, training matters more
            self.failed = True
            _warn(error)


def _warn(error: Exception) -> None:
    rank_zero_warn(f"W&B is off for this run: {str(error).splitlines()[0] if str(error) else repr(error)}")


def _settings() -> Any:
    import wandb

    # No copy of the console, of the code or of the machine's load: an offline run starts in 0.1 s (the first in 0.6 s).
    return wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True)


def _mode() -> str:
    """WANDB_MODE if it is set, offline otherwise; online only with an account that needs no asking."""
    import wandb

    mode = os.environ.get("WANDB_MODE") or ("online" if "WANDB_SWEEP_ID" in os.environ else "offline")
    if mode in ("online", "run", "shared") and not wandb.login(prompt=False):
        rank_zero_warn("W&B has no account here (wandb login, or WANDB_API_KEY): this run is logged offline")
        return "offline"
    return mode


def wandb_log(folder: Path, wandb_id: str | None, **kwargs: Any) -> WandbLog | None:
    """The W&B logger of a run, started; None if W&B is disabled, missing or does not work.

    Args:
        folder: the run folder.
        wandb_id: the W&B run to start or to go on with; None: a new one.
        **kwargs: of ``wandb.init``: group, job_type, name, config.
    """
    try:
        mode = _mode()
        if mode == "disabled":
            return None
        log = WandbLog(folder, wandb_id, mode=mode, **kwargs)
    except Exception as error:  # a broken or missing wandb is no reason not to train
        _warn(error)
        return None
    log.begin()
    return None if log.failed else log
