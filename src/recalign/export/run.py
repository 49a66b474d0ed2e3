"""A run as a policy with its log: a trained one, or a reranked row of a chain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from recalign.errors import InputError
from recalign.evaluation.reranking import RERANKING, base_method, is_reranked, served
from recalign.files import read_json, sha256
from recalign.recommender import Policy
from recalign.recommender.checkpoint import load_net
from recalign.sequences import EventDataModule
from recalign.stage import RunFolder, parse_stage
from recalign.stage.record import final_checkpoint


@dataclass(frozen=True)
class OpenedRun:
    """A policy that can be exported.

    Attributes:
        folder: ``<root>/<chain>/<row>/seed-<n>``.
        policy: on the CPU, in eval mode.
        data: its log, read as its evaluation did.
        checkpoints: what it is made of, by stage.
        strength: of its reranking, in 1 / standard deviation of the reward; None: it is not reranked.
    """

    folder: Path
    policy: Policy
    data: EventDataModule
    checkpoints: Mapping[str, Path]
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


def opened(run: Path) -> OpenedRun:
    """Open a run folder.

    Raises:
        InputError: there is no such run, it has no checkpoint, its stage recommends nothing, or its row is incomplete.
    """
    run = run.absolute()
    config = RunFolder(run).config
    if not config.is_file() and run.is_dir() and is_reranked(run.parent.name):
        return _reranked(run)
    remedy = "name the run folder of a policy: runs/<chain>/<method>/seed-<n>"
    if not config.is_file():
        raise InputError("there is no run in this folder", where=str(run), remedy=remedy)
    model = yaml.safe_load(config.read_text(encoding="utf-8"))["model"]
    if "top_k" not in model["init_args"]:
        raise InputError(f"a run of {model['class_path']}, which recommends nothing", where=str(run), remedy=remedy)
    checkpoint = final_checkpoint(RunFolder(run))
    if checkpoint is None:
        raise InputError("there is no checkpoint in this run", where=str(run), remedy="continue it, or run it again")
    data: EventDataModule = parse_stage(["predict", f"--config={config}", f"--ckpt_path={checkpoint}"]).datamodule()  # type: ignore[assignment]
    loaded = load_net(checkpoint, "policy")
    loaded.check(data)
    return OpenedRun(run, loaded.net.eval(), data, {run.parent.name: checkpoint})


def _reranked(run: Path) -> OpenedRun:
    own = base_method(run.parent.name)
    stages = dict.fromkeys(["recommender", "reward", *([own] if own else [])])
    found = {stage: final_checkpoint(RunFolder(run.parents[1] / stage / run.name)) for stage in stages}
    if lacking := [stage for stage, path in found.items() if path is None]:
        what = f"{run.parent.name} reranks by runs beside it, and there is none of {', '.join(lacking)}"
        raise InputError(what, where=str(run), remedy="keep them in the chain's folder, or run the chain again")
    checkpoints = {stage: path for stage, path in found.items() if path}
    config = RunFolder(checkpoints["reward"].parents[1]).config
    stage = parse_stage(["fit", f"--config={config}", f"--model.init_from={checkpoints['recommender']}"])
    data = stage.datamodule()
    policy = served(run, checkpoints, data)  # type: ignore[arg-type]
    strength = read_json(run / "evaluation" / "summary.json")[RERANKING]["how"]["strength"]
    return OpenedRun(run, policy, data, checkpoints, strength)  # type: ignore[arg-type]
