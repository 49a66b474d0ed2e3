"""Which checkpoint a stage starts from, where its YAML leaves that open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from recalign.errors import InputError
from recalign.files import sha256
from recalign.recommender.checkpoint import read_checkpoint
from recalign.stage.classes import imported
from recalign.stage.folder import RunFolder
from recalign.stage.manifest import Manifest


@dataclass
class Upstream:
    """An argument that names another stage's checkpoint.

    A model or data class declares them: ``UPSTREAM: ClassVar[dict[str, str]] = {"init_from": "recommender"}``.

    Attributes:
        part: ``model`` or ``data``.
        argument: of that class.
        stage: the run that it comes from.
        path: the checkpoint; None as long as it has not been made.
        named: whether that path was given; any other is looked up.
    """

    part: str
    argument: str
    stage: str
    path: Path | None
    named: bool

    @property
    def key(self) -> str:
        return f"{self.part}.{self.argument}"


def declared(config: Namespace) -> list[Upstream]:
    """The upstream arguments of the configured classes, with the paths that the configuration gives."""
    found = []
    for part in ("model", "data"):
        spec = config[part]
        for argument, stage in _needs(imported(spec.class_path), vars(spec.init_args)).items():
            given = spec.init_args.get(argument)
            found.append(Upstream(part, argument, stage, Path(given) if given else None, bool(given)))
    return found


def _needs(kind: type, init_args: dict[str, Any]) -> dict[str, str]:
    """The arguments that name checkpoints, and whose: of a class that says so, for all settings or for these."""
    if hasattr(kind, "upstream"):
        return kind.upstream(init_args)
    return getattr(kind, "UPSTREAM", {})


def resolve(upstreams: list[Upstream], folder: RunFolder, log: str) -> None:
    """Look up what is not named: the finished run of the same chain, log and seed, and no other.

    Args:
        upstreams: changed in place; a path stays None where no run was found.
        folder: of the run that asks.
        log: name of its log.

    Raises:
        InputError: a path that was given does not exist.
    """
    for upstream in upstreams:
        if not upstream.named:
            own = RunFolder(folder.path.parent.parent / upstream.stage / folder.path.name)
            upstream.path = _handed_over(own, log) if own.path != folder.path else None
        elif upstream.path and not upstream.path.is_file():
            raise InputError(
                f"there is no checkpoint {upstream.path}",
                where=upstream.key,
                remedy=f"name a checkpoint of a finished {upstream.stage} run, or leave it null",
            )


def fill(config: Any, upstreams: list[Upstream]) -> None:
    """Write the paths into a configuration, nested dictionaries or a `Namespace`; None where there is none yet."""
    for upstream in upstreams:
        config[upstream.part]["init_args"][upstream.argument] = str(upstream.path) if upstream.path else None


def require(upstreams: list[Upstream], folder: RunFolder, log: str) -> None:
    """Make sure that every checkpoint is there, whole, and of the right kind, before a finished run is set aside.

    Says in one line which they are.

    Args:
        upstreams: as `resolve` left them.
        folder: of the run that asks.
        log: name of its log.

    Raises:
        InputError: nothing to start from, a broken checkpoint, or one without the network that is wanted.
    """
    for upstream in upstreams:
        if upstream.path is None:
            chain, seed = folder.path.parent.parent.name, folder.path.name.removeprefix("seed-")
            options = f"--seed_everything={seed}" + (f" --run.chain={chain}" if chain != log else "")
            raise InputError(
                f"there is no finished {upstream.stage} run of the log {log!r} and of this seed under "
                f"{folder.path.parent.parent}",
                where=upstream.key,
                remedy=f"name a checkpoint, or run that stage first: recalign fit {upstream.stage} LOG {options}",
            )
        net = "reward" if upstream.stage == "reward" else "policy"
        recipes = read_checkpoint(upstream.path).get("recipes")
        if recipes and net not in recipes:
            raise InputError(
                f"the checkpoint {upstream.path} holds no {net}",
                where=upstream.key,
                remedy=f"give a checkpoint of a stage that trains a {net}",
            )
    if upstreams:
        rank_zero_info("starts from " + ", ".join(f"{one.path} ({one.key})" for one in upstreams))


def hashes(upstreams: list[Upstream]) -> dict[str, dict[str, str]]:
    """Path and sha256 of each checkpoint, as manifests hold them."""
    return {u.key: {"path": str(u.path), "sha256": sha256(u.path)} for u in upstreams if u.path}


def _handed_over(run: RunFolder, log: str) -> Path | None:
    manifest = Manifest.read(run)
    if manifest is None or manifest.status != "finished" or manifest.log != log or not manifest.checkpoint:
        return None
    checkpoint = run.path / manifest.checkpoint
    return checkpoint if checkpoint.is_file() else None  # whoever reads it compares its digest
