"""Errors shown to users, ranges of settings, and suggestions of the nearest name.

A range is an annotation of a constructor's argument: ``temperature: Positive[float] = 0.3``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

SECRETS = (
    *("key", "secret", "token", "pass", "pwd", "sas", "credential", "service_account"),
    *("connection", "bearer", "cookie", "authorization"),
)
"""Parts of names of settings that are secret: credentials and addresses of stores and databases."""
_PARAMETERS = "|".join([*SECRETS, "sig", "auth", "jwt", "hmac"])
SECRET_URL = re.compile(
    r"(?<=:/)/?[^/\[\s]*:(?!\d+/)[^\s]*@"  # a password may contain a slash; only digits before a slash are a port
    rf"|(?<=[?&;#])[^=&;#\s]*({_PARAMETERS})[^=\s]*=[^&;#\s'\"]*",
    re.IGNORECASE,
)
"""Secret parts of a URL: USER:PASSWORD@, and query parameters."""
CUTOFF = 0.75  # similarity (difflib's ratio) from which a candidate is suggested


class InputError(Exception):
    """An input cannot be used: a file, a row, a key, a checkpoint.

    The command prints it as one message and exits with 2, without a traceback.

    Args:
        what: what is wrong, in one sentence, with the value found.
        where: the file, row, column or key.
        remedy: what to do, in one sentence.
    """

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.what, self.where, self.remedy = what, where, remedy
        super().__init__(what, where, remedy)

    def __reduce__(self) -> tuple[Any, ...]:  # workers pickle it for the main process
        return partial(type(self), where=self.where, remedy=self.remedy), (self.what,)

    def __str__(self) -> str:
        shown = (SECRET_URL.sub("***", part or "") for part in (self.what, self.where, self.remedy))
        what, where, remedy = map(printable, shown)
        head = f"{where}: {what}" if where else what
        return f"{head}\n  -> {remedy}" if remedy else head


class TrainingError(Exception):
    """Training cannot continue although the input was valid. The command prints it and exits with 3."""


def printable(text: str) -> str:
    """Escape control characters, so that a name cannot send codes to a terminal. Newlines and tabs stay."""
    return "".join(one if one.isprintable() or one in "\n\t" else one.encode("unicode_escape").decode() for one in text)


def require_seed(seed: int, where: str) -> None:
    """Refuse a seed that numpy or torch does not take."""
    if not 0 <= seed < 2**32:
        raise InputError(f"{seed} is not a valid seed", where=where, remedy=f"give 0 to {2**32 - 1}")


def require_positive(of: str, given: Mapping[str, Any], *names: str, or_zero: bool = False) -> None:
    """Refuse settings of these names that are negative, NaN, or 0 unless ``or_zero``.

    ``of`` is the prefix of the keys in messages, and may be empty. None is allowed.
    """
    for name in names:
        (NOT_NEGATIVE if or_zero else ABOVE_0).require(given.get(name), f"{of}.{name}" if of else name)


Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Range:
    """A range of allowed values: its text in messages, and its test."""

    words: str
    holds: Callable[[float], bool]

    def require(self, value: float | None, where: str) -> None:
        """Refuse a value outside the range; None and strings, such as ``auto``, are allowed."""
        if not isinstance(value, str | None) and not self.holds(value):
            raise InputError(f"{value} is not {self.words}", where=where, remedy=f"give a number {self.words}")


ABOVE_0, NOT_NEGATIVE = Range("above 0", lambda x: x > 0), Range("0 or above", lambda x: x >= 0)
Positive = Annotated[Number, ABOVE_0]
NonNegative = Annotated[Number, NOT_NEGATIVE]
AtLeast2 = Annotated[int, Range("2 or more", lambda x: x >= 2)]
PositiveUnit = Annotated[float, Range("above 0 and at most 1", lambda x: 0 < x <= 1)]  # (0, 1]
ClosedUnit = Annotated[float, Range("from 0 to 1", lambda x: 0 <= x <= 1)]  # [0, 1]
OpenUnit = Annotated[float, Range("between 0 and 1", lambda x: 0 < x < 1)]  # (0, 1)
DROPOUT = Range("from 0 to below 1", lambda x: 0 <= x < 1)


def check_ranges(kind: type, given: Mapping[str, Any], of: str) -> None:
    """Refuse settings outside the ranges that annotate constructor arguments of a class and its base classes.

    ``of`` is the prefix of the keys in messages, such as ``model``. None is allowed where the annotation of the class
    itself allows it: jsonargparse lets ``null`` pass anywhere.
    """
    may_be_none: dict[str, bool] = {}  # the subclass decides, which comes first
    for base in kind.__mro__:
        for name, hint in _constructor_hints(base).items():
            if name not in given:
                continue
            types = (hint, *get_args(hint))
            if not may_be_none.setdefault(name, NoneType in types or Any in types) and given[name] is None:
                raise InputError("null cannot be used here", where=f"{of}.{name}", remedy="leave it out")
            metadata = [item for form in types for item in getattr(form, "__metadata__", ())]
            for allowed in [item for item in metadata if isinstance(item, Range)]:
                allowed.require(given[name], f"{of}.{name}")


def _constructor_hints(kind: type) -> dict[str, Any]:
    """Types of the arguments of a class's own constructor; all `Any` if one names what only type checkers import."""
    constructor = vars(kind).get("__init__", object.__init__)
    try:
        return get_type_hints(constructor, include_extras=True)
    except NameError:
        return dict.fromkeys(constructor.__annotations__, Any)


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """Find the nearest candidate by spelling, ignoring case.

    If none is near, compare only what follows the last dot: ``temperature`` finds ``model.temperature``.

    Returns:
        A candidate, or None if none is near.
    """
    pool = sorted(set(candidates))
    for part in (str.lower, lambda key: key.lower().rsplit(".", 1)[-1]):
        options = {part(candidate): candidate for candidate in reversed(pool)}
        if close := difflib.get_close_matches(part(word), options, n=1, cutoff=CUTOFF):
            return options[close[0]]
    return None
