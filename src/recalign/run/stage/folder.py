"""The run folder, into which a stage writes everything, and its manifest.json: how the run was made."""

from __future__ import annotations

import copy
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.callbacks import ModelSummary, ProgressBar

from recalign import artifacts, seals
from recalign.data.events.log import HOW_READ
from recalign.errors import InputError
from recalign.files import digest, sha256, write_json
from recalign.run.words import flatten, imported, listed, short, without_values
from recalign.seals import code_digest

BUNDLES = "bundles"
"""Subfolder of a run folder for exported bundles."""


@dataclass(frozen=True)
class RunConfig:
    """Names the run folder, ``<root>/<chain>/<name>/seed-<seed_everything>``.

    Attributes:
        name: the stage (``recommender``, ``reward``) or the method (``asft``, ``dpo``, ...).
        root: the folder of all runs.
        chain: the experiment that the run belongs to; null: the log's name.
        imports: your modules that define networks of the checkpoints to start from: loading these imports nothing.
    """

    name: str
    root: str = "runs"
    chain: str | None = None
    imports: list[str] = field(default_factory=list)


@dataclass
class RunFolder:
    """Paths inside one run folder, and operations on the whole folder.

    Attributes:
        path: the folder ``<root>/<chain>/<name>/seed-<n>``; it need not exist.
        previous: keeps the run that this folder held before.
        trust: the trust report of a reward model.
    """

    path: Path

    def __post_init__(self) -> None:
        self.config, self.manifest = self.path / "config.yaml", self.path / artifacts.MANIFEST
        self.checkpoints, self.trust = self.path / "checkpoints", self.path / "trust.json"
        self.previous = self.path.parent / f"{self.path.name}.previous"
        self.best, self.last = self.checkpoints / "best.ckpt", self.checkpoints / "last.ckpt"

    @classmethod
    def of(cls, run: RunConfig, log: str, seed: int) -> RunFolder:
        """The folder of a run on a log of that name.

        Raises:
            InputError: a name that is no plain folder name.
        """
        parts = {"run.chain": run.chain or log, "run.name": run.name}
        for key, name in parts.items():
            if name in ("", ".", "..") or {"/", os.sep, "\0"} & {*name}:
                raise InputError(f"{name!r} cannot name a folder", where=key, remedy="choose a name without slashes")
        return cls(Path(run.root, *parts.values(), f"seed-{seed}"))

    @property
    def chain_and_stage(self) -> tuple[str, str]:
        """Chain and stage; of a trial, which lies below its method, the stage ``<method>-<trial>``."""
        *_, chain, method, group, name, _ = ("", "", *self.path.resolve().parts)
        is_trial = group in ("trials", "tuning") and re.fullmatch(r"trial-\d+", name)
        return (chain, f"{method}-{name}") if is_trial else (group, name)

    def final_checkpoint(self) -> Path | None:
        """The checkpoint for the next stage: the best one, else the last one, else None."""
        return next((path for path in (self.best, self.last) if path.is_file()), None)

    def figures(self, verb: str) -> Path:
        """The CSV file of the metrics of a `fit`, `validate`, `test` or `predict`."""
        return self.path / ("metrics.csv" if verb == "fit" else f"{verb}.csv")

    def start_afresh(self) -> None:
        """Empty the folder: a run that had a checkpoint is kept beside it as ``seed-<n>.previous``.

        Nothing of an earlier run stays, so that rows, checkpoints and evaluations of two runs never mix. Only bundles
        stay: they may be served from here, and record themselves what they were made of.
        """
        bundles, aside = self.path / BUNDLES, self.path.with_name(f"{self.path.name}.{BUNDLES}")
        if bundles.is_dir():
            bundles.rename(aside)
        if self.last.exists() or self.best.exists():
            shutil.rmtree(self.previous, ignore_errors=True)
            self.path.rename(self.previous)
        else:
            shutil.rmtree(self.path, ignore_errors=True)
        self.checkpoints.mkdir(parents=True)
        if aside.is_dir():
            aside.rename(bundles)


OUTPUT = ("enable_progress_bar", "enable_model_summary", "logger", "profiler")
"""Settings of the trainer that only print or log, and change no result."""


