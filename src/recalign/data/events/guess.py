"""Guess what the columns of a table mean, from their names and values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping

import polars as pl

from recalign.data.events.fields import PER_SECOND, missing_as_null, read_timestamps
from recalign.data.events.log import TimeUnit
from recalign.data.events.messages import SourceRows
from recalign.errors import InputError

USER = (
    *("user", "customer", "visitor", "reviewer", "member", "client", "viewer", "listener", "reader", "shopper"),
    *("buyer", "account", "person", "profile", "subscriber", "student", "player", "uid", "username"),
    *("session", "visit"),
)
ITEM = (
    *("item", "product", "movie", "film", "video", "book", "isbn", "asin", "song", "track", "artist", "article"),
    *("news", "business", "sku", "content", "game", "course", "recipe", "anime", "show", "podcast", "photo", "post"),
    *("offer", "listing", "hotel", "place", "venue", "poi", "iid"),
)
TIME = ("timestamp", "time", "datetime", "ts", "moment", "date", "created", "at", "when", "day", "epoch", "unix", "utc")
RATING = ("rating", "stars", "star", "score", "grade", "reward", "overall", "ratio", "completion", "vote", "feedback")
SIGNAL = ("purchase", "purchased", "bought", "like", "liked", "click", "clicked", "label", "plays", "count")
EVENT = ("event", "action", "behavior", "behaviour", "interaction", "activity", "type")
WATCHED = ("watch", "watched", "play", "played", "listen", "listened", "dwell", "spent", "view", "viewed")
DURATION = ("duration", "length", "runtime")
"""Words in column names, the most specific first."""

VALUES = {
    -1.0: ("dislike", "refund", "return", "returned", "skip", "hide", "report", "remove", "cancel", "unlike"),
    1.0: ("purchase", "buy", "order", "transaction", "subscribe", "book", "booking", "bought", "sale"),
    0.5: ("cart", "addtocart", "basket", "wishlist", "fav", "favorite", "like", "save", "share", "download", "follow"),
    0.2: ("click", "play", "start"),
    0.0: ("view", "pv", "impression", "show", "detail", "page", "open", "search", "seen"),
}
"""Rewards of event types, by words in their names. The first match counts."""

MISSING = ("null", "None", "NA", "N/A", "n/a", "-")
"""Text that means a missing value, besides `recalign.data.events.fields.MISSING`."""

SECONDS = {"ms": 0.001, "millis": 0.001, "milliseconds": 0.001, "s": 1.0, "sec": 1.0, "secs": 1.0, "seconds": 1.0}
SECONDS |= {"min": 60.0, "mins": 60.0, "minutes": 60.0, "h": 3600.0, "hours": 3600.0}
"""Seconds per unit, by a word of a duration's name."""

EARLIEST, LATEST = 631_152_000, 4_102_444_800
"""Start of 1990 and of 2100, in seconds since 1970. Numbers in between are taken for timestamps."""

DAYS = 16
"""So many ranks worse is a column of days: ``timestamp`` at midnights is meant all the same."""

IDS = ("id", "ids", "key", "no", "nr", "code", "number", "hash", "uuid")
"""Words that mark an id."""

MOST_HIGH = 0.4
"""Share of the events that a high reward may have and still tell good events from the others."""

MAX_KINDS = 20
"""A column with at most this many distinct values holds event types or grades, not measurements or ids."""


def guess(frame: pl.DataFrame, given: Mapping[str, str], named: bool) -> dict[str, str]:
    """Guess which columns are ``user``, ``item`` and ``timestamp``, and the SQL of the ``reward``.

    Args:
        frame: a row per event.
        given: roles that are known already.
        named: whether the columns have names. If not, the first column that may hold ids is the user, the second the
            item.

    Returns:
        The given and the guessed roles.
    """
    found = dict(given)

    def fill(role: str, find: Callable[[pl.DataFrame], str | None]) -> None:
        """Find a role among the columns that have none."""
        left = frame.drop(found[other] for other in ("user", "item", "timestamp") if other in found)
        if role not in found and (name := find(left)) is not None:
            found[role] = name

    fill("user", lambda left: _best_match(USER, filter(_may_be_id, left)))
    fill("item", lambda left: _best_match(ITEM, filter(_may_be_id, left)))
    fill("timestamp", _timestamp_column)
    for role in () if named else ("user", "item"):
        fill(role, lambda left: next((column.name for column in left if _may_be_id(column)), None))
    fill("reward", lambda left: _reward_sql(left, named))
    return found


def unit(column: pl.Series) -> TimeUnit:
    """Guess the unit of a timestamp column. If none fits, return one for which training reports what is wrong."""
    return _time_unit(column, relative=True) or ("s" if column.dtype.is_numeric() else "datetime")


