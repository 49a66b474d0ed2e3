"""The parser of commands that are not stages, with one clear message for a mistake."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from recalign.errors import InputError
from recalign.stage import diagnosis, given
from recalign.stage.classes import Argument, arguments_of


class StageParser(ArgumentParser):
    """Parses the options of a function or a dataclass; raises InputError where jsonargparse prints types and exits."""

    takes: dict[str, Argument]
    words: list[str]

    def add_function_arguments(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.takes = arguments_of(function)
        return super().add_function_arguments(function, *args, **kwargs)

    def add_class_arguments(self, theclass: type, *args: Any, **kwargs: Any) -> Any:
        self.takes = arguments_of(theclass)
        return super().add_class_arguments(theclass, *args, **kwargs)

    def parse_args(self, args: Any = None, *more: Any, **kwargs: Any) -> Any:
        self.words = list(args or [])
        return super().parse_args(args, *more, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # jsonargparse tries types one after the other with parsers that may fail
            super().error(message, ex)
        words, positional = self.words, [name for name, one in self.takes.items() if one.required]
        first = next((n for n, word in enumerate(words) if word.startswith("-")), len(words))
        named = dict(zip(positional, words[:first], strict=False))
        options = words[min(first, len(positional)) :]
        settings = given.merge(named, given.read(options, own=True))
        raise diagnosis.diagnose(settings, self.takes, ex or ValueError(message), options) from ex


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
