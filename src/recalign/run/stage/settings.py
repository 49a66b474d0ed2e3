"""Parse settings: jsonargparse reads files and options as they are; `diagnosis` rewrites its errors for users."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, ArgumentError, Namespace, get_loader
from lightning.pytorch.cli import LightningArgumentParser
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from recalign.errors import InputError
from recalign.run.stage.diagnosis import SEE, diagnose
from recalign.run.words import flatten, iter_options, short, with_flags

CONFIG = "YAML file with any of these settings"


class Parser(LightningArgumentParser):
    """Parses command-line arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"exit_on_error": False, "allow_abbrev": False, **kwargs})

    def read(self, words: Sequence[str]) -> Namespace:
        """Parse the arguments after ``recalign COMMAND``; ``--help`` and ``--print_config`` end the process.

        Raises:
            InputError: a key, value, class or file that does not exist, with the nearest that does.
        """
        try:
            return self.parse_args(list(words))
        except (ArgumentError, OmegaConfBaseException) as error:
            raise diagnose(error, self, list(_sources(words))) from error

    def parse_args(self, args: Sequence[str], *more: Any, **named: Any) -> Namespace:  # type: ignore[override]
        """Restore null: jsonargparse parses a class's argument (``data.log.chosen``) apart, with null as None."""
        if "namespace" in named:
            args = [f"{one.removesuffix('=None')}=null" if one.endswith("=None") else one for one in args]
        return super().parse_args(args, *more, **named)

    def _check_value_key(
        self, action: argparse.Action, value: Any, key: str, cfg: Namespace | None, append: bool = False
    ) -> Any:
        """Keep ``${...}`` when a class is replaced: jsonargparse silently drops what it cannot check yet.

        It calls this with an empty ``cfg`` to ask whether the new class takes an argument of the earlier one.
        """
        if isinstance(value, str | Namespace) and not cfg and "${" in str(value):
            return value
        return super()._check_value_key(action, value, key, cfg, append)


class SettingsFile(ActionConfigFile):
    """Reads a file of settings.

    Logs and classes that it sets under ``data`` replace earlier ones entirely: a log's YAML must not inherit what it
    does not mention (a row filter, a time unit) from the log that the stage's YAML names.
    """

    def __call__(self, parser: Parser, found: Namespace, path: str, option: str | None = None) -> None:  # type: ignore[override]
        data = load(Path(path)).get("data")
        for name, value in (data.get("init_args") or data).items() if isinstance(data, dict) else ():
            earlier = found.get(key := f"data.init_args.{name}")
            if not isinstance(value, dict) or not isinstance(earlier, Namespace):
                continue
            if "class_path" in value or "class_path" not in earlier:  # else `value` has only arguments of that class
                del found[key]
        super().__call__(parser, found, path, option)
        data = data if isinstance(data, dict) and isinstance(found.get("data"), Namespace) else {}  # not a chain's
        if isinstance(root := data.get("root"), str) and "${" not in root:  # relative to the log's YAML
            found["data.init_args.root"] = str(Path(path).parent / Path(root).expanduser())
        if isinstance(log := data.get("log"), dict) and "query" in log:  # the default log reads files
            found["data.init_args.log.files"] = log.get("files", [])


