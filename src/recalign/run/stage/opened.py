"""A run as a policy with its log: a trained one, or a reranked row of a chain."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from recalign.data.sequences import EventDataModule
from recalign.errors import InputError
from recalign.evaluation.reranking import RERANKING, RerankedRow, served
from recalign.evaluation.rows import row_of
from recalign.files import read_json, sha256
from recalign.recommender import Policy
from recalign.recommender.checkpoint import load_net
from recalign.reward import RewardData
from recalign.run.stage.command import parse_stage
from recalign.run.stage.folder import RunFolder
from recalign.run.stage.settings import load
from recalign.run.stage.upstream import relocate_ids

CPU = torch.device("cpu")


@dataclass(frozen=True)
class OpenedRun:
    """An opened run: its policy, ready to recommend, and its log.

    Attributes:
        folder: ``<root>/<chain>/<row>/seed-<n>``.
        policy: on the CPU, in eval mode.
        data: its log, with histories read as in its evaluation.
        checkpoints: checkpoints that it is made of, by stage.
        device: its configured device; the CPU if this machine lacks that, and for a reranked row.
        strength: of its reranking, in 1 / standard deviation of the reward; None: it is not reranked.
    """

    folder: Path
    policy: Policy
    data: EventDataModule
    checkpoints: Mapping[str, Path]
    device: torch.device = CPU
    strength: float | None = None

    @property
    def chain(self) -> Path:
        """The folder of the chain."""
        return self.folder.parents[1]

    @property
    def row(self) -> str:
        """The method or stage."""
        return self.folder.parent.name

    @property
    def seed(self) -> str:
        """Its seed, as text."""
        return self.folder.name.removeprefix("seed-")

    @property
    def name(self) -> str:
        """``<chain>/<row>/seed-<n>``."""
        return "/".join(self.folder.parts[-3:])

    def made_of(self) -> dict[str, str]:
        """SHA-256 of the checkpoints, by stage."""
        return {stage: sha256(path) for stage, path in self.checkpoints.items()}


def open_run(run: Path) -> OpenedRun:
    """Open a run folder.

    Raises:
        InputError: there is no such run, it has no checkpoint or no policy, the log does not fit the policy; or, for a
            reranked row, a stage that it needs is missing or has changed since its evaluation.
    """
    run = run.absolute()
    folder, row = RunFolder(run), row_of(run.parent.name)
    if not folder.config.is_file() and isinstance(row, RerankedRow) and run.is_dir():
        return _open_reranked(run, row)
    where, remedy = str(run), "name the run folder of a policy: runs/<chain>/<method>/seed-<n>"
    if not folder.config.is_file():
        start = "; for the start, <method> is recommender" if run.parent.name == "start" else ""
        raise InputError("there is no run in this folder", where=where, remedy=remedy + start)
    model = load(folder.config).get("model")  # another tool's file may lie there
    if not isinstance(model, dict) or "top_k" not in (model.get("init_args") or {}):
        raise InputError("this run has no policy, so it recommends nothing", where=where, remedy=remedy)
    if (checkpoint := folder.final_checkpoint()) is None:
        raise InputError("there is no checkpoint in this run", where=where, remedy="continue it, or run it again")
    stage = parse_stage(["predict", f"--config={folder.config}", f"--ckpt_path={checkpoint}"])
    data: EventDataModule = stage.datamodule()  # type: ignore[assignment]
    loaded = load_net(checkpoint, "policy")
    loaded.check(data)
    device = CPU
    with suppress(InputError):  # this machine may have other devices than the one that trained it
        device = stage.bare_trainer().strategy.root_device
    return OpenedRun(run, loaded.net.eval(), data, {run.parent.name: checkpoint}, device)


def _open_reranked(run: Path, row: RerankedRow) -> OpenedRun:
    stages = [name for name in ("recommender", "reward", row.base) if name]
    folders = {name: RunFolder(run.parents[1] / name / run.name) for name in stages}
    checkpoints = {name: path for name, folder in folders.items() if (path := folder.final_checkpoint())}
    if lacking := [name for name in folders if name not in checkpoints]:
        what = f"{run.parent.name} needs finished runs of other stages beside it; missing: {', '.join(lacking)}"
        raise InputError(what, where=str(run), remedy="keep them in the chain's folder, or run the chain again")
    start = {"model.init_from": checkpoints["recommender"]}
    stage = parse_stage(["fit", f"--config={folders['reward'].config}"], start)
    relocate_ids(stage.config["data"]["init_args"], run)
    data: RewardData = stage.datamodule()  # type: ignore[assignment]
    policy = served(row, run, checkpoints, data)
    strength = read_json(run / "evaluation" / "summary.json")[RERANKING]["how"]["strength"]
    return OpenedRun(run, policy, data, checkpoints, strength=strength)
