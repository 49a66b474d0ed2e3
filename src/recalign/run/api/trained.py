"""Results of stages as Python objects: a policy that recommends, a reward model with its trust report."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import polars as pl
import torch

from recalign import files
from recalign.data.sequences import EventDataModule
from recalign.errors import InputError
from recalign.recommender import Policy
from recalign.recommender.checkpoint import Loaded, load_net, read_checkpoint, recipe
from recalign.recommender.recommendations import recommend
from recalign.reward import RewardEnsemble
from recalign.reward.trust.report import read_trust
from recalign.run.api.log import Log


@dataclass(frozen=True)
class Trained:
    """A finished stage.

    Attributes:
        log: the training log.
        name: name of the stage or method.
        seed: seed of the run.
        checkpoint: its checkpoint.
        seconds: training time; 0 if unknown.
        data: the log as the stage read it.
    """

    log: Log
    name: str
    seed: int
    checkpoint: Path
    seconds: float
    data: EventDataModule

    @property
    def folder(self) -> Path:
        return self.checkpoint.parent.parent

    def __fspath__(self) -> str:
        """The run folder, so that functions that take its path take this object too: ``recalign.export(aligned)``."""
        return str(self.folder)

    @cached_property
    def metrics(self) -> pl.DataFrame:
        """Training metrics, one row per logging step (``metrics.csv``)."""
        return pl.read_csv(self.folder / "metrics.csv", infer_schema_length=None, glob=False)


@dataclass(frozen=True)
class TrainedPolicy(Trained):
    """A trained policy."""

    @cached_property
    def network(self) -> Policy:
        """The policy as a torch module, on the CPU."""
        policy: Policy = load_net(self.checkpoint, "policy").net.eval()
        return policy

    def recommend(self, users: Sequence[int | str] | None = None, k: int = 10) -> pl.DataFrame:
        """The best unseen items of some users after the log's end.

        Args:
            users: raw ids; None: all.
            k: items per user.

        Returns:
            One row per user and rank: ``user, rank, item, score`` (log-probability up to a constant), and ``title`` if
            the log has titles.
        """
        return recommend(self.network, self.data, users, k)


@dataclass(frozen=True)
class TrainedReward(Trained):
    """A trained reward model or judge."""

    @cached_property
    def network(self) -> RewardEnsemble:
        """The ensemble as a torch module, on the CPU."""
        ensemble: RewardEnsemble = load_net(self.checkpoint, "reward").net.eval()
        return ensemble

    @cached_property
    def trust(self) -> dict[str, Any]:
        """The trust report (``trust.json``): verdict, comparison with averages, calibration."""
        return read_trust(self.folder)


WANTED = {
    "policy": "give what fit_recommender or align returned, a path, or a Policy",
    "reward": "give what fit_reward or fit_judge returned, or a path",
}


def checkpoint_of(given: Any, net: Literal["policy", "reward"], log: Log, data: EventDataModule) -> Path:
    """The checkpoint of a policy or a reward model.

    A policy's network is saved to the log's folder first, so that further training works on a copy.

    Args:
        given: a `Trained`, a checkpoint's path, a run folder, or a `recalign.recommender.Policy`.
        log: its folder is where a network is saved.
        data: DataModule of users A. A network is assumed to belong to its catalogue, and to have learned rewards from
            these users only.
    """
    if isinstance(given, Policy) and net == "policy":
        return _saved(given, log, data)
    place = given.checkpoint if isinstance(given, Trained) else given
    if not isinstance(place, str | Path):
        raise InputError(f"{type(given).__name__} cannot be used here", remedy=WANTED[net])
    path = Path(place) / "checkpoints" / "best.ckpt" if Path(place).is_dir() else Path(place)
    content = read_checkpoint(path)
    if net not in content.get("recipes", {}):
        raise InputError(f"the checkpoint holds no {net}", where=str(path), remedy=WANTED[net])
    Loaded.from_checkpoint(None, content, str(path)).check(data)
    return path


def _saved(policy: Policy, log: Log, data: EventDataModule) -> Path:
    if policy.num_items != data.num_items:
        what = f"the policy has {policy.num_items} items, and the log has {data.num_items}"
        raise InputError(what, remedy="give a policy that was trained on this log")
    weights = {f"policy.{key}": value.cpu() for key, value in policy.state_dict().items()}
    content: dict[str, Any] = {"state_dict": weights, "recipes": {"policy": recipe(policy)}, "facts": {}}
    torch.save(content | {"catalogue": data.sequences.catalogue, "users": asdict(data.cohort)}, saved := io.BytesIO())
    path = log.folder / "given" / f"policy-{sha256(saved.getvalue()).hexdigest()[:16]}.ckpt"
    with files.atomic_write(path) as temporary:
        temporary.write_bytes(saved.getvalue())
    return path
