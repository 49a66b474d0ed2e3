"""A `recalign fit` as data: the files it reads and the settings over them, merged before anything is parsed."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recalign.errors import InputError
from recalign.keys import short


@dataclass(frozen=True)
class Request:
    """What a chain, or Python, asks a stage to run.

    Attributes:
        files: YAML files, later ones over earlier ones. What a later file says under ``data`` replaces the earlier
            value whole, so that one log inherits nothing from another.
        settings: values over the files', by dotted key as it is typed (``model.lr``). A string is read as the command
            line would read it.
    """

    files: tuple[Path, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def words(self) -> list[str]:
        """The command line that asks for the same, after ``recalign``."""
        options = (
            f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in self.settings.items()
        )
        return ["fit", *(word for file in self.files for word in ("--config", str(file))), *options]

    def config(self) -> dict[str, Any]:
        """The merged configuration of the stage, interpolations resolved.

        Raises:
            InputError: a file is no YAML, or ``${...}`` points to nothing.
        """
        tree: dict[str, Any] = {}
        for file in self.files:
            tree = _merged(tree, _read(file))
        for key, value in self.settings.items():
            _put(tree, key, value)
        try:
            return OmegaConf.to_container(OmegaConf.create(tree), resolve=True)  # type: ignore[return-value]
        except OmegaConfBaseException as error:
            what, where = str(error).splitlines()[0], getattr(error, "full_key", None)
            raise InputError(what, where=where, remedy="name a key that the configuration has") from error


def settings_of(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings by dotted key; a class with its arguments is one setting."""
    for key, value in tree.items():
        if isinstance(value, dict) and value and "class_path" not in value:
            yield from settings_of(value, f"{prefix}{key}.")
        else:
            yield short(f"{prefix}{key}"), value


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = str(error).replace("\n", " ")
        raise InputError(f"cannot be read as YAML: {reason}", where=str(file), remedy="mend the file") from error
    if not isinstance(content, dict):
        raise InputError("holds no keys", where=str(file), remedy="write `key: value` lines")
    return content


def _merged(tree: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    data = later.get("data")
    if isinstance(data, dict) and "class_path" not in data and "class_path" in tree.get("data", {}):
        later = {**later, "data": {"init_args": data}}
    earlier = tree.get("data", {}).get("init_args", {})
    for key in later.get("data", {}).get("init_args", {}):
        earlier.pop(key, None)
    return OmegaConf.to_container(OmegaConf.merge(tree, later), resolve=False)  # type: ignore[return-value]


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set one value, through the ``init_args`` of the classes on its way."""
    *path, last = key.split(".")
    node = tree
    for part in path:
        node = _arguments(node, part)
        if not isinstance(node.get(part), dict):
            node[part] = {}
        node = node[part]
    node = _arguments(node, last)
    if isinstance(value, str) and value.startswith("{"):
        value = yaml.safe_load(value)
    if last.endswith("+"):
        node[last[:-1]] = [*(node.get(last[:-1]) or []), value]
    elif last == "class_path":
        _switch_class(node, value)
    elif isinstance(node.get(last), dict) and "class_path" in node[last] and value not in (None, "null"):
        given = value if isinstance(value, dict) else {"class_path": value}
        _switch_class(node[last], given.get("class_path", node[last]["class_path"]))
        node[last].setdefault("init_args", {}).update(given.get("init_args", {}))
    else:
        node[last] = value


def _arguments(node: dict[str, Any], part: str) -> dict[str, Any]:
    """Where a class keeps its arguments; any other node itself."""
    if "class_path" not in node or part in ("class_path", "init_args"):
        return node
    return node.setdefault("init_args", {})


def _switch_class(node: dict[str, Any], class_path: str) -> None:
    """Name another class; arguments that it does not take go, as on the command line."""
    if node.get("class_path") == class_path:
        return
    node["class_path"] = class_path
    module, _, name = class_path.rpartition(".")
    try:
        taken = inspect.signature(getattr(import_module(module), name)).parameters
    except (ImportError, AttributeError, ValueError):
        return  # the parser says what is wrong with it
    if not any(one.kind is one.VAR_KEYWORD for one in taken.values()):
        node["init_args"] = {key: value for key, value in node.get("init_args", {}).items() if key in taken}
