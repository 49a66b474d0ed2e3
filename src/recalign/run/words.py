"""Settings as nested mappings and as command-line arguments, and the classes that they name."""

from __future__ import annotations

import importlib
import inspect
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date
from itertools import pairwise
from typing import Any

from recalign.errors import InputError


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Values by dotted key: ``{"model": {"lr": 0.1}}`` -> ``{"model.lr": 0.1}``. An empty dictionary is a value."""
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree} if prefix else {}
    return {
        key: value
        for name, inner in tree.items()
        for key, value in flatten(inner, f"{prefix}.{name}".lstrip(".")).items()
    }


def short(key: str) -> str:
    """A dotted key as a user types it, without ``init_args``: ``model.init_args.lr`` -> ``model.lr``."""
    return ".".join(part for part in key.split(".") if part != "init_args")


def to_builtin(value: Any, where: str | None = None) -> Any:
    """A value in plain types for JSON and YAML: paths become strings, NumPy's numbers and arrays Python's.

    Raises:
        InputError: another type of object; names its key.
    """
    if isinstance(value, Mapping):
        return {key: to_builtin(one, f"{where}.{key}" if where else str(key)) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [to_builtin(one, where) for one in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return to_builtin(value.tolist(), where)
    if not isinstance(value, str | int | float | date | None):
        remedy = "give plain values; for a class {'class_path': 'recalign...', 'init_args': {...}}"
        raise InputError(f"{value!r} cannot be a setting", where=where, remedy=remedy)
    return value


def to_argv(settings: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Settings as command-line arguments: ``{"model": {"lr": 0.1}}`` and ``{"model.lr": 0.1}`` -> ``--model.lr=0.1``.

    A class with its arguments becomes one of them, in JSON. Strings are parsed as if they were typed.
    """
    for key, value in to_builtin(settings, above).items():
        name = f"{above}.{key}".lstrip(".")
        if isinstance(value, dict) and value and "class_path" not in value:
            yield from to_argv(value, name)
        else:
            yield f"--{name}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"


def iter_options(words: Sequence[str]) -> Iterator[tuple[str, str | None, list[str]]]:
    """Each option of a command line with its value and its original arguments.

    ``--a=b`` and ``--a b`` give ``--a, b``. The value is None if another option follows, or nothing. The option is ""
    if the value is a positional argument.
    """
    rest = list(words)
    while rest:
        option, equals, value = rest[0].partition("=")
        if not option.startswith("-"):
            yield "", rest[0], [rest.pop(0)]
        elif equals:
            yield option, value, [rest.pop(0)]
        else:
            taken = 1 if len(rest) == 1 or rest[1].startswith("--") or rest[1] == "-c" else 2
            own, rest = rest[:taken], rest[taken:]
            yield option, own[1] if taken == 2 else None, own


def with_flags(function: Callable[..., Any], words: Sequence[str]) -> list[str]:
    """Write bare flags as jsonargparse wants them: ``--dry-run`` -> ``--dry_run=true``.

    Args:
        function: a function or dataclass whose arguments ``words`` set.
        words: command-line arguments.
    """
    switches = [
        name for name, one in inspect.signature(function).parameters.items() if one.annotation in (bool, "bool")
    ]
    flags = {f"--{name.replace('_', mark)}": f"--{name}=true" for name in switches for mark in "-_"}
    values = ("true", "false")  # any other word is not the flag's value: tokenize --normalise NAME
    return [word if after.lower() in values else flags.get(word, word) for word, after in pairwise([*words, "--"])]


def imported(class_path: str) -> type:
    """Import the class at a dotted path.

    Raises:
        ImportError, AttributeError, ValueError: there is no such class.
    """
    module, name = class_path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def listed(value: Any) -> list[Any]:
    """A value as a list: a list as it is, None as an empty one."""
    return value if isinstance(value, list) else [] if value is None else [value]


SECRET = 8
"""Least length of an environment variable's value to be replaced within a longer text, or as a key."""


def without_values(settings: Any, names: Iterable[str]) -> Any:
    """Replace the values of these environment variables in settings, keys included, by ``${oc.env:NAME}``.

    Numbers stay: they are no secrets, and may occur in other settings. A value shorter than `SECRET` is replaced only
    if it is a setting's whole text: within a longer text or as a key, it may be there by chance.
    """
    if isinstance(settings, dict):
        return {_named(key, names, SECRET): without_values(value, names) for key, value in settings.items()}
    if isinstance(settings, list):
        return [without_values(value, names) for value in settings]
    return _named(settings, names, 1) if isinstance(settings, str) else settings


def _named(text: str, names: Iterable[str], shortest: int) -> str:
    """`without_values` of a text. A value that is the whole text is replaced from ``shortest`` letters on."""
    for name in names:
        value = os.environ.get(name, "")
        if len(value) >= (shortest if value == text else SECRET):
            text = text.replace(value, f"${{oc.env:{name}}}") if value else text
    return text
