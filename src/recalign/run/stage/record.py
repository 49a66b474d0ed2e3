"""What a command leaves in its run folder: configuration, manifest, figures."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict

import torch
from lightning import LightningDataModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from recalign.data.events.yaml_text import yaml_scalar, yaml_text
from recalign.distributed import is_rank_zero
from recalign.files import sha256, write_text
from recalign.run.stage import upstream
from recalign.run.stage.folder import Manifest, RunFolder
from recalign.run.stage.loggers import CSVLog, WandbLog, active_run, end_active_run, log_result, wandb_log
from recalign.run.stage.parsed import ParsedStage
from recalign.run.words import without_values


@contextmanager
def recorded_run(stage: ParsedStage, trainer: Trainer, data: LightningDataModule) -> Iterator[None]:
    """Begin the manifest and figures of a command; at its end, write how a `fit` ended, and log its checkpoint to W&B.

    A run that is continued keeps its rows and checkpoints; any other `fit` starts in an empty folder. After a `test`,
    the manifest records the trust report if it was rewritten; other commands leave the manifest as it is.
    """
    folder, manifest = stage.folder, _begin(stage, data)
    active = active_run()  # the user's own run, which stays open
    trainer.loggers = _loggers(stage, manifest, trainer.loggers)
    began, started, code = time.monotonic(), time.time(), 1
    try:
        yield
        if stage.training:
            _end(folder, manifest, began)
        elif stage.verb == "test":
            record_trust(folder, started)
        code = 0
    except BaseException as error:
        if stage.training:
            # Ctrl-C says how to go on, not what failed
            what = "" if isinstance(error, KeyboardInterrupt) else without_values(str(error), stage.variables)
            with suppress(OSError):  # the disk may be what failed
                _end(folder, manifest, began, error=what or type(error).__name__)
        raise
    finally:
        for log in [logger for logger in trainer.loggers if isinstance(logger, WandbLog)]:
            if stage.training and code == 0:
                log.use(lambda run: log_result(run, folder, manifest))
            log.finish(code)
        end_active_run(code, but=active)


def _begin(stage: ParsedStage, data: LightningDataModule) -> Manifest:
    folder, cohort, key = stage.folder, getattr(data, "cohort", None), stage.key(data)
    manifest = Manifest.begin(
        stage=stage.run.name,
        log=stage.log,
        seed=stage.seed,
        command=stage.command_line,
        key=key,
        fingerprint=key["data"],
        users=asdict(cohort) if cohort else None,
        upstream=upstream.hashes(stage.upstream),
        threads=torch.get_num_threads(),
        wandb_id=secrets.token_hex(4),
    )
    if stage.in_place and stage.continued:
        manifest.seconds, manifest.wandb_id = stage.continued.seconds, stage.continued.wandb_id
    if stage.training and is_rank_zero():
        if stage.in_place:
            for left in folder.checkpoints.glob(".*"):  # half-written by a process that was killed
                left.unlink()
        else:
            folder.start_afresh()
        head = f"# Repeats this run: recalign fit --config {yaml_scalar(str(folder.config))}\n"
        write_text(folder.config, head + yaml_text(stage.shareable))
        manifest.write(folder)
    return manifest


def _loggers(stage: ParsedStage, manifest: Manifest, own: list[Logger]) -> list[Logger]:
    """CSV, the user's own loggers, and W&B unless it is among them or ``trainer.logger`` is false."""
    path = stage.folder.figures(stage.verb)
    if not stage.training and is_rank_zero():
        path.unlink(missing_ok=True)
    found: list[Logger] = [CSVLog(path), *own]
    wanted = stage.config["trainer"]["logger"] is not False and stage.verb != "predict"
    if wanted and not any(isinstance(logger, WandbLogger) for logger in own):
        chain, name = stage.folder.chain_and_stage
        log = wandb_log(
            stage.folder.path,
            id=manifest.wandb_id if stage.training else None,
            group=chain,
            job_type=name if stage.training else f"{name}-{stage.verb}",
            name=f"{name}/seed-{stage.seed}",
            config=stage.shareable,
        )
        found += [log] if log else []
    return found


@rank_zero_only
def _end(folder: RunFolder, manifest: Manifest, began: float, error: str | None = None) -> None:
    manifest.error = error
    checkpoint = folder.final_checkpoint()
    files = [*folder.checkpoints.glob("*.ckpt"), *folder.path.glob(folder.trust.name)]
    manifest.end(folder, checkpoint, files, time.monotonic() - began)


@rank_zero_only
def record_trust(folder: RunFolder, started: float) -> None:
    """Record the trust report's digest if ``recalign test`` has written it since ``started``."""
    manifest = Manifest.read(folder)
    if manifest and manifest.digests and folder.trust.is_file() and folder.trust.stat().st_mtime >= started:
        manifest.digests[folder.trust.name] = sha256(folder.trust)
        manifest.write(folder)
