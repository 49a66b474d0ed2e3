"""Classes that settings name, and the arguments that they take."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
import typing
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import callbacks, loggers
from torch import Tensor, optim

from recalign.errors import nearest

ROOMS = (callbacks, loggers, optim, optim.lr_scheduler)
BARE: dict[str, type] = {
    name: getattr(room, name) for room in ROOMS for name in room.__all__ if isinstance(getattr(room, name), type)
}
"""Lightning's callbacks and loggers, torch's optimisers and schedulers: they may be named without their module."""


@dataclass(frozen=True)
class Argument:
    """An argument of a class or function.

    Attributes:
        hint: its type; Any where that is not known.
        default: its value where none is given; a class as a Namespace of ``class_path`` and ``init_args``.
        required: whether it has none.
    """

    hint: Any = Any
    default: Any = None
    required: bool = False


def imported(class_path: str) -> type:
    """The class of that path.

    Raises:
        ImportError, AttributeError, ValueError: there is none.
    """
    if class_path in BARE:
        return BARE[class_path]
    module, name = class_path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def find_class(class_path: str) -> type | None:
    """The class of that path; None if there is none."""
    try:
        kind = imported(class_path)
    except (ImportError, AttributeError, ValueError):
        return None
    return kind if isinstance(kind, type) else None


@cache
def arguments_of(function: Any) -> dict[str, Argument]:
    """Arguments of a class or function by name, including those that it passes on as ``**kwargs``."""
    parser = ArgumentParser(exit_on_error=False)
    if isinstance(function, type):
        parser.add_class_arguments(function, sub_configs=True, fail_untyped=False)
    else:
        parser.add_function_arguments(function, sub_configs=True, fail_untyped=False)
    defaults = parser.get_defaults()
    # What a class passes on as **kwargs has its hint in a base class.
    kinds = reversed(function.__mro__) if isinstance(function, type) else ()
    takers = [vars(kind).get("__init__", object) for kind in kinds] or [function]
    hints = {name: hint for taker in takers for name, hint in _hints(taker).items()}
    given = inspect.signature(function).parameters
    required = {name for name, parameter in given.items() if parameter.default is inspect.Parameter.empty}
    names = dict.fromkeys(key.split(".")[0] for key in defaults.keys())  # noqa: SIM118 (dotted ones)
    return {name: Argument(hints.get(name, Any), defaults.get(name), name in required) for name in names}


def _hints(function: Any) -> dict[str, Any]:
    """Type hints of a function's arguments."""
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError):  # of a type that only type checkers import; of a function in C
        return {}


def classes_in(hint: Any) -> list[type]:
    """The classes in a type hint, also inside lists. Plain types such as int do not count."""
    if isinstance(hint, type) and not typing.get_origin(hint) and hint is not Any:
        plain = hint.__module__ in ("builtins", "pathlib", "datetime") or issubclass(hint, int | float | str | Tensor)
        return [] if plain else [hint]
    return [kind for inner in typing.get_args(hint) for kind in classes_in(inner)]


def named_class(default: Any) -> str | None:
    """The class path of a default."""
    return default.get("class_path") if isinstance(default, Namespace) else None


def nearest_import(path: str) -> str | None:
    """The nearest import path that exists, corrected part by part."""
    if "." not in path:
        return nearest(path, BARE)
    first, *rest = path.split(".")
    found = nearest(first, {name.split(".")[0] for name in sys.modules if not name.startswith("_")})
    if found is None:
        return None
    node: Any = importlib.import_module(found)
    for part in rest:
        names = {name for name, value in vars(node).items() if isinstance(value, type | ModuleType)}
        names |= {module.name for module in pkgutil.iter_modules(getattr(node, "__path__", []))}
        near = part if part in names else nearest(part, names)
        if near is None:
            return None
        found = f"{found}.{near}"
        node = getattr(node, near, None) or importlib.import_module(found)
    return found
