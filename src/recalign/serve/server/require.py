"""Checks of plain values that come from outside; each error says where, and a remedy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from recalign.errors import InputError, nearest

LARGEST = 2.0**63
LONGEST_ID = 200
"""Characters of the id of a user or of an event."""


def plain(kind: type, given: Any, what: str) -> dict[str, Any]:
    """The values that a dataclass is made of, from JSON.

    Raises:
        InputError: it is no object, or has names that the dataclass does not.
    """
    require(isinstance(given, Mapping), what, given, "an object")
    names = [one.name for one in fields(kind)]
    for name in given:
        if name not in names:
            near = nearest(str(name), names)
            remedy = f"did you mean {near!r}?" if near else f"there are: {', '.join(names)}"
            raise InputError(f"there is no {shown(name)} in {what}", where=shown(name), remedy=remedy)
    return dict(given)


def shown(value: Any) -> str:
    """A value in a message, cut where it is long."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # lists within lists, a number of thousands of digits
        return f"a value ({type(value).__name__}) that is too large to print"
    return text if len(text) <= 60 else f"{text[:57]}..."


def at(place: str, make: Callable[[], Any]) -> Any:
    """Say in an error where in the request it is."""
    try:
        return make()
    except InputError as error:
        raise InputError(error.what, where=f"{place}.{error.where}", remedy=error.remedy) from None


def require(good: bool, where: str, value: Any, wanted: str) -> None:
    """Refuse a value that is not as wanted."""
    if not good:
        raise InputError(f"{shown(value)} cannot be used here", where=where, remedy=f"give {wanted}")


def require_list(name: str, values: Any, most: int) -> None:
    """Refuse what is no list, or one that is too long."""
    is_list = isinstance(values, Sequence) and not isinstance(values, str | bytes)
    require(is_list, name, values, "a list")
    if len(values) > most:
        remedy = "give the newest" if name in ("items", "times", "rewards") else "give fewer"
        raise InputError(f"{len(values):,} of them, and a request may have {most:,}", where=name, remedy=remedy)


def text_id(name: str, one: Any) -> str:
    """The id of a user or of an event as text.

    Raises:
        InputError: it is no integer, and no printable text of a sensible length.
    """
    text = str(one) if type(one) is int and abs(one) < LARGEST else one
    good = isinstance(text, str) and 0 < len(text) <= LONGEST_ID and text.isprintable()
    require(good, name, one, f"an integer, or a text of 1 to {LONGEST_ID} printable characters")
    return text


def is_number(value: Any) -> bool:
    """Whether it is a finite number, and no truth value."""
    return type(value) in (int, float) and abs(value) < LARGEST  # not NaN either
