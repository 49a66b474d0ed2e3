"""Words that a command could have meant: keys, classes, and where a key was written."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from recalign.errors import CUTOFF, nearest


def nearest_file(path: Path) -> Path | None:
    """The file that was most likely meant, in the same folder."""
    folder = path.parent if path.parent.is_dir() else Path()
    close = difflib.get_close_matches(path.name, [p.name for p in folder.iterdir()], n=1, cutoff=CUTOFF)
    return folder / close[0] if close else None


def nearest_import(path: str) -> str | None:
    """The importable path that was most likely meant, corrected part by part."""
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


def bare_classes() -> set[str]:
    """Lightning's callbacks and loggers, which YAML may name without their module."""
    from lightning.pytorch import callbacks, loggers

    return {*callbacks.__all__, *loggers.__all__}


def known_keys(parser: ArgumentParser, argv: Sequence[str]) -> set[str]:
    """Every key that may be set, in short form (``model.encoder.dim``), of the classes that the command names.

    Args:
        parser: of a subcommand, or the one above them.
        argv: the words of the command line.
    """
    if parser._subcommands_action is not None:
        parser = next(iter(parser._subcommands_action.choices.values()))
    keys = {a.dest for a in parser._actions if a.dest not in ("help", "print_config") and not a.dest.endswith(".help")}
    for part, class_path in _named_classes(argv).items():
        keys |= arguments_of(class_path, part)
    return keys


def arguments_of(class_path: str, prefix: str) -> set[str]:
    """Keys of a class's arguments and of the dataclasses among them; none of a class that does not exist."""
    try:
        module, name = class_path.rsplit(".", 1)
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(getattr(importlib.import_module(module), name), fail_untyped=False, sub_configs=True)
    except (ImportError, AttributeError, ValueError):
        return set()
    return {f"{prefix}.{a.dest}" for a in parser._actions if a.dest != "help" and not a.dest.endswith(".help")}


def short(key: str) -> str:
    """A key as it is typed: without ``init_args``."""
    return key.replace(".init_args", "")


def config_files(argv: Sequence[str]) -> list[Path]:
    """The files that ``--config`` names, in order."""
    files = []
    for word, following in pairwise([*argv, ""]):
        option, _, value = word.partition("=")
        if option in ("--config", "-c"):
            files.append(Path(value or following))
    return files


def source(key: str, argv: Sequence[str]) -> str | None:
    """The option or the file that sets a key, in short form."""
    options = [word.split("=")[0] for word in argv if word.startswith("--")]
    if option := next((option for option in options if short(option[2:]) == key), None):
        return option
    files = (path for path in reversed(config_files(argv)) if key in {short(leaf) for leaf, _ in _leaves(path)})
    return next((str(path) for path in files), None)


def classless_data(argv: Sequence[str]) -> Path | None:
    """A file with values under ``data`` that comes before any file that says which class they are for."""
    if any(word.split("=")[0] in ("--data", "--data.class_path") for word in argv):
        return None
    for path in config_files(argv):
        keys = {key for key, _ in _leaves(path)}
        if "data.class_path" in keys:
            return None
        if "data" in keys:
            return path
    return None


def _named_classes(argv: Sequence[str]) -> dict[str, str]:
    """Class paths of model, data and what is nested in them, by short key, as the command line and its files say."""
    named: dict[str, str] = {}
    for path in config_files(argv):
        named |= {short(k).removesuffix(".class_path"): v for k, v in _leaves(path) if k.endswith("class_path")}
    for word, following in pairwise([*argv, ""]):
        option, _, value = word.partition("=")
        if option in ("--model", "--data", "--model.class_path", "--data.class_path"):
            named[option.strip("-").removesuffix(".class_path")] = value or following
    return named


def _leaves(path: Path) -> list[tuple[str, Any]]:
    """Dotted keys and values of a YAML file; none of one that cannot be read."""

    def walk(node: Any, key: str) -> list[tuple[str, Any]]:
        if isinstance(node, dict):
            return [(key, None), *(leaf for k, v in node.items() for leaf in walk(v, f"{key}.{k}".lstrip(".")))]
        return [(key, node)]

    try:
        return walk(yaml.safe_load(path.read_text(encoding="utf-8")), "")
    except (OSError, ValueError, yaml.YAMLError):
        return []
