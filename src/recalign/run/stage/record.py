"""What a command leaves in its run folder: configuration, manifest, figures."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch
from lightning import LightningDataModule
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from recalign.distributed import is_rank_zero
from recalign.files import sha256, write_text, yaml_text
from recalign.run.stage import upstream
from recalign.run.stage.folder import RunFolder
from recalign.run.stage.loggers import CSVLog
from recalign.run.stage.manifest import Manifest, git_state, now, versions
from recalign.run.stage.parsed import ParsedStage, fingerprint, without_values
from recalign.run.stage.wandb_log import WandbLog, log_artifacts, wandb_log


def begin(parsed: ParsedStage, datamodule: LightningDataModule) -> Manifest:
    """Prepare the folder of a `fit`, or leave that of a trained run as it is.

    A run that is continued keeps its rows and checkpoints; any other starts in an empty folder.

    Returns:
        The manifest, written with status ``running`` if this is a `fit`.
    """
    cohort = getattr(datamodule, "cohort", None)
    manifest = Manifest(
        stage=parsed.run.name,
        log=parsed.log,
        seed=parsed.seed,
        command=parsed.command,
        fingerprint=fingerprint(datamodule),
        users=asdict(cohort) if cohort else None,
        upstream=upstream.hashes(parsed.upstream),
        threads=torch.get_num_threads(),
        versions=versions(),
        git=git_state(),
        started=now(),
        wandb_id=secrets.token_hex(4),
    )
    manifest.key = parsed.key_with(manifest.fingerprint)
    if parsed.in_place and parsed.continued:
        manifest.seconds, manifest.wandb_id = parsed.continued.seconds, parsed.continued.wandb_id
    if parsed.training:
        _prepare(parsed, manifest)
    return manifest


@rank_zero_only
def _prepare(parsed: ParsedStage, manifest: Manifest) -> None:
    folder = parsed.folder
    if parsed.in_place:
        for left in folder.checkpoints.glob(".*"):  # half-written by a process that was killed
            left.unlink()
    else:
        folder.start_afresh()
    head = f"# Repeats this run: recalign fit --config {folder.config}\n"
    write_text(folder.config, head + yaml_text(parsed.shareable))
    manifest.write(folder)


def loggers(parsed: ParsedStage, manifest: Manifest, extra: list[Logger]) -> list[Logger]:
    """CSV, the user's own loggers (``extra``), and W&B unless it is among them or ``trainer.logger`` is false."""
    path = parsed.folder.figures(parsed.subcommand)
    if not parsed.training and is_rank_zero():
        path.unlink(missing_ok=True)
    found: list[Logger] = [CSVLog(path), *extra]
    ours = parsed.config["trainer"]["logger"] is not False and parsed.subcommand != "predict"
    if ours and not any(isinstance(logger, WandbLogger) for logger in extra):
        chain, stage = parsed.folder.placed
        log = wandb_log(
            parsed.folder.path,
            id=manifest.wandb_id if parsed.training else None,
            group=chain,
            job_type=stage if parsed.training else f"{stage}-{parsed.subcommand}",
            name=f"{stage}/seed-{parsed.seed}",
            config=parsed.shareable,
        )
        found += [log] if log else []
    return found


@contextmanager
def recorded(parsed: ParsedStage, manifest: Manifest | None, loggers: Sequence[Logger]) -> Iterator[None]:
    """Write into the manifest of a `fit` how it ended, log its artifacts if it succeeded, and end the W&B runs.

    After a `test`, record the trust report that it has written anew.
    """
    folder, trained = parsed.folder, manifest if parsed.training else None
    began, started, code = time.monotonic(), time.time(), 1
    try:
        yield
        if trained:
            _end(folder, trained, "finished", began)
        elif parsed.subcommand == "test" and not parsed.dry:
            renew_trust(folder, started)
        code = 0
    except BaseException as error:
        if trained:
            said = "" if isinstance(error, KeyboardInterrupt) else str(error)  # that says how to go on, not what failed
            trained.error = without_values(said, parsed.variables) or type(error).__name__
            with suppress(OSError):  # the disk may be what failed
                _end(folder, trained, "failed", began)
        raise
    finally:
        for log in [logger for logger in loggers if isinstance(logger, WandbLog)]:
            if trained and code == 0:
                log.use(lambda run: log_artifacts(run, folder, trained))
            log.finish(code)


@rank_zero_only
def _end(folder: RunFolder, manifest: Manifest, status: Literal["finished", "failed"], began: float) -> None:
    manifest.status, manifest.finished = status, now()
    manifest.seconds = round(manifest.seconds + time.monotonic() - began, 3)
    if checkpoint := final_checkpoint(folder):
        manifest.checkpoint = str(checkpoint.relative_to(folder.path))
    manifest.digests = folder.digests()
    manifest.write(folder)


@rank_zero_only
def renew_trust(folder: RunFolder, started: float) -> None:
    """Record the trust report that ``recalign test`` has written anew, since a time; an older one is left as known."""
    manifest = Manifest.read(folder)
    if manifest and manifest.digests and folder.trust.is_file() and folder.trust.stat().st_mtime >= started:
        manifest.digests[folder.trust.name] = sha256(folder.trust)
        manifest.write(folder)


def final_checkpoint(folder: RunFolder) -> Path | None:
    """The checkpoint for the next stage: the best one, or the last one where there is no best."""
    return next((path for path in (folder.best, folder.last) if path.is_file()), None)
