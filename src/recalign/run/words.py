"""Settings as nested mappings, the classes that they name, and settings as words of a command."""

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
    """A value as JSON and YAML know it: of paths the text, of NumPy's numbers and arrays Python's.

    Raises:
        InputError: it is another object; says where.
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
        remedy = "give plain values; of a class {'class_path': 'recalign...', 'init_args': {...}}"
        raise InputError(f"{value!r} is no setting", where=where, remedy=remedy)
    return value


def to_argv(settings: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Settings as words of a command: ``{"model": {"lr": 0.1}}`` and ``{"model.lr": 0.1}`` -> ``--model.lr=0.1``.

    A class with its arguments is one word, and a string is read as it would be if it were typed.
    """
    for key, value in to_builtin(settings, above).items():
        name = f"{above}.{key}".lstrip(".")
        if isinstance(value, dict) and value and "class_path" not in value:
            yield from to_argv(value, name)
        else:
            yield f"--{name}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"


def iter_options(words: Sequence[str]) -> Iterator[tuple[str, str | None, list[str]]]:
    """Each option with its value and the words that it is written in.

    ``--a=b`` and ``--a b`` give ``--a, b``. A value of None: another option follows, or nothing. An option of "": the
    value is a word that belongs to none.
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
        function: or dataclass, whose arguments the words set.
        words: of a command.
    """
    switches = [
        name for name, one in inspect.signature(function).parameters.items() if one.annotation in (bool, "bool")
    ]
    flags = {f"--{name.replace('_', mark)}": f"--{name}=true" for name in switches for mark in "-_"}
    values = ("true", "false")  # no other word is a flag's value: tokenize --normalise NAME
    return [word if after.lower() in values else flags.get(word, word) for word, after in pairwise([*words, "--"])]


def imported(class_path: str) -> type:
    """The class of that path.

    Raises:
        ImportError, AttributeError, ValueError: there is none.
    """
    module, name = class_path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def listed(value: Any) -> list[Any]:
    """One value, several, or none, as a list."""
    return value if isinstance(value, list) else [] if value is None else [value]


SECRET = 8
"""Letters of the shortest value of an environment variable that is looked for within a text."""


def without_values(settings: Any, names: Iterable[str]) -> Any:
    """Settings with ``${oc.env:NAME}`` in place of the values of these environment variables, wherever they stand.

    Numbers stay: none is a secret, and that of one setting stands in others too. So does a text that holds a value
    shorter than `SECRET` by chance, and a key that is one.
    """
    if isinstance(settings, dict):
        return {_named(key, names, SECRET): without_values(value, names) for key, value in settings.items()}
    if isinstance(settings, list):
        return [without_values(value, names) for value in settings]
    return _named(settings, names, 1) if isinstance(settings, str) else settings


def _named(text: str, names: Iterable[str], shortest: int) -> str:
    """A text with names for the values in it; of a text that is nothing else, for values of ``shortest`` letters."""
    for name in names:
        value = os.environ.get(name, "")
        if len(value) >= (shortest if value == text else SECRET):
            text = text.replace(value, f"${{oc.env:{name}}}") if value else text
    return text