def _time_unit(column: pl.Series, relative: bool = False) -> TimeUnit | None:
    """The unit of a timestamp column; None if it holds no timestamps.

    With `relative`, numbers too small for a date after 1990 may count from any start.
    """
    known = _present(column)
    if known.is_empty():
        return None
    numbers = _as_numbers(column)
    if numbers is None:
        try:
            read_timestamps(known, "datetime", SourceRows(pl.int_range(len(known), eager=True)))
        except InputError:
            return None
        return "datetime"
    low, high = (float(numbers.quantile(q, "nearest")) for q in (0.01, 0.99))  # type: ignore[arg-type]  # a slip is none
    for unit in ("s", "ms", "us"):
        if low >= EARLIEST * PER_SECOND[unit] and high <= LATEST * PER_SECOND[unit]:
            return unit
    days = low >= 19_000_101 and high <= 21_001_231  # 20260301 is a date, not seconds
    return ("ms" if "ms" in _words(column.name) else "s") if relative and low >= 0 and not days else None


def missing_condition(frame: pl.DataFrame, columns: Iterable[str]) -> str | None:
    """SQL condition that drops rows with a missing value in one of the columns; None if there are no such rows."""
    conditions = []
    for name in columns:
        column, quoted = missing_as_null(frame[name]), quote(name)
        if column.null_count():
            conditions.append(f"{quoted} is not null")
        if column.dtype == pl.String and (words := [word for word in MISSING if (column == word).any()]):
            conditions.append(f"{quoted} not in ({', '.join(map(_sql_text, words))})")
    return " and ".join(conditions) or None


def high_condition(rewards: pl.Series) -> str | None:
    """SQL condition for high rewards: the best grades that together hold at most `MOST_HIGH` of the events.

    Where the best grade alone holds more, it is that one: no other condition tells better events apart. None for a
    reward without grades, whose best quarter can be used instead.
    """
    values = rewards.drop_nulls()
    best_quarter = (values > values.quantile(0.75, "linear")).mean()
    if values.n_unique() > MAX_KINDS and isinstance(best_quarter, float) and best_quarter > 0.1:
        return None
    counts = values.value_counts().sort(values.name, descending=True)
    shares = counts["count"].cum_sum() / len(values)
    limit = counts.to_series()[max(0, int((shares <= MOST_HIGH).sum()) - 1)]
    short = f"{limit:g}"
    return f"reward >= {short if float(short) == limit else repr(float(limit))}"


def has_kinds_of_one_item(events: pl.DataFrame) -> bool:
    """Whether a user has events of several rewards on one item, such as a view and a purchase."""
    kinds = events.group_by("user", "item").agg(pl.col("reward").n_unique())["reward"]
    return bool((kinds > 1).any())


def quote(name: str) -> str:
    """Quote a column's name for Polars SQL, if it needs quotes."""
    try:
        if pl.sql_expr(name).meta.eq(pl.col(name)):
            return name
    except pl.exceptions.PolarsError:
        pass
    return '"' + name.replace('"', '""') + '"'


def _reward_sql(frame: pl.DataFrame, named: bool) -> str | None:
    """SQL of the reward, from the first that exists: a rating, event types, watch time, another signal."""
    varied = [column for column in frame if _present(column).n_unique() > 1]
    numeric = [column for column in varied if column.dtype == pl.Boolean or _as_numbers(column) is not None]
    if rating := _best_match(RATING, numeric):
        return _sql_number(frame[rating])
    signals = {column.name for column in numeric}
    text = [column for column in varied if column.dtype in (pl.String, pl.Categorical, pl.Enum)]
    kinds = [column for column in text if column.name not in signals and _present(column).n_unique() <= MAX_KINDS]
    for column in sorted(kinds, key=lambda column: _rank(EVENT, column.name)):
        worth = _event_values(column)
        if len(set(worth.values())) > 1:
            cases = (f"WHEN {_sql_text(kind)} THEN {value:g}" for kind, value in worth.items())
            return "\n".join([f"CASE {quote(column.name)}", *cases, "END"])
    times = [column for column in numeric if column.dtype != pl.Boolean and _present(column).n_unique() > 2]
    watched = _best_match(WATCHED, times)
    length = _best_match(DURATION, (column for column in times if column.name != watched))
    if watched and length:
        scale = _seconds(watched) / _seconds(length)
        factor = "" if scale == 1 else f"{scale:g} * "
        return f"least({factor}{_sql_number(frame[watched])} / nullif({_sql_number(frame[length])}, 0), 1.0)"
    signal = watched or _best_match(SIGNAL, numeric)
    if signal is None and not named and len(numeric) == 1:
        signal = numeric[0].name
    return _sql_number(frame[signal]) if signal else None


