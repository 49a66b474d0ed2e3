"""Ranges of numeric settings, as annotations of constructor arguments: ``temperature: Positive[float] = 0.3``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, get_args

from recalign.errors import InputError

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Range:
    """The values that a setting may have: in words, and as a test."""

    words: str
    holds: Callable[[float], bool]


Positive = Annotated[Number, Range("above 0", lambda x: x > 0)]
NonNegative = Annotated[Number, Range("0 or above", lambda x: x >= 0)]
Several = Annotated[int, Range("2 or more", lambda x: x >= 2)]
Share = Annotated[float, Range("above 0 and at most 1", lambda x: 0 < x <= 1)]
ShareOrZero = Annotated[float, Range("from 0 to 1", lambda x: 0 <= x <= 1)]
Fraction = Annotated[float, Range("between 0 and 1", lambda x: 0 < x < 1)]


def check_ranges(kind: type, given: Mapping[str, Any], of: str) -> None:
    """Refuse settings outside the ranges that a class and its base classes give their constructors' arguments.

    Args:
        kind: the class.
        given: settings by name. Missing ones and None are allowed.
        of: prefix of the keys in messages, such as ``model``.

    Raises:
        InputError: names the setting and its range.
    """
    for base in kind.__mro__:
        init = vars(base).get("__init__")
        for name, hint in getattr(init, "__annotations__", {}).items():
            if given.get(name) is not None:
                for each in _ranges(hint, getattr(init, "__globals__", {})):
                    if not each.holds(given[name]):
                        what, remedy = f"{given[name]} is not {each.words}", f"give a number {each.words}"
                        raise InputError(what, where=f"{of}.{name}", remedy=remedy)


def _ranges(hint: Any, names: dict[str, Any]) -> list[Range]:
    """The ranges of an annotation, which may name classes that only type checkers import."""
    with suppress(NameError):
        hint = eval(hint, names) if isinstance(hint, str) else hint  # as typing.get_type_hints does
    forms = (hint, *get_args(hint))
    return [each for form in forms for each in getattr(form, "__metadata__", ()) if isinstance(each, Range)]
