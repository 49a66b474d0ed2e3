"""Guess from names and values what the columns of a table mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import polars as pl

from recalign.errors import InputError
from recalign.events.fields import PER_SECOND, missing_as_null, read_timestamps
from recalign.events.log import TimeUnit
from recalign.events.messages import SourceRows

USER = (
    *("user", "customer", "visitor", "reviewer", "member", "client", "viewer", "listener", "reader", "shopper"),
    *("buyer", "account", "person", "profile", "subscriber", "student", "player", "uid", "session"),
)
ITEM = (
    *("item", "product", "movie", "film", "video", "book", "isbn", "asin", "song", "track", "artist", "article"),
    *("news", "business", "sku", "content", "game", "course", "recipe", "anime", "show", "podcast", "photo", "post"),
    *("offer", "listing", "hotel", "place", "venue", "poi", "iid"),
)
TIME = ("timestamp", "time", "datetime", "ts", "moment", "date", "created", "at", "when", "day")
RATING = ("rating", "stars", "star", "score", "grade", "reward", "overall", "ratio", "completion", "vote", "feedback")
SIGNAL = ("purchase", "purchased", "bought", "like", "liked", "click", "clicked", "label", "plays", "count")
EVENT = ("event", "action", "behavior", "behaviour", "interaction", "activity", "type")
WATCHED = ("watch", "watched", "play", "played", "listen", "listened", "dwell", "spent", "view", "viewed")
DURATION = ("duration", "length", "runtime")
"""Words in the names of columns, the most telling first."""

WORTH = {
    -1.0: ("dislike", "refund", "return", "returned", "skip", "hide", "report", "remove", "cancel", "unlike"),
    1.0: ("purchase", "buy", "order", "transaction", "subscribe", "book", "booking", "bought", "sale"),
    0.5: ("cart", "addtocart", "basket", "wishlist", "fav", "favorite", "like", "save", "share", "download", "follow"),
    0.2: ("click", "play", "start"),
    0.0: ("view", "pv", "impression", "show", "detail", "page", "open", "search", "seen"),
}
"""What kinds of event are worth, by words in their names; the first that fits counts."""

MISSING = ("NULL", "null", "None", "NA", "N/A", "n/a", r"\N", "-")
"""Text that stands for a missing value, beside what the reader takes for one."""

SECONDS = {"ms": 0.001, "millis": 0.001, "milliseconds": 0.001, "s": 1.0, "sec": 1.0, "seconds": 1.0, "min": 60.0}
"""Units in which the names of durations end."""

SINCE, UNTIL = 631_152_000, 4_102_444_800
"""Seconds since 1970 at the beginning of 1990 and of 2100: numbers between them are taken for moments."""

IDS = ("id", "ids", "key", "no", "nr", "code", "number", "hash", "uuid")
"""Words that mark ids."""

UNNAMED = 1000
"""Rank of a name that says nothing."""

FEW = 20
"""Distinct values up to which a column holds kinds or grades rather than measurements or ids."""


def guess(frame: pl.DataFrame, given: Mapping[str, str], named: bool) -> dict[str, str]:
    """Guess which columns are ``user``, ``item`` and ``timestamp``, and the SQL of the ``reward``.

    Args:
        frame: a row per event.
        given: those that are known already.
        named: whether the columns have names; if not, the first that may hold ids is the user's, the second the item's.

    Returns:
        Those given and those found.
    """
    found = dict(given)

    def left() -> pl.DataFrame:
        return frame.drop(found[role] for role in ("user", "item", "timestamp") if role in found)

    def first_id() -> str | None:
        return next((column.name for column in left() if _may_be_id(column)), None)

    rules: list[tuple[str, Callable[[], str | None]]] = [
        ("user", lambda: _named(USER, filter(_may_be_id, left()))),
        ("item", lambda: _named(ITEM, filter(_may_be_id, left()))),
        ("timestamp", lambda: _time(left())),
        *([] if named else [("user", first_id), ("item", first_id)]),
        ("reward", lambda: _reward(left(), named)),
    ]
    for role, rule in rules:
        if role not in found and (name := rule()) is not None:
            found[role] = name
    return found


def unit(column: pl.Series) -> TimeUnit:
    """The unit of the column of the moment; where none fits, the one for which training says what is wrong."""
    return _time_unit(column, relative=True) or ("s" if column.dtype.is_numeric() else "datetime")


def _time_unit(column: pl.Series, relative: bool = False) -> TimeUnit | None:
    """The unit of a column of moments, null if it holds none.

    If `relative`, numbers that are too small for moments since 1990 may count from any beginning.
    """
    known = _known(column)
    if known.is_empty():
        return None
    numbers = _numbers(column)
    if numbers is None:
        try:
            read_timestamps(known, "datetime", SourceRows(pl.int_range(len(known), eager=True)))
        except InputError:
            return None
        return "datetime"
    low, high = float(numbers.min()), float(numbers.max())  # type: ignore[arg-type]
    for unit in ("s", "ms", "us"):
        if low >= SINCE * PER_SECOND[unit] and high <= UNTIL * PER_SECOND[unit]:
            return unit
    days = low >= 19_000_101 and high <= 21_001_231  # 20260301 is a date, and no number of seconds
    return ("ms" if "ms" in _words(column.name) else "s") if relative and low >= 0 and not days else None


def where(frame: pl.DataFrame, columns: Iterable[str]) -> str | None:
    """SQL condition that leaves out the rows in which one of some columns is missing; null if there are none."""
    conditions = []
    for name in columns:
        column, quoted = missing_as_null(frame[name]), quote(name)
        if column.null_count():
            conditions.append(f"{quoted} is not null")
        if column.dtype == pl.String and (words := [word for word in MISSING if (column == word).any()]):
            conditions.append(f"{quoted} not in ({', '.join(map(_text, words))})")
    return " and ".join(conditions) or None


def high(rewards: pl.Series) -> str | None:
    """SQL condition for a high reward: about the best third of the events; null: the best quarter has no such limit."""
    values = rewards.drop_nulls()
    best_quarter = (values > values.quantile(0.75, "linear")).mean()
    if values.n_unique() > FEW and isinstance(best_quarter, float) and best_quarter > 0.1:
        return None
    counts = values.value_counts().sort(values.name, descending=True)
    shares = counts["count"].cum_sum() / len(values)
    limit = counts.to_series()[max(0, int((shares <= 0.4).sum()) - 1)]
    return f"reward >= {limit:g}"


def quote(name: str) -> str:
    """A column's name as it stands in Polars SQL."""
    try:
        if pl.sql_expr(name).meta.eq(pl.col(name)):
            return name
    except pl.exceptions.PolarsError:
        pass
    return '"' + name.replace('"', '""') + '"'


