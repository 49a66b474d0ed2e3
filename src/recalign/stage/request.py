"""A `recalign fit` as data: the files it reads and the settings over them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recalign.keys import options, short
from recalign.stage import given


@dataclass(frozen=True)
class Request:
    """A `fit` that a chain or Python asks for.

    Attributes:
        files: YAML files, later ones over earlier ones.
        settings: values over the files', by dotted key as it is typed (``model.lr``). A string is read as the command
            line would read it.
    """

    files: tuple[Path, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def words(self) -> list[str]:
        """The command line that asks for the same, after ``recalign``."""
        return ["fit", *(word for file in self.files for word in ("--config", str(file))), *options(self.settings)]

    def config(self) -> given.Settings:
        """The merged settings of the stage.

        Raises:
            InputError: a file cannot be read, or is a log's YAML before the stage's.
        """
        settings: given.Settings = {}
        for file in self.files:
            settings = given.lay_file(settings, given.load(file), str(file))
        for key, value in self.settings.items():
            settings = given.merge(settings, given.nested(key, value))
        return settings


def settings_of(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings by dotted key; a class with its arguments is one setting."""
    for key, value in tree.items():
        if isinstance(value, dict) and value and "class_path" not in value:
            yield from settings_of(value, f"{prefix}{key}.")
        else:
            yield short(f"{prefix}{key}"), value
