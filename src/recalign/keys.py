"""Settings as nested dictionaries, as dotted keys and as words of a command."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any


def leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Values by dotted key: ``{"model": {"lr": 0.1}}`` -> ``{"model.lr": 0.1}``. An empty dictionary is a value."""
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree} if prefix else {}
    return {
        key: value
        for name, inner in tree.items()
        for key, value in leaves(inner, f"{prefix}.{name}".lstrip(".")).items()
    }


def short(key: str) -> str:
    """A dotted key as a user types it, without ``init_args``: ``model.init_args.lr`` -> ``model.lr``."""
    return ".".join(part for part in key.split(".") if part != "init_args")


def options(settings: Mapping[str, Any]) -> list[str]:
    """Settings by dotted key as words of a command: ``{"model.lr": 0.1}`` -> ``--model.lr=0.1``."""
    texts = {key: one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for key, one in settings.items()}
    return [f"--{key}={text}" for key, text in texts.items()]


def with_flags(function: Callable[..., Any], words: Sequence[str]) -> list[str]:
    """Write bare flags as jsonargparse wants them: ``--dry-run`` -> ``--dry_run=true``.

    Args:
        function: or dataclass, whose arguments the words set.
        words: of a command.
    """
    switches = [
        name for name, one in inspect.signature(function).parameters.items() if one.annotation in (bool, "bool")
    ]
    flags = {f"--{name.replace('_', mark)}": f"--{name}=true" for name in switches for mark in "-_"}
    values = ("true", "false")  # no other word is a flag's value: recommend --as_list runs/a
    return [word if after.lower() in values else flags.get(word, word) for word, after in pairwise([*words, "--"])]