def _seconds(name: str) -> float:
    """Seconds per unit of a duration, by its name; 1 where that says none."""
    return next((SECONDS[word] for word in reversed(_words(name)) if word in SECONDS), 1.0)


def _best_match(words: tuple[str, ...], columns: Iterable[pl.Series]) -> str | None:
    """The column whose name matches the words best; None if none matches."""
    matching = (column.name for column in columns if _rank(words, column.name) < math.inf)
    return min(matching, key=lambda name: _rank(words, name), default=None)


def _rank(words: tuple[str, ...], name: str) -> float:
    """Rank of a column's name, 0 the best: the index of the matching word, plus 20 for each other word of the name.

    ``created_at`` is two words of time, and neither counts as another one. Infinity for a name without a matching word.
    """
    own = [word for word in _words(name) if word not in IDS]
    if (whole := "".join(own)) in words:  # user_name
        return words.index(whole)
    places = [words.index(word) for word in own if word in words]
    return min(places, default=math.inf) + 20 * (len(own) - (len(places) if words is TIME else 1))


def _words(name: str) -> list[str]:
    """Lower-case words of a name: ``userId`` -> user, id; ``visitorid`` -> visitor."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = [word.lower() for word in re.findall(r"[^\W_]+", spaced)]
    return [word if word in (*IDS, "uid", "iid") else word.removesuffix("id") for word in words]


def _may_be_id(column: pl.Series) -> bool:
    if column.dtype.is_float():
        known = _present(column)
        return bool((known == known.floor()).all())
    return column.dtype.is_integer() or column.dtype in (pl.String, pl.Categorical, pl.Enum)


def _timestamp_column(columns: Iterable[pl.Series]) -> str | None:
    """The timestamp column: of those that hold dates after 1990 the one whose name says so best, moments before days.

    Where no such name does: numbers that count from another start, text that may be dates, and dates of any name.
    """
    columns = list(columns)
    moments = [column for column in columns if _time_unit(column)]
    if named := [column for column in moments if _rank(TIME, column.name) < math.inf]:
        return min(named, key=lambda column: _rank(TIME, column.name) + DAYS * _is_of_days(column)).name
    spans = (*WATCHED, *DURATION)
    alike = [column for column in columns if _rank(TIME, column.name) < 20]  # and not, say, time_on_page
    counted = (column for column in alike if _rank(spans, column.name) == math.inf and _time_unit(column, True))
    text = [column for column in columns if column.dtype == pl.String]  # training reports what is wrong with it
    dated = (column for column in text if len(known := _present(column)) and known.str.contains(r"\d").all())
    found = _best_match(TIME, counted) or _best_match(TIME, dated)
    return found or next((column.name for column in moments), None) or _best_match(TIME, text)


def _is_of_days(column: pl.Series) -> bool:
    """Whether the moments of a column are whole days."""
    known, unit = _present(column), _time_unit(column)
    assert unit is not None
    try:
        time, per_second = read_timestamps(known, unit, SourceRows(pl.int_range(len(known), eager=True)))
    except InputError:  # one of them is no time, as training reports
        return False
    return bool((time % (86_400 * per_second) == 0).all())


def _present(column: pl.Series) -> pl.Series:
    """Values that are not missing."""
    known = missing_as_null(column).drop_nulls()
    return known.filter(~known.is_in(MISSING)) if column.dtype == pl.String else known


def _as_numbers(column: pl.Series) -> pl.Series | None:
    """The values that are not missing as numbers; None if one is not a number."""
    known = _present(column)
    if column.dtype == pl.String:
        numbers = known.cast(pl.Float64, strict=False)
        return None if numbers.null_count() or known.is_empty() else numbers
    return known if column.dtype.is_numeric() else None


def _sql_number(column: pl.Series) -> str:
    """A numeric column in SQL. Text is cast, so that text for missing values becomes null."""
    name = quote(column.name)
    if column.dtype != pl.String:
        return name
    for word in column.filter(column.str.to_lowercase() == "nan").unique().sort():  # which is a number to a cast
        name = f"nullif({name}, {_sql_text(word)})"
    return f"TRY_CAST({name} AS DOUBLE)"


def _event_values(column: pl.Series) -> dict[str, float]:
    """Reward of each event type: 0 for an unknown one; empty if all are unknown."""
    kinds = _present(column).cast(pl.String).unique().sort()
    known = {kind: worth for worth, words in reversed(VALUES.items()) for kind in kinds if {*_words(kind)} & {*words}}
    return {kind: known.get(kind, 0.0) for kind in kinds} if known else {}


def _sql_text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
