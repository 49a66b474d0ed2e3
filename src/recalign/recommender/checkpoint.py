"""Pass networks between stages: weights by module name, and how to build the network.

A stage's checkpoint holds under ``recipes`` the class and constructor arguments of each network that later stages load
(``policy``, ``reward``). So it suffices to rebuild the network, and never overrides a configuration.
"""

from __future__ import annotations

import copy
import importlib
import os
import pickle
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from recalign.artifacts import verify
from recalign.data.sequences import EventDataModule, UserCohort
from recalign.errors import InputError, TrainingError
from recalign.files import atomic_write
from recalign.nn import Rebuildable
from recalign.recommender.policy import Policy

NETWORK_PACKAGES = tuple(f"recalign.{room}" for room in ("nn", "recommender", "reward"))
READ_ERRORS = (OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile, ValueError, KeyError)
"""Errors from reading a file that is no checkpoint, or is damaged."""
OTHER_VERSION = "use a checkpoint of this class, made by this version of recalign: train that stage again"


def class_path(kind: type) -> str:
    """The shortest import path of a class: through the package that exports it, else through its module."""
    package = kind.__module__.rpartition(".")[0]
    exported = getattr(sys.modules.get(package), kind.__name__, None) is kind
    return f"{package if exported else kind.__module__}.{kind.__qualname__}"


def recipe(module: Rebuildable) -> dict[str, Any]:
    """Class and constructor arguments of a network, as plain values."""
    given = {k: readable(v) for k, v in module.init_args.items()}
    kind = getattr(module, "sharded_from", type(module))
    own = next(each for each in kind.__mro__ if not issubclass(each, FSDPModule))  # FSDP derives a class
    return {"class_path": class_path(own), "init_args": given}