def _reward(frame: pl.DataFrame, named: bool) -> str | None:
    """SQL over the first kind of feedback that is there: a rating, kinds of event, watch time, any other signal."""
    varied = [column for column in frame if _known(column).n_unique() > 1]
    numeric = [column for column in varied if column.dtype == pl.Boolean or _numbers(column) is not None]
    if rating := _named(RATING, numeric):
        return _value(frame[rating])
    signals = {column.name for column in numeric}
    kinds = [column for column in varied if column.name not in signals and _known(column).n_unique() <= FEW]
    for column in sorted(kinds, key=lambda column: _rank(EVENT, column.name)):
        worth = _worth(column)
        if len(set(worth.values())) > 1:
            cases = (f"WHEN {_text(kind)} THEN {value:g}" for kind, value in worth.items())
            return "\n".join([f"CASE {quote(column.name)}", *cases, "END"])
    times = [column for column in numeric if column.dtype != pl.Boolean and _known(column).n_unique() > 2]
    length = _named(DURATION, times)
    watched = _named(WATCHED, (column for column in times if column.name != length))
    if watched and length:
        scale = SECONDS.get(_words(watched)[-1], 1.0) / SECONDS.get(_words(length)[-1], 1.0)
        factor = "" if scale == 1 else f"{scale:g} * "
        return f"least({factor}{_value(frame[watched])} / nullif({_value(frame[length])}, 0), 1.0)"
    signal = watched or _named(SIGNAL, numeric)
    if signal is None and not named and len(numeric) == 1:
        signal = numeric[0].name
    return _value(frame[signal]) if signal else None


def _named(words: tuple[str, ...], columns: Iterable[pl.Series]) -> str | None:
    """The column whose name fits the words best, if any does."""
    ranks = {column.name: _rank(words, column.name) for column in columns}
    best = min(ranks, key=ranks.__getitem__, default="")
    return best if ranks.get(best, UNNAMED) < UNNAMED else None


def _rank(words: tuple[str, ...], name: str) -> int:
    """How well a column's name fits words: their order, and 20 for each word of the name that says something else."""
    own = [word for word in _words(name) if word not in IDS]
    places = [words.index(word) for word in own if word in words]
    return min(places) + 20 * (len(own) - 1) if places else UNNAMED


def _words(name: str) -> list[str]:
    """Lower-case words of a name: ``userId`` -> user, id; ``visitorid`` -> visitor."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = [word.lower() for word in re.findall(r"[^\W_]+", spaced)]
    return [word if word in IDS else word.removesuffix("id") for word in words]


def _may_be_id(column: pl.Series) -> bool:
    if column.dtype.is_float():
        known = _known(column)
        return bool((known == known.floor()).all())
    return column.dtype.is_integer() or column.dtype in (pl.String, pl.Categorical, pl.Enum)


def _time(columns: Iterable[pl.Series]) -> str | None:
    """The column of the moment: moments since 1990 before numbers that count from some other beginning."""
    columns = list(columns)
    moments = [column for column in columns if _time_unit(column)]
    if moments:
        return min(moments, key=lambda column: _rank(TIME, column.name)).name
    spans = (*WATCHED, *DURATION)
    counted = (column for column in columns if _rank(spans, column.name) == UNNAMED and _time_unit(column, True))
    text = (column for column in columns if column.dtype == pl.String)  # training will say what is wrong with it
    return _named(TIME, counted) or _named(TIME, text)


def _known(column: pl.Series) -> pl.Series:
    """The values that are not missing."""
    known = missing_as_null(column).drop_nulls()
    return known.filter(~known.is_in(MISSING)) if column.dtype == pl.String else known


def _numbers(column: pl.Series) -> pl.Series | None:
    """The known values as numbers, if all of them are."""
    known = _known(column)
    if column.dtype == pl.String:
        numbers = known.cast(pl.Float64, strict=False)
        return None if numbers.null_count() or known.is_empty() else numbers
    return known if column.dtype.is_numeric() else None


def _value(column: pl.Series) -> str:
    """A numeric column in SQL; text is cast, so that words for missing values become null."""
    name = quote(column.name)
    return f"TRY_CAST({name} AS DOUBLE)" if column.dtype == pl.String else name


def _worth(column: pl.Series) -> dict[str, float]:
    """What each kind of event is worth: 0 for a kind that is not known; empty if none is."""
    kinds = _known(column).cast(pl.String).unique().sort()
    known = {kind: worth for worth, words in reversed(WORTH.items()) for kind in kinds if {*_words(kind)} & {*words}}
    return {kind: known.get(kind, 0.0) for kind in kinds} if known else {}


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
