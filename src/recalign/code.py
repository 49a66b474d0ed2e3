"""Digest of the source code that a run or a prepared log stands on, so that an edited loss is trained again."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any
from uuid import uuid4

from recalign.files import digest, sha256

PACKAGE = "recalign"
SOURCE = Path(__file__).parent
COUNTED = ("torch", "lightning", "polars")
"""Distributions whose versions count, unless others are named."""
STAGE = (
    "recalign.run.stage.stage.Stage",
    "recalign.run.stage.stage.run_stage",
)
"""What every stage goes through."""
EVALUATION = (
    "recalign.nn",  # networks that checkpoints name
    "recalign.evaluation.methods.SeedEvaluation",
    "recalign.evaluation.selection.validate",
)
"""What every evaluation goes through."""
OUTPUT_ONLY = {
    f"{PACKAGE}.{name}" for name in ("errors", "run.stage.console", "run.stage.diagnosis", "run.stage.loggers")
}
"""Modules that print and log, and change no result."""

Name = tuple[str, str | None]
"""A module and what is wanted of it; None: all of it."""


def code_digest(class_paths: Iterable[str], counted: Iterable[str] = COUNTED) -> str:
    """Digest of the code that some classes and functions stand on.

    Imports are followed statically, also those inside functions, through re-exports to the module that defines the
    name. Comments, docstrings and layout do not count. A class of an installed distribution counts by its version. One
    that was typed into a notebook has no source, and never counts as unchanged.

    Args:
        class_paths: import paths, such as ``recalign.posttrain.WeightedSFT``.
        counted: distributions whose versions count.
    """
    _forget_reloaded()
    paths = sorted(class_paths)
    packages = {path.split(".")[0] for path in paths} - {*COUNTED, *sys.stdlib_module_names}
    known = {name: packages_distributions().get(name, []) for name in filter(_installed, packages)}
    parts = [f"{name} {version(name)}" for name in sorted({*counted, *itertools.chain(*known.values())})]
    strays = sorted(name for name, owners in known.items() if not owners)  # copied there without a distribution
    parts += [f"{name} {sha256(origin)}" for name in strays if (origin := _origin(name))]
    if not all(_origin(path.split(".")[0]) or _origin(path.rpartition(".")[0]) for path in paths):
        parts.append(uuid4().hex)
    parts += [f"{module} {_source_digest(file)}" for module, file in sorted(reached(paths).items())]
    return digest(*parts)


def class_paths(config: Any) -> set[str]:
    """Every ``class_path`` in a configuration."""
    inner = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    found = {path for value in inner for path in class_paths(value)}
    return found | {config["class_path"]} if isinstance(config, dict) and "class_path" in config else found


def reached(class_paths: Iterable[str]) -> dict[str, Path]:
    """Modules of recalign, and others that are not installed, that some import paths lead to, with their files."""
    files: dict[str, Path] = {}
    todo: list[Name] = [(module, name) for module, _, name in (path.rpartition(".") for path in class_paths)]
    seen: set[Name] = set()
    while todo:
        module, name = wanted = todo.pop()
        if wanted in seen or _installed(module.split(".")[0]):
            continue
        seen.add(wanted)
        if name and source_file(f"{module}.{name}"):
            todo.append((f"{module}.{name}", None))
        elif (file := source_file(module)) and (origin := _reexported(module, file).get(name)):
            todo.append(origin)
        elif file and module not in (PACKAGE, *OUTPUT_ONLY):  # the package itself holds a version and public names
            files[module] = file
            todo += _imports(module, file)
            if module in sys.modules:
                _READ.setdefault(module, _loaded(module))
    return files


_READ: dict[str, tuple[object, object]] = {}
"""`_loaded` of each module when its file was read."""


def _loaded(module: str) -> tuple[object, object]:
    """A module and its specification, one of which is another object after the module was loaded again."""
    found = sys.modules.get(module)
    return found, getattr(found, "__spec__", None)


def _forget_reloaded() -> None:
    """Read every file anew if a module was loaded again; until then the process runs what was read."""
    if any(old is not new for module, known in _READ.items() for old, new in zip(known, _loaded(module), strict=True)):
        _READ.clear()
        for cached in (source_file, _tree, _source_digest, _imports, _reexported):
            cached.cache_clear()


@cache
def _installed(package: str) -> bool:
    """Whether a top-level package belongs to Python or to an installed distribution; recalign counts as neither."""
    if package == PACKAGE:
        return False
    places = {"site-packages", "dist-packages"}  # of this environment, or of one that it borrows from
    origin = None if package in sys.stdlib_module_names else _origin(package)
    return package in sys.stdlib_module_names or (origin is not None and not places.isdisjoint(origin.parts))


@cache
def source_file(module: str) -> Path | None:
    """The source of a module; None if there is no such module, or none of its own: it was typed in."""
    first, *rest = module.split(".")
    if first == PACKAGE:
        path = SOURCE.joinpath(*rest)
        return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)
    origin = _origin(module)
    return origin if origin and origin.suffix == ".py" else None


def _origin(module: str) -> Path | None:
    """The file that a module was imported from, or would be; a script's own, ``__main__``, has no specification."""
    if loaded := getattr(sys.modules.get(module), "__file__", None):
        return Path(loaded)
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin else None


@cache
def _tree(path: Path) -> ast.Module:
    """The syntax tree of a file, without docstrings and without what only type checkers read."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [one for one in body if not _says_nothing(one)]  # type: ignore[attr-defined]
    return tree


def _says_nothing(node: ast.stmt) -> bool:
    """Whether a statement is a docstring or ``if TYPE_CHECKING``."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@cache
def _source_digest(path: Path) -> str:
    return digest(ast.dump(_tree(path)))


@cache
def _imports(module: str, path: Path) -> list[Name]:
    """What a module imports."""
    found: list[Name] = []
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = _absolute(node, module, path)
            found += [(source, None if alias.name == "*" else alias.name) for alias in node.names]
    return found


@cache
def _reexported(module: str, path: Path) -> dict[str | None, Name]:
    """Names that a package's ``__init__`` takes from other modules."""
    if path.name != "__init__.py":
        return {}
    nodes = [node for node in _tree(path).body if isinstance(node, ast.ImportFrom)]
    return {
        alias.asname or alias.name: (_absolute(node, module, path), alias.name)
        for node in nodes
        for alias in node.names
    }


def _absolute(node: ast.ImportFrom, module: str, path: Path) -> str:
    """The module that ``from ... import`` reads, relative ones too."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return importlib.util.resolve_name("." * node.level + (node.module or ""), package)