@dataclass
class Manifest:
    """The contents of ``manifest.json``: how a run was made, and what it left.

    Attributes:
        stage: the run's name: the stage or method.
        log: name of the log.
        seed: the run's seed.
        command: the line that runs it again.
        status: ``failed`` also covers a run that was interrupted; ``running`` one that was killed outright.
        key: all that determines the result, see `run_key`.
        fingerprint: digest of the data.
        users: whose events it trains on: group, share of A, count and digest of the raw ids.
        upstream: argument (``model.init_from``) -> path and sha256 of the checkpoint that it named.
        threads: of torch; with another number, sums may be rounded differently.
        versions: of recalign, its main libraries and Python.
        git: commit of recalign's own checkout and whether it had changes; null for an installed package.
        started, finished: UTC, ISO 8601.
        seconds: training time, summed over continuations.
        checkpoint: the result, for the next stage; relative to the run folder.
        digests: sha256 of its checkpoints and trust report, by path in the run folder; empty while it runs.
        error: the message of a failed run.
        wandb_id: id of the W&B run; a continued run keeps it.
    """

    stage: str
    log: str
    seed: int
    command: str
    status: Literal["running", "finished", "failed"] = "running"
    key: dict[str, Any] = field(default_factory=dict)
    fingerprint: str | None = None
    users: dict[str, Any] | None = None
    upstream: dict[str, dict[str, str]] = field(default_factory=dict)
    threads: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    git: dict[str, Any] | None = None
    started: str = ""
    finished: str | None = None
    seconds: float = 0.0
    checkpoint: str | None = None
    digests: dict[str, str] = field(default_factory=dict)
    error: str | None = None
    wandb_id: str | None = None

    @classmethod
    def read(cls, folder: RunFolder) -> Manifest | None:
        """The manifest of a run folder, or None if absent.

        Raises:
            InputError: the file is no manifest.
        """
        try:
            found = json.loads(folder.manifest.read_text(encoding="utf-8"))
            return cls(**{f.name: found[f.name] for f in fields(cls) if f.name in found})
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, TypeError) as error:
            remedy = "delete its folder and run that stage"
            raise InputError(f"is not a manifest ({error})", where=str(folder.manifest), remedy=remedy) from error

    @classmethod
    def begin(cls, **facts: Any) -> Manifest:
        """The manifest of a run that begins now, with this code."""
        packages = {name: version(name) for name in ("recalign", "lightning", "torch", "polars")}
        versions = packages | {"python": platform.python_version()}
        return cls(**facts, versions=versions, git=git_state(), started=datetime.now(UTC).isoformat())

    def end(self, folder: RunFolder, checkpoint: Path | None, files: Iterable[Path], seconds: float) -> None:
        """Record that the run has finished or, with an `error`, failed: what it left, and how long it took."""
        self.status, self.finished = "failed" if self.error else "finished", datetime.now(UTC).isoformat()
        self.seconds = round(self.seconds + seconds, 3)
        self.checkpoint = str(checkpoint.relative_to(folder.path)) if checkpoint else self.checkpoint
        self.digests = {str(file.relative_to(folder.path)): sha256(file) for file in files}
        self.write(folder)

    def state(self, folder: RunFolder, key: artifacts.Key) -> artifacts.State:
        """Whether the run is finished, which of its files were altered, and where its key differs from ``key``."""
        if self.status != "finished" or not self.checkpoint:
            return artifacts.State()
        return artifacts.State(True, seals.altered(folder.path, self.digests), seals.differences(self.key, key))

    def write(self, folder: RunFolder) -> None:
        """Write it into a run folder, atomically."""
        write_json(folder.manifest, asdict(self))


def run_key(
    config: dict[str, Any], variables: Collection[str], fingerprint: str | None, upstream: dict[str, dict[str, str]]
) -> dict[str, Any]:
    """All that determines a run's result: each setting, data, upstream checkpoints, code.

    The bytes of the data, of the checkpoints and of the files that callbacks read count. Paths (``run``,
    ``data.root``, ``data.cache``, ``data.grows_from``, names of files), ``threads``, access to stores and databases,
    item titles (features are in the log's fingerprint), and what only prints or logs (`OUTPUT`) do not.

    Args:
        config: of the stage.
        variables: environment variables; a setting with the value of one counts by its digest.
        fingerprint: of the data.
        upstream: as `Manifest` has them.
    """
    counted = copy.deepcopy({key: value for key, value in config.items() if key not in ("run", "ckpt_path", "threads")})
    data, trainer = counted["data"]["init_args"], counted["trainer"]
    for settings, names in (
        (data, ("root", "cache", "grows_from")),
        (data["log"], ("items", *HOW_READ)),
        (trainer, OUTPUT),
    ):
        for name in names:
            settings.pop(name, None)
    for name in upstream:
        part, argument = name.split(".")
        counted[part]["init_args"].pop(argument, None)
    kinds = [(one, imported(one["class_path"])) for one in listed(trainer["callbacks"])]
    trainer["callbacks"] = [one for one, kind in kinds if not issubclass(kind, ProgressBar | ModelSummary)]
    for one, kind in kinds:
        given = one.get("init_args", {})
        given |= {name: sha256(given[name]) for name in getattr(kind, "READS", ()) if Path(given[name]).is_file()}
    flat = flat_settings(counted)
    shown = {key: value if without_values(value, variables) == value else digest(value) for key, value in flat.items()}
    files = {name: checkpoint["sha256"] for name, checkpoint in upstream.items()}
    return shown | {"data": fingerprint, **files, "code": code_digest(counted)}


def flat_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings by dotted key, without ``init_args``; tuples become lists."""
    return {short(key): list(one) if isinstance(one, tuple) else one for key, one in flatten(settings).items()}


def git_state() -> dict[str, Any] | None:
    """Commit of the checkout that recalign runs from; None if it is installed or git is missing."""
    package = Path(__file__).parents[2]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()

    try:
        # An installed package may lie inside somebody else's checkout: only files that git tracks count.
        git("ls-files", "--error-unmatch", "__init__.py")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.SubprocessError):
        return None
