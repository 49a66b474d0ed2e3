"""The arguments of commands that are not stages, with one clear message for a mistake."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser, Namespace

from recalign.errors import InputError
from recalign.keys import with_flags
from recalign.stage import diagnosis, given
from recalign.stage.classes import arguments_of

CONFIG = "YAML file with any of these settings"


def parse_call(
    command: str, summary: str, function: Callable[..., Any], words: Sequence[str], config: str = CONFIG
) -> tuple[ArgumentParser, Namespace]:
    """Parse the words after ``recalign COMMAND`` that set the arguments of a function or a dataclass.

    A function's required arguments may stand before the options, without their names. ``config`` says what ``--config``
    is.

    Returns:
        The parser and what it found, classes not instantiated.

    Raises:
        InputError: a key, value, class or file that does not exist, with the nearest that does.
    """
    parser = ArgumentParser(prog=f"recalign {command}", description=summary, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", "-c", action=ActionConfigFile, help=config)
    if isinstance(function, type):
        parser.add_class_arguments(function)
    else:
        parser.add_function_arguments(function, as_positional=True)
    words = with_flags(function, words)
    try:
        return parser, parser.parse_args(words)
    except ArgumentError as error:
        takes = arguments_of(function)
        required = [name for name, argument in takes.items() if argument.required]
        first = next((n for n, word in enumerate(words) if word.startswith("-")), len(words))
        named = dict(zip(required, words[:first], strict=False))
        options = words[min(first, len(required)) :]
        settings = given.merge(named, given.read(options, own=True))
        raise diagnosis.diagnose(settings, takes, error, options) from error


def instantiated(parser: ArgumentParser, parsed: Namespace) -> dict[str, Any]:
    """The arguments that `parse_call` found by name, classes instantiated."""
    with constructing():
        found = parser.instantiate(parsed).as_dict()
    del found["config"]
    return found


@contextmanager
def constructing() -> Iterator[None]:
    """Raise what a constructor raised; jsonargparse hides it in a ValueError about every type that it tried.

    Raises:
        InputError: as the constructor raised it, or for its ValueError: a value that it refuses; for a package that is
            not installed.
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
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, ImportError):
        raise InputError(f"a package is missing: {cause}", remedy="install it, or leave out what needs it") from cause
    if isinstance(cause, ValueError):
        raise InputError(str(cause), remedy=f"give another value; {diagnosis.SEE}") from cause
    raise cause
