"""A digest of the code that a result stands on: recalign, its libraries, and classes of the user's own."""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

from recalign.files import digest, sha256


def code_digest(settings: Any = None) -> str:
    """Digest of the code that a result stands on: recalign and its libraries, and the files of the user's own classes.

    Args:
        settings: nested; each ``class_path`` in them counts. A class that was typed into a notebook has no file, and
            never counts as unchanged.
    """
    own = {path: own_code(path) for path in sorted(class_paths(settings))}
    return digest(_recalign(), {path: uuid4().hex if code is None else code for path, code in own.items()})


def class_paths(settings: Any) -> set[str]:
    """Every ``class_path`` in nested settings."""
    inner = settings.values() if isinstance(settings, dict) else settings if isinstance(settings, list) else ()
    found = {path for value in inner for path in class_paths(value)}
    return found | {settings["class_path"]} if isinstance(settings, dict) and "class_path" in settings else found


def own_code(class_path: str) -> str | None:
    """SHA-256 of the file of a user's own class; empty for an installed one, None for one typed into a notebook."""
    module, _, name = class_path.rpartition(".")
    with suppress(ImportError):
        module = getattr(getattr(importlib.import_module(module), name, None), "__module__", module)
    if module.split(".")[0] in {"recalign", *sys.stdlib_module_names} - {"__main__"}:
        return ""
    file = getattr(sys.modules.get(module), "__file__", None)
    installed = file is not None and {"site-packages", "dist-packages"} & {*Path(file).parts}
    return "" if installed else file and sha256(Path(file))


@cache
def _recalign() -> str:
    """Versions of recalign and its libraries; of a checkout, which is edited, also a digest of the sources."""
    package = Path(__file__).parent
    is_checkout = (package.parents[1] / "pyproject.toml").is_file()
    sources = {str(file.relative_to(package)): sha256(file) for file in package.rglob("*.py")} if is_checkout else {}
    return digest({name: version(name) for name in ("recalign", "torch", "lightning", "polars")}, sources)
