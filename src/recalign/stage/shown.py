"""Options that show something instead of running: ``--help``, ``--print_config``."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from lightning.pytorch.cli import LightningArgumentParser


def only_shows(words: Sequence[str]) -> list[str]:
    """The words that ask to show something instead of running: help, a class's help, the configuration."""
    shown: list[str] = []
    for number, word in enumerate(words):
        option, equals, _ = word.partition("=")
        if option in ("-h", "--help", "--print_config"):
            shown.append(word)
        elif option.startswith("--") and option.endswith(".help"):
            shown += words[number : number + (1 if equals else 2)]
    return shown


def show(parser: LightningArgumentParser, settings: Mapping[str, Any], shown: Sequence[str]) -> None:
    """Let the parser print what is asked for, which ends the process."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        yaml.safe_dump(dict(settings), file, sort_keys=False, allow_unicode=True)
        file.flush()
        parser.parse_args([*([f"--config={file.name}"] if settings else []), *shown])
