"""Find the checkpoints that a stage starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from recalign.errors import InputError
from recalign.files import sha256
from recalign.recommender.checkpoint import read_checkpoint
from recalign.recommender.grown import GROWS_FROM
from recalign.run.stage.folder import Manifest, RunFolder
from recalign.run.words import imported

TOKENS = "tokens"
"""The stage that makes semantic ids; its result is no checkpoint."""


@dataclass
class Upstream:
    """An argument that names another stage's checkpoint, or the file of ids of `TOKENS`.

    A model or data class declares them: ``UPSTREAM: ClassVar[dict[str, str]] = {"init_from": "recommender"}``.

    Attributes:
        part: ``model`` or ``data``.
        argument: name of an argument of that class.
        stage: the stage that makes the file.
        path: the file; None until it has been made.
        named: whether the path was given; else it is looked up.
    """

    part: str
    argument: str
    stage: str
    path: Path | None
    named: bool

    @property
    def key(self) -> str:
        return f"{self.part}.{self.argument}"

    def checkpoint(self) -> dict[str, Any]:
        """The contents of the checkpoint; {} if there is none yet, or for ids."""
        return read_checkpoint(self.path) if self.path and self.stage != TOKENS else {}


def declared(config: dict[str, Any], continued: Manifest | None) -> list[Upstream]:
    """The upstream arguments of the configured classes, with the paths that the configuration gives.

    Where no path is given, a continued run keeps the one that it began with.
    """
    found, began_with = [], continued.upstream if continued else {}
    for part in ("model", "data"):
        kind, init_args = imported(config[part]["class_path"]), config[part]["init_args"]
        needs = kind.upstream(init_args) if hasattr(kind, "upstream") else getattr(kind, "UPSTREAM", {})
        for argument, stage in needs.items():
            given = init_args.get(argument) or began_with.get(f"{part}.{argument}", {}).get("path")
            found.append(Upstream(part, argument, stage, Path(given) if given else None, bool(given)))
        if part == "model" and (given := init_args.get(GROWS_FROM)):
            stage = "reward" if "reward" in getattr(kind, "saved_networks", ()) else "recommender"
            found.append(Upstream(part, GROWS_FROM, stage, Path(given), True))
    return found


def resolve(config: dict[str, Any], upstreams: list[Upstream], folder: RunFolder, log: str) -> None:
    """Look up the paths that were not given: in runs of the same chain, log and seed, if they exist.

    Args:
        config: of the stage; the paths are written into it, None if not made yet.
        upstreams: get the paths too.
        folder: of the run that starts from them.
        log: its name.

    Raises:
        InputError: a path that was given does not exist.
    """
    for upstream in upstreams:
        if not upstream.named:
            own = RunFolder(folder.path.parent.parent / upstream.stage / folder.path.name)
            manifest = Manifest.read(own) if own.path != folder.path else None
            finished = manifest and manifest.status == "finished" and manifest.log == log and manifest.checkpoint
            upstream.path = path if finished and (path := own.path / finished).is_file() else None
        elif upstream.path and not upstream.path.is_file():
            remedy = f"name what a finished {upstream.stage} run left, or leave it null"
            raise InputError(f"there is no file {upstream.path}", where=upstream.key, remedy=remedy)
        config[upstream.part]["init_args"][upstream.argument] = str(upstream.path) if upstream.path else None


def relocate_ids(given: Any, run: Path) -> None:
    """If a run's chain was moved, point `GROWS_FROM` to the earlier ids in the chain's new folder.

    Args:
        given: settings of the run's data; changed in place.
        run: the run folder.
    """
    if earlier := given.get(GROWS_FROM):
        beside = run.absolute().parents[1] / Path(earlier).name
        if not Path(earlier).is_dir() and beside.is_dir():
            given[GROWS_FROM] = str(beside)


def require_upstreams(upstreams: list[Upstream], folder: RunFolder, log: str) -> None:
    """Refuse missing, damaged or wrong checkpoints, before a finished run is set aside. Print which are used.

    Raises:
        InputError: nothing to start from, a broken checkpoint, or one without the wanted network.
    """
    for upstream in upstreams:
        if upstream.path is None:
            chain, seed = folder.path.parent.parent, folder.path.name.removeprefix("seed-")
            fit = f"fit {upstream.stage} LOG --seed_everything={seed} --run.chain={chain.name}"
            command = "tokenize LOG" if upstream.stage == TOKENS else fit
            what = f"there is no finished {upstream.stage} run of the log {log!r} and of this seed under {chain}"
            remedy = f"name its file, or run that stage first: recalign {command}"
            raise InputError(what, where=upstream.key, remedy=remedy)
        net = "reward" if upstream.stage == "reward" else "policy"
        recipes = upstream.checkpoint().get("recipes")
        if recipes and net not in recipes:
            remedy = f"give a checkpoint of a stage that trains a {net}"
            raise InputError(f"the checkpoint {upstream.path} holds no {net}", where=upstream.key, remedy=remedy)
    if upstreams:
        runs = dict.fromkeys(str(one.path).removesuffix("/checkpoints/best.ckpt") for one in upstreams)
        rank_zero_info(f"starts from {', '.join(runs)}")


def hashes(upstreams: list[Upstream]) -> dict[str, dict[str, str]]:
    """Path and sha256 of each checkpoint, as manifests hold them."""
    return {u.key: {"path": str(u.path), "sha256": sha256(u.path)} for u in upstreams if u.path}
