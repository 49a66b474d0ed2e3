"""Loggers of every run: a CSV file, and Weights & Biases, which never asks and never ends a run."""

from __future__ import annotations

import csv
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn

from recalign.distributed import is_rank_zero
from recalign.files import atomic_write, read_json
from recalign.run.stage.folder import Manifest, RunFolder


class CSVLog(Logger):
    """Append one row per logging step; a continued run appends to the same file.

    Lightning's own CSVLogger would delete that file. New columns are added at the right, which
    rewrites the file once; earlier rows are empty there.

    Args:
        path: the CSV file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.columns: list[str] = []
        if path.exists() and is_rank_zero():
            if not (content := path.read_bytes()).endswith(b"\n"):  # a killed process did not finish its last row
                path.write_bytes(content[: content.rfind(b"\n") + 1])
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


PROJECT = "recalign"
"""The W&B project if WANDB_PROJECT is not set."""

BEST: dict[str, Literal["min", "max"]] = {
    "rank/all/ndcg@10": "max",
    "rank/all/hr@10": "max",
    "rank/high/ndcg@10": "max",
    "rank/nll": "min",
    "reward/rmse": "min",
}
"""Figures that W&B summarises by the best value; all others by the last."""


class WandbLog(WandbLogger):
    """Lightning's `WandbLogger`; its first error causes one warning and turns it off."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._wandb_init.pop("anonymous", None)  # wandb warns about it
        self.failed = False

    def use(self, call: Callable[[Any], Any]) -> None:
        """Call a function with the run (`wandb.Run`)."""
        if not self.failed:
            try:
                call(self.experiment)
            except Exception as error:  # whatever wandb raises, training matters more
                self.failed = True
                _warn(error)

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        log = super().log_metrics
        self.use(lambda _: log(metrics, step))

    @rank_zero_only
    def log_histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """Log a distribution, as 64 bins."""
        import wandb

        self.use(lambda _: self.log_metrics({name: wandb.Histogram(values.tolist())}, step))

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Nothing to do: the whole configuration was logged at the start."""

    def finish(self, exit_code: int = 0) -> None:
        """End the run. Nothing is logged later."""
        self.use(lambda run: run.finish(exit_code=exit_code))
        self.failed = True


def active_run() -> Any:
    """The active `wandb.Run` of this process, the user's own too; None if there is none."""
    return getattr(sys.modules.get("wandb"), "run", None)


def end_active_run(exit_code: int, but: Any = None) -> None:
    """End the active run unless it is ``but``: the next stage of this process would log into it."""
    run = active_run()
    if run is not None and run is not but:
        with suppress(Exception):  # the user was warned that W&B is off
            run.finish(exit_code=exit_code)


def wandb_log(folder: Path, **settings: Any) -> WandbLog | None:
    """A W&B logger: offline, unless WANDB_MODE or a sweep says otherwise.

    Args:
        folder: where W&B keeps its files.
        **settings: of ``wandb.init``: id, group, job_type, name, config.

    Returns:
        None if W&B is disabled, missing or does not work, or another run is active in this process.
    """
    mode = os.environ.get("WANDB_MODE") or ("online" if "WANDB_SWEEP_ID" in os.environ else "offline")
    if mode == "disabled":
        return None
    try:
        import wandb

        if wandb.run is not None:  # Lightning would take it, and `finish` end it
            raise RuntimeError("another run is active in this process; wandb.finish() ends it")
        if mode == "online" and not wandb.login(prompt=False):
            rank_zero_warn("W&B has no account here (wandb login, or WANDB_API_KEY): this run is logged offline")
            mode = "offline"
        if "WANDB_RUN_ID" in os.environ:  # a sweep chooses the id itself
            settings["id"] = None
        # W&B's own process may have been started in another folder, so the path is absolute.
        log = WandbLog(
            save_dir=folder.resolve(),
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            mode=mode,
            # No copy of the console, of the code or of the load: an offline run starts in 0.1 s (the first in 0.6 s).
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True
            ),
            **settings,
        )
    except Exception as error:  # a broken or missing wandb is no reason not to train
        _warn(error)
        return None
    # The run starts now, so that an error shows before training.
    log.use(lambda run: [run.define_metric(name, summary=best) for name, best in BEST.items()])
    if log.failed:
        end_active_run(1)
        return None
    return log


def _warn(error: Exception) -> None:
    rank_zero_warn(f"W&B is off for this run: {str(error).splitlines()[0] if str(error) else repr(error)}")


def log_result(run: Any, folder: RunFolder, manifest: Manifest) -> None:
    """Log a stage's checkpoint, with what it was made from, and the verdict on a reward model or a judge.

    Of the log, only its name and digest, and the users' group, share, number and digest leave the machine.
    """
    import wandb

    name = "-".join((*folder.chain_and_stage, folder.path.name))
    facts = {"log": manifest.log, "fingerprint": manifest.fingerprint, "users": manifest.users}
    facts |= {"sha256": manifest.digests[str(manifest.checkpoint)], "upstream": manifest.upstream}
    artifact = wandb.Artifact(wandb_name(name), type="model", metadata=facts)
    path = folder.path / str(manifest.checkpoint)
    artifact.add_file(str(path), policy="immutable", skip_cache=True)  # no copy of it on this machine
    run.log_artifact(artifact)
    if trust := read_json(folder.trust):
        run.summary["trust/verdict"] = trust["verdict"]
        if bins := trust[trust["judged_on"]]["calibration"]["bins"]:  # what was predicted and what was observed
            curve = wandb.Table(columns=list(bins[0]), data=[list(one.values()) for one in bins])
            run.log({"trust/calibration": wandb.plot.line(curve, "predicted", "observed", title="calibration")})


def wandb_name(name: str) -> str:
    """Replace characters that W&B does not allow in an artifact's name."""
    return re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)
