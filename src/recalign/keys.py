"""Settings as nested dictionaries and as dotted keys."""

from __future__ import annotations

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
