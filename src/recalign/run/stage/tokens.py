"""`recalign tokenize` as a stage: with a run folder and a manifest, so that other stages find and verify its ids."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from recalign.artifacts import State
from recalign.data.events.log import require_named
from recalign.files import digest, sha256
from recalign.recommender.semantic_ids.tokenize_command import CODES, tokenize
from recalign.run.stage.console import echo
from recalign.run.stage.folder import Manifest, RunConfig, RunFolder
from recalign.run.stage.settings import VARIABLES, instantiated, parse_call
from recalign.run.stage.upstream import TOKENS
from recalign.run.words import to_argv
from recalign.seals import code_digest


@dataclass(frozen=True)
class ParsedTokens:
    """A parsed `recalign tokenize` command (`recalign.artifacts.Artifact`), resolved as far as possible before it runs.

    Attributes:
        argv: the arguments after ``recalign tokenize``.
        config: all settings, as plain values.
        settings: the arguments of `tokenize`, classes instantiated.
        folder: the run folder; it need not exist.
        verbose: whether to print the command before it runs.
    """

    argv: Sequence[str]
    config: dict[str, Any]
    settings: dict[str, Any]
    folder: RunFolder
    verbose: bool = False

    @property
    def name(self) -> str:
        return str(self.folder.path)

    @property
    def command_line(self) -> str:
        """The line that runs it alone."""
        return shlex.join(["recalign", "tokenize", *self.argv])

    def key(self) -> dict[str, Any]:
        """All that determines the ids and their report: settings, data, the vectors' files, code."""
        counted = {name: value for name, value in self.config.items() if name not in ("config", "out", "data")}
        given = self.config["vectors"].get("init_args", {}).values()
        files = [sha256(Path(value)) for value in given if isinstance(value, str) and Path(value).is_file()]
        data, code = self.settings["data"].fingerprint, code_digest(self.config)
        return {"settings": digest(counted), "data": data, "vectors": files, "code": code}

    def state(self) -> State:
        """Whether these ids exist already, and what was altered or has changed since they were made."""
        manifest = Manifest.read(self.folder)
        return manifest.state(self.folder, self.key()) if manifest else State()

    def load(self) -> Path:
        """The path of codes.parquet."""
        return self.folder.path / CODES

    def make(self) -> Path:
        """Make the ids, record how, and return the path of codes.parquet. Raises what `tokenize` raises."""
        if self.verbose:
            echo(f"  {self.command_line}")
        data, began = self.settings["data"], time.monotonic()
        manifest = Manifest.begin(
            stage=TOKENS,
            log=data.log_.name,
            seed=self.config["seed"],
            command=self.command_line,
            key=self.key(),
            fingerprint=data.fingerprint,
        )
        path = tokenize(**self.settings, out=self.folder.path)
        manifest.end(self.folder, path, [path], time.monotonic() - began)
        return path


def parse_tokens(words: Sequence[str], *settings: Mapping[str, Any]) -> ParsedTokens:
    """Parse the arguments after ``recalign tokenize``, overridden by ``settings``; no data is read yet.

    Raises:
        InputError: a key, value, class or file that does not exist.
    """
    line = [*words, *chain.from_iterable(map(to_argv, settings))]
    parser, parsed = parse_call("tokenize", (tokenize.__doc__ or "").split("\n\n")[0], tokenize, line)
    config = yaml.safe_load(parser.dump(parsed, skip_unset=False))
    require_named(config["data"]["init_args"]["log"], VARIABLES)
    arguments = instantiated(parser, parsed)
    out, log = arguments.pop("out"), arguments["data"].log_.name
    folder = RunFolder(Path(out)) if out else RunFolder.of(RunConfig(TOKENS), log, arguments["seed"])
    return ParsedTokens(line, config, arguments, folder)


def run_command(words: Sequence[str]) -> None:
    """``recalign tokenize``."""
    parse_tokens(words).make()
