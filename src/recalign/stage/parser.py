"""The parser of a stage: LightningCLI's, with one clear message for a mistake and no log that is half another's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ActionConfigFile, Namespace
from lightning.pytorch.cli import LightningArgumentParser

from recalign.errors import InputError
from recalign.stage.messages import explain


class StageParser(LightningArgumentParser):
    """Raises InputError where jsonargparse prints a tree of types and exits."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # jsonargparse tries types one after the other with parsers that may fail
            super().error(message, ex)
        raise explain(message, self, getattr(self, "args", [])) from ex


@contextmanager
def constructing() -> Iterator[None]:
    """Let through what a constructor raises inside: jsonargparse hides it in a ValueError about every type it tried.

    Raises:
        InputError: as the constructor raised it, or for its ValueError: a value that it refuses.
    """
    try:
        yield
        return
    except ValueError as error:
        if error.__cause__ is None:
            raise
        cause = error.__cause__
    while cause.__cause__ is not None:
        cause = cause.__cause__
    raise InputError(str(cause)) if isinstance(cause, ValueError) else cause


class ConfigFile(ActionConfigFile):
    """``--config``: a later file's values under ``data`` replace an earlier file's whole.

    jsonargparse merges mappings, so that a log's YAML would inherit whatever it does not mention (a row filter, a time
    unit) from the log that the stage's YAML names.
    """

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        earlier = cfg.get("data.init_args")
        if isinstance(earlier, Namespace):
            for key, value in _data_of(values).items():
                if isinstance(value, dict) and ("class_path" in value or "class_path" not in (earlier.get(key) or {})):
                    earlier.pop(key, None)
        super().__call__(parser, cfg, values, option_string)


def _data_of(path: str) -> dict[str, Any]:
    """The data arguments that a YAML file sets; none if it cannot be read, which the parser will say."""
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))["data"]
        return dict(data.get("init_args", data))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
        return {}
