"""Errors shown to users, and suggestions of the nearest name."""

import difflib
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

CUTOFF = 0.75  # similarity (difflib's ratio) from which a candidate is suggested
LONGEST = 100  # letters of a word: nobody mistypes a longer one, and to compare it takes long


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
        what, where, remedy = (printable(part or "") for part in (self.what, self.where, self.remedy))
        head = f"{where}: {what}" if where else what
        return f"{head}\n  -> {remedy}" if remedy else head


class TrainingError(Exception):
    """Training cannot continue although the input was valid. The command prints it and exits with 3."""


def printable(text: str) -> str:
    """Escape control characters, so that a name cannot send codes to a terminal. Newlines and tabs stay."""
    return "".join(one if one.isprintable() or one in "\n\t" else one.encode("unicode_escape").decode() for one in text)


def require_seed(seed: int, where: str) -> None:
    """Refuse what numpy and torch cannot be seeded with."""
    if not 0 <= seed < 2**32:
        raise InputError(f"{seed} is no seed", where=where, remedy=f"give 0 to {2**32 - 1}")


def require_positive(of: str, given: Mapping[str, Any], *names: str, or_zero: bool = False) -> None:
    """Refuse settings that are not above 0.

    Args:
        of: prefix of the keys in messages, such as ``model``; may be empty.
        given: settings by name. Missing ones and None are allowed.
        *names: settings that must be above 0.
        or_zero: allow 0.

    Raises:
        InputError: a setting is below 0, NaN, or 0 where 0 is not allowed.
    """
    asked = "0 or above" if or_zero else "above 0"
    for name in names:
        value = given.get(name)
        if value is not None and not (value > 0 or (or_zero and value == 0)):
            where = f"{of}.{name}" if of else name
            raise InputError(f"{value} is not {asked}", where=where, remedy=f"give a number {asked}")


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """Find the nearest candidate by spelling, ignoring case.

    If none is near, compare only what follows the last dot: ``temperature`` finds ``model.temperature``.

    Returns:
        A candidate, or None if none is near.
    """
    if len(word) > LONGEST:
        return None
    pool = sorted(set(candidates))
    for part in (str.lower, lambda key: key.lower().rsplit(".", 1)[-1]):
        options = {part(candidate): candidate for candidate in reversed(pool)}
        if close := difflib.get_close_matches(part(word), options, n=1, cutoff=CUTOFF):
            return options[close[0]]
    return None