def _sources(words: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for option, value, _ in iter_options(words):
        if option in ("-c", "--config") and value is not None:
            yield value, {short(key): one for key, one in flatten(load(Path(value))).items()}
        elif option:
            yield option, {short(option.lstrip("-").rstrip("+")): value}


VARIABLES: set[str] = set()
"""Environment variables that settings have named (``${oc.env:NAME}``) since this was last emptied."""


def _variable(name: str, *default: Any) -> str | None:
    VARIABLES.add(name)
    return oc.env(name, *default)


_register = getattr(OmegaConf, "register_resolver", None) or OmegaConf.register_new_resolver  # omegaconf 2.4, or 2.3
_register("oc.env", _variable, replace=True)


def load(path: Path) -> dict[str, Any]:
    """The settings of a YAML or JSON file.

    Raises:
        InputError: it does not exist, is not YAML, has no keys, or has a key twice (YAML would take the last).
    """
    try:
        text = path.read_text(encoding="utf-8")
        nodes, content = [yaml.compose(text)], get_loader("yaml")(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        what = f"is not YAML: {getattr(error, 'problem', error)}"
        raise InputError(what, where=where, remedy="mend that line: `key: value`, or `- item` of a list") from None
    except (OSError, UnicodeDecodeError) as error:
        what, remedy = f"cannot be read: {error}", "name a YAML file that exists, in UTF-8"
        raise InputError(what, where=str(path), remedy=remedy) from None
    if not isinstance(content, dict):
        raise InputError("holds no keys", where=str(path), remedy="write `key: value` lines")
    for node in nodes:  # the list grows by nested nodes
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value]
            if twice := [key for key in keys if keys.count(key) > 1]:
                where, remedy = f"{path}, line {node.start_mark.line + 1}", "remove one: only the last counts"
                raise InputError(f"the key {twice[0]!r} occurs twice", where=where, remedy=remedy)
            nodes += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            nodes += node.value
    return content


def set_keys(*settings: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten settings by dotted key: each single value, also in mappings and files, by the key that a user would type.

    Those of later mappings win. A class is the value of its own key: ``{"data.split": "{class_path: X, init_args: {n:
    1}}"}`` -> ``{"data.split": "X", "data.split.n": 1}``.
    """
    found: dict[str, Any] = {}
    for key, value in (pair for one in settings for pair in flatten(one).items()):
        if isinstance(value, str) and value.endswith((".yaml", ".yml")) and Path(value).is_file():
            value = load(Path(value))
        elif isinstance(value, str) and value.startswith("{") and ":" in value:  # {a} may be an expression
            with suppress(yaml.YAMLError):  # the parser will say so
                value = get_loader("yaml")(value)
        found |= {short(name).removesuffix(".class_path"): one for name, one in flatten(value, key).items()}
    return found


def parse_call(
    command: str, summary: str, function: Callable[..., Any], words: Sequence[str], config: str = CONFIG
) -> tuple[Parser, Namespace]:
    """Parse the arguments after ``recalign COMMAND`` into those of a function or a dataclass.

    A function's required arguments may stand before the options, without their names. ``config`` is the help text of
    ``--config``.

    Returns:
        The parser and what it found, classes not instantiated.

    Raises:
        InputError: as `Parser.read`.
    """
    parser = Parser(prog=f"recalign {command}", description=summary)
    parser.add_argument("-c", "--config", action=SettingsFile, help=config)
    if isinstance(function, type):
        parser.add_class_arguments(function)
    else:
        parser.add_function_arguments(function, as_positional=True)
    return parser, parser.read(with_flags(function, words))


def instantiated(parser: Parser, parsed: Namespace) -> dict[str, Any]:
    """The arguments that `parse_call` parsed, by name, with classes instantiated."""
    with constructing():
        found = parser.instantiate(parsed).as_dict()
    del found["config"]
    return found


@contextmanager
def constructing() -> Iterator[None]:
    """Raise a constructor's own error, which jsonargparse hides in a ValueError about every type that it tried.

    Raises:
        InputError: the constructor's own, or in place of its ValueError (it refuses a value) or ImportError (a package
            is missing).
    """
    try:
        yield
        return
    except ValueError as error:
        if error.__cause__ is None:
            raise
        cause = error.__cause__
    except ImportError as error:
        cause = error
    while cause.__cause__ is not None and not isinstance(cause, InputError):
        cause = cause.__cause__
    if isinstance(cause, ImportError):
        raise InputError(f"a package is missing: {cause}", remedy="install it, or leave out what needs it") from cause
    if isinstance(cause, ValueError):
        raise InputError(str(cause), remedy=f"give another value; {SEE}") from cause
    raise cause