def readable(value: Any) -> Any:
    """Convert an argument to a type that ``weights_only=True`` can load: recipes, text, Python's numbers."""
    if isinstance(value, Rebuildable):
        return recipe(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.item() if isinstance(value, np.generic) else value


def build_net(plan: dict[str, Any], name: str = "network", where: str | None = None) -> Any:
    """Build the network that `recipe` describes, with fresh weights; ``name`` and ``where`` are for messages.

    A checkpoint may name networks of recalign or of modules already imported: importing another would run its code.

    Raises:
        InputError: the class is no network, its module may not be imported, or it does not take these arguments.
    """
    try:
        module, _, kind_name = plan["class_path"].rpartition(".")
        if module not in sys.modules and not module.startswith(NETWORK_PACKAGES):
            raise ImportError(f"{module} is not imported, and a checkpoint may not import it")
        kind = getattr(importlib.import_module(module), kind_name)
        if not (isinstance(kind, type) and issubclass(kind, Rebuildable)):
            raise TypeError(f"{plan['class_path']} is not a network of recalign")
        nets = {k: v for k, v in plan["init_args"].items() if isinstance(v, dict) and "class_path" in v}
        return kind(**plan["init_args"] | {k: build_net(v, name, where) for k, v in nets.items()})
    except (ImportError, AttributeError, TypeError, KeyError, ValueError) as error:
        remedy = "name modules of your own classes in run.imports; else use a file of this version of recalign"
        raise InputError(f"its {name} cannot be built ({error})", where=where, remedy=remedy) from error


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, with ``weights_only=True``.

    Raises:
        InputError: there is no such file, it is truncated, damaged or altered, or weights are not finite.
    """
    path, remedy = Path(path), "run its stage again, or use another checkpoint"
    if not path.is_file():
        remedy = "name a .ckpt file, or run the stage that writes it"
        raise InputError("there is no such checkpoint", where=str(path), remedy=remedy)
    try:
        if not verify(path, remedy):
            with zipfile.ZipFile(path) as archive:  # zip files have checksums
                if damaged := archive.testzip():
                    raise ValueError(f"{damaged} is damaged")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
            raise ValueError("it holds no state_dict")
        if bad := not_finite(checkpoint["state_dict"]):
            raise ValueError(f"weights are NaN or infinite: {', '.join(bad[:3])}")
        return checkpoint
    except (InputError, *READ_ERRORS) as error:
        reason = (getattr(error, "what", str(error)) or type(error).__name__).splitlines()[0]
        text = f"this is not a usable checkpoint of recalign ({reason})"
        raise InputError(text, where=str(path), remedy=remedy) from error


def write_checkpoint(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Write a checkpoint, whole or not at all.

    Raises:
        TrainingError: weights of the ``state_dict``, or those to resume training from, are not finite.
    """
    weights = (part for part in checkpoint.values() if isinstance(part, Mapping))
    if bad := dict.fromkeys(name for part in weights for name in not_finite(part)):
        raise TrainingError(
            f"weights are NaN or infinite: {', '.join(list(bad)[:3])}; {Path(path).name.lstrip('.')} is not written\n"
            "  -> lower the learning rate, clip gradients (--trainer.gradient_clip_val 1), or train in fp32"
        )
    with atomic_write(Path(path)) as temporary, open(temporary, "wb") as file:
        torch.save(checkpoint, file)


@dataclass(frozen=True)
class Loaded:
    """A trained network with what its stage recorded.

    Attributes:
        net: the network, with its trained weights; None: the metadata alone.
        catalogue: digest of the catalogue it was trained on; None: unknown.
        facts: what its stage recorded beside the weights, such as a reward model's reliability.
        users: the users whose events it was trained on; None: unknown.
        self_influence: of a reward model, each event's effect on its own item's factors. Shape: (events, 1 + F).
        where: the checkpoint or argument that it came from, for messages.
    """

    net: Any
    catalogue: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    users: UserCohort | None = None
    self_influence: Tensor | None = None
    where: str = "the network given"

    @classmethod
    def from_checkpoint(cls, net: nn.Module | None, checkpoint: dict[str, Any], where: str) -> Loaded:
        """A network with the metadata of its checkpoint."""
        users = UserCohort(**checkpoint["users"]) if "users" in checkpoint else None
        facts, influence = checkpoint.get("facts", {}), checkpoint.get("self_influence")
        return cls(net, checkpoint.get("catalogue"), facts, users, influence, where)

    def refuse_judge(self, data: EventDataModule) -> None:
        """Refuse to train on predictions of a judge, or of any model trained on users outside this data's group.

        Models that judges evaluate must not learn from the judges' rewards.
        """
        users, log = self.users, data.sequences
        if users and (users.group.startswith("B") or (users.mask(log, self.where) & ~log.users_in(data.users)).any()):
            what = f"it was trained on users {users.group} (share_a {users.share_a:g}); judges learn from some of them"
            remedy = f"train one on users {data.users} of this log, with the data.share_a that is set here"
            raise InputError(what, where=self.where, remedy=remedy)

    def check(self, data: EventDataModule) -> None:
        """Refuse a network of another catalogue, or a reward model of another reward, with an InputError."""
        if self.catalogue is not None:  # a user's own module may record none
            check_catalogue(self.catalogue, data.sequences.catalogue, self.where)
        if "reward" in self.facts and (predicted := self.facts["reward"]) != data.reward:  # another unit
            text = f"this reward model predicts {predicted!r}, and the reward here is {data.reward!r}"
            remedy = f"give data.reward {predicted!r} here, or train a reward model with data.reward {data.reward!r}"
            raise InputError(text, where=self.where, remedy=remedy)
        if "rewards" in self.facts and self.facts["rewards"] != data.sequences.rewards_digest:
            text = "this reward model was trained on other rewards of the same events"
            remedy = "train it on this log; or give the log with the rewards that it learned"
            raise InputError(text, where=self.where, remedy=remedy)


def load_net(path: str | Path, name: str, *, self_influence: bool = False) -> Loaded:
    """Rebuild the ``policy`` or ``reward`` of a stage's checkpoint; ``self_influence``: keep that large table too.

    Raises:
        InputError: the checkpoint cannot be read or holds no such network.
    """
    checkpoint, where = read_checkpoint(path), str(path)
    recipes = checkpoint.get("recipes", {})
    if name not in recipes:
        text = f"the checkpoint holds no {name} (it holds: {', '.join(recipes) or 'no network of recalign'})"
        raise InputError(text, where=where, remedy=f"give a checkpoint of a stage that trains a {name}")
    net, prefix = build_net(recipes[name], name, where), f"{name}."
    own = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    load_weights(net, own, where=where)
    if not self_influence:
        checkpoint.pop("self_influence", None)
    return Loaded.from_checkpoint(net, checkpoint, where)


def load_or_copy(
    path: str | None, given: nn.Module | Loaded | None, name: str, *, where: str, needed_by: str
) -> Loaded:
    """The ``policy`` or ``reward`` that a stage starts from: loaded from a checkpoint, or a copy of a given network.

    ``where`` and ``needed_by`` are for messages: the setting that names the checkpoint, and what needs the network.

    Raises:
        InputError: neither or both are given, the network is of another kind, or the checkpoint cannot be used.
    """
    if given is None and path is not None:
        return load_net(path, name, self_influence=True)
    if given is None:
        what, stage = {"policy": ("policy", "recommender"), "reward": ("reward model", "reward")}[name]
        remedy = f"name a checkpoint, or run first: recalign fit {stage}"
        raise InputError(f"{needed_by} needs a {what}", where=where, remedy=remedy)
    if path is not None:
        raise InputError(f"a checkpoint and a {name} are both given", where=where, remedy="give one of the two")
    loaded = given if isinstance(given, Loaded) else Loaded(given)
    if not isinstance(loaded.net, Policy if name == "policy" else nn.Module):
        what = f"{type(loaded.net).__name__} is not a {name} network"
        raise InputError(what, where=name, remedy=f"give a network, such as load_net(checkpoint, {name!r})")
    return replace(loaded, net=copy.deepcopy(loaded.net).cpu())  # as a loaded one


def load_weights(
    net: nn.Module, weights: dict[str, Tensor], *, where: str, partial: bool = False, new: tuple[str, ...] = ()
) -> None:
    """Load a ``state_dict`` by name. ``where``: the checkpoint, for messages; ``new``: prefixes of names.

    In a warm start (``partial``) names may be missing or unexpected; they are logged, except missing ones in ``new``.

    Raises:
        InputError: a shape differs, or, unless ``partial``, a name is missing or unexpected.
    """
    try:
        missing, unexpected = net.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        remedy = "use the sizes and the log that the checkpoint was trained with, or another checkpoint"
        what = "; ".join(line.strip() for line in str(error).splitlines()[1:4])
        raise InputError(what, where=where, remedy=remedy) from error
    if (missing or unexpected) and not partial:
        what = f"its weights do not fit; missing: {sorted(missing)[:5]}, unexpected: {sorted(unexpected)[:5]}"
        raise InputError(what, where=where, remedy=OTHER_VERSION)
    if (left := [name for name in missing if not name.startswith(new)]) or unexpected:
        report = f"left as initialised: {', '.join(sorted(left)) or 'none'}; ignored: {', '.join(unexpected) or 'none'}"
        rank_zero_info(f"weights from {where}: {len(weights) - len(unexpected)} loaded; {report}")


def prior_names(net: nn.Module) -> set[str]:
    """Names in the ``state_dict`` that belong to item priors and memories."""
    modules = net.named_modules()
    return {f"{path}.{name}".lstrip(".") for path, part in modules for name in getattr(part, "PRIOR_STATE", ())}


def not_finite(weights: Mapping[str, Any]) -> list[str]:
    """Names of the tensors that hold a NaN or an infinite value."""
    tensors = ((name, tensor) for name, tensor in weights.items() if isinstance(tensor, Tensor) and tensor.numel())
    return [name for name, x in tensors if x.is_floating_point() and not torch.stack(x.aminmax()).isfinite().all()]


def check_catalogue(loaded: str | None, current: str, where: str) -> None:
    """Refuse a network that was trained on another catalogue (None: unknown), with an InputError."""
    if loaded not in (None, current):
        what = "this checkpoint was trained on another catalogue (other items, another item table, or another split)"
        remedy = "use the checkpoint of a run with the same log, split, data root and item table (data.log.items)"
        raise InputError(what, where=where, remedy=f"{remedy}; new items go into a bundle, by `recalign items add`")
