"""Classes that settings name."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from contextlib import suppress
from inspect import isabstract
from types import ModuleType
from typing import Any, get_args, get_type_hints

from lightning.pytorch import callbacks, loggers
from torch import optim

from recalign.errors import nearest

ROOMS = (callbacks, loggers, optim, optim.lr_scheduler)
"""Lightning's callbacks and loggers, torch's optimisers and schedulers may be named without their module."""


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


def fitting(class_path: str, argument: str) -> list[str]:
    """Names of the classes that may be given as an argument of a class, of those that are imported; often none."""
    with suppress(ImportError, AttributeError, ValueError, NameError):
        constructors = (vars(kind)["__init__"] for kind in imported(class_path).__mro__ if "__init__" in vars(kind))
        hint = next(filter(None, (get_type_hints(one).get(argument) for one in constructors)), None)
        found: list[type] = [one for one in (hint, *get_args(hint)) if isinstance(one, type)]
        asked = len(found)
        for kind in found:
            found += type.__subclasses__(kind)
        return sorted(kind.__name__ for kind in found[asked:] if not isabstract(kind))
    return []


def nearest_import(path: str) -> str | None:
    """The nearest import path that exists, corrected part by part."""
    if "." not in path:
        return nearest(path, [name for room in ROOMS for name in room.__all__])
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
