"""Settings as nested dictionaries, as dotted keys and as words of a command."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
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


def settings_of(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings by dotted key; a class with its arguments is one setting."""
    for key, value in tree.items():
        if isinstance(value, dict) and value and "class_path" not in value:
            yield from settings_of(value, f"{prefix}{key}.")
        else:
            yield short(f"{prefix}{key}"), value


def options(settings: Mapping[str, Any], files: Iterable[Path] = ()) -> list[str]:
    """Words of a command that reads files and sets settings over theirs: ``--config asft.yaml --model.lr=0.1``.

    Args:
        settings: by dotted key. A string is read as the command line would read it.
        files: YAML, later ones over earlier ones.
    """
    words = [word for file in files for word in ("--config", str(file))]
    texts = {key: one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for key, one in settings.items()}
    return [*words, *(f"--{key}={text}" for key, text in texts.items())]


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
