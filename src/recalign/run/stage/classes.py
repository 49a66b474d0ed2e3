"""Classes that settings name."""

from __future__ import annotations

import importlib
from typing import Any


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
