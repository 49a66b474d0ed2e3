"""The run folder: where everything that one stage writes lies."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from recalign import artifacts
from recalign.errors import InputError

BUNDLES = "bundles"
"""What was exported of a run, in its folder."""


@dataclass(frozen=True)
class RunConfig:
    """Names the run folder, ``<root>/<chain>/<name>/seed-<seed_everything>``.

    Attributes:
        name: the stage (``recommender``, ``reward``) or the method (``asft``, ``dpo``, ...).
        root: the folder of all runs.
        chain: the experiment that the run belongs to; null: the log's name.
        imports: your own modules that define networks of the checkpoints to start from: a checkpoint imports nothing.
    """

    name: str
    root: str = "runs"
    chain: str | None = None
    imports: list[str] = field(default_factory=list)


@dataclass
class RunFolder:
    """Paths inside one run folder, and what is done to the folder as a whole.

    Attributes:
        path: the folder ``<root>/<chain>/<name>/seed-<n>``; it need not exist.
        trust: the trust report of a reward model.
    """

    path: Path

    def __post_init__(self) -> None:
        self.config, self.manifest = self.path / "config.yaml", self.path / artifacts.MANIFEST
        self.checkpoints, self.trust = self.path / "checkpoints", self.path / "trust.json"
        self.best, self.last = self.checkpoints / "best.ckpt", self.checkpoints / "last.ckpt"

    @property
    def previous(self) -> Path:
        """Keeps the run that this folder held before."""
        return self.path.with_name(self.path.name + ".previous")

    @classmethod
    def of(cls, run: RunConfig, chain: str, seed: int) -> RunFolder:
        """The folder of a run.

        Raises:
            InputError: a name that would lead out of its place in the tree.
        """
        for key, name in (("run.chain", chain), ("run.name", run.name)):
            if name in ("", ".", "..") or {"/", os.sep, "\0"} & {*name}:
                raise InputError(f"{name!r} cannot name a folder", where=key, remedy="choose a name without slashes")
        return cls(Path(run.root) / chain / run.name / f"seed-{seed}")

    @property
    def chain_and_stage(self) -> tuple[str, str]:
        """Chain and stage; of a trial, which lies below its method, the stage ``<method>-<trial>``."""
        *_, chain, method, group, name, _ = ("", "", *self.path.resolve().parts)
        is_trial = group in ("trials", "tuning") and re.fullmatch(r"trial-\d+", name)
        return (chain, f"{method}-{name}") if is_trial else (group, name)

    def final_checkpoint(self) -> Path | None:
        """The checkpoint for the next stage: the best one, or the last one where there is no best."""
        return next((path for path in (self.best, self.last) if path.is_file()), None)

    def figures(self, subcommand: str) -> Path:
        """The CSV file of a subcommand's figures."""
        return self.path / ("metrics.csv" if subcommand == "fit" else f"{subcommand}.csv")

    def start_afresh(self) -> None:
        """Empty the folder: a run that had a checkpoint is kept beside it as ``seed-<n>.previous``.

        Nothing of an earlier run stays, so that rows, checkpoints and evaluations of two runs never mix. Only bundles
        do: they may be served from here, and say themselves what they were made of.
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
