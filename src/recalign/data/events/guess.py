"""Guess what the columns of a table of events mean, from their names and values."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress

import polars as pl
import polars.selectors as cs

from recalign.data.events.audit import EARLIEST
from recalign.data.events.fields import PER_SECOND, missing_as_null, read_timestamps
from recalign.data.events.items import log_ids
from recalign.data.events.log import Feature, ItemTable, TimeUnit
from recalign.data.events.messages import SourceRows
from recalign.errors import InputError

WORDS = {
    "user": ("user", "customer", "visitor", "viewer", "account", "uid", "username", "session"),
    "item": ("item", "product", "movie", "video", "book", "asin", "isbn", "sku", "song", "track", "news", "post", "iid",
             "article", "content", "listing", "ad", "game", "recipe", "vid", "pid"),
    "timestamp": ("timestamp", "time", "datetime", "ts", "date", "created", "at", "day", "epoch", "moment"),
    "rating": ("rating", "stars", "score", "grade", "reward"),
    "signal": ("purchased", "purchase", "bought", "liked", "like", "clicked", "click", "label"),
    "event": ("event", "action", "behavior", "type"),
    "title": ("title", "name", "headline"),
}  # fmt: skip
"""Words in column names, by what the column holds, the most specific first."""

CLICKS, IMPRESSIONS = {"click", "clicked", "chosen", "opened"}, {"impression", "impressed", "shown"}
"""Words for clicks in column names, and for impressions in event types."""

REQUESTS = {"impression", "request", "query", "search", "slate"}
"""Words in the name of a column that tells which items were shown together."""

IDS = ("id", "key", "no", "code", "number")
"""Words that mark an id."""

ALONE = {"ad", "content", "game"}
"""Words for an item that mean something else beside other words, as in ``content_type``."""

WORTH = {
    **{"dislike": -1.0, "remove": -1.0, "refund": -1.0, "purchase": 1.0, "buy": 1.0, "order": 1.0},
    **{"cart": 0.5, "addtocart": 0.5, "like": 0.5, "click": 0.2, "view": 0.0},
}
"""Rewards of event types, by a word in their names. The first match counts."""

LATEST = 4_102_444_800
"""Start of 2100, in seconds since 1970. Numbers from `EARLIEST` to here count as timestamps."""

OTHER_WORD, WHOLE_DAYS = 20, 18
"""Rank penalties: for each further word in a column's name, and for dates without a time of day."""

MOST_HIGH = 0.4
"""Largest share of high rewards that still separates good events from the rest."""

MAX_KINDS = 20
"""A column with at most this many distinct values holds event types or grades, not measurements or ids."""


def guess(frame: pl.DataFrame, given: Mapping[str, str], named: bool) -> dict[str, str]:
    """Guess which columns of a table of events are ``user``, ``item`` and ``timestamp``, and the SQL of the ``reward``.

    ``given``: columns, or the reward's SQL, by role, if already known. Without a header row (not ``named``), the first
    column that may hold ids is the user, the second the item.
    """
    found: dict[str, str | None] = dict(given)

    def left() -> list[pl.Series]:
        taken = {found.get(role) for role in ("user", "item", "timestamp")}
        return [column for column in frame if column.name not in taken]

    for role in ("user", "item"):
        found[role] = found.get(role) or _best_match(role, filter(_may_be_id, left()))
    found["timestamp"] = found.get("timestamp") or _timestamp_column(left())
    for role in () if named else ("user", "item"):
        found[role] = found[role] or next((column.name for column in left() if _may_be_id(column)), None)
    found["reward"] = found.get("reward") or _reward_sql(left(), named)
    return {role: name for role, name in found.items() if name is not None}


def unit(column: pl.Series) -> TimeUnit:
    """Guess the unit of a timestamp column. If none fits, return one for which training reports what is wrong."""
    found = _dated(column)
    return found[0] if found else "s" if column.dtype.is_numeric() else "datetime"


def _dated(column: pl.Series) -> tuple[TimeUnit, bool] | None:
    """The unit of a timestamp column, and whether it holds whole days; None for no dates or numbers before 1990."""
    known, unit_of = _present(column), "datetime"
    if known.is_empty():
        return None
    if column.dtype.is_numeric():
        low, high = (float(known.quantile(q, "nearest")) for q in (0.01, 0.99))  # type: ignore[arg-type]  # without outliers
        units = (one for one, per in PER_SECOND.items() if low >= EARLIEST * per and high <= LATEST * per)
        if (unit_of := next(units, "")) == "":
            return None
    try:
        time, per_second = read_timestamps(known, unit_of, SourceRows(pl.int_range(len(known), eager=True)))  # type: ignore[arg-type]
    except InputError:  # a value is not a time
        return (unit_of, False) if column.dtype.is_numeric() else None  # type: ignore[return-value]
    return unit_of, bool((time % (86_400 * per_second) == 0).all())  # type: ignore[return-value]


def missing_condition(frame: pl.DataFrame, columns: Iterable[str]) -> str | None:
    """SQL condition that drops rows with a missing value in one of the columns; None if there are no such rows."""
    gaps = [name for name in columns if missing_as_null(frame[name]).null_count()]
    return " and ".join(f"{quote(name)} is not null" for name in gaps) or None


def high_condition(rewards: pl.Series) -> str | None:
    """SQL condition for high rewards: the best grades that together hold at most `MOST_HIGH` of the events.

    If the best grade alone holds more, the condition is that grade: none is stricter. None for a reward of many values
    instead of grades: its best quarter can be used.
    """
    values = rewards.drop_nulls()
    if values.n_unique() > MAX_KINDS and (values > values.quantile(0.75, "linear")).mean() > 0.1:  # type: ignore[operator]
        return None
    counts = values.value_counts().sort(values.name, descending=True)
    shares = counts["count"].cum_sum() / len(values)
    limit = counts.to_series()[max(0, int((shares <= MOST_HIGH).sum()) - 1)]
    short = f"{limit:g}"
    return f"reward >= {short if float(short) == limit else repr(float(limit))}"


def quote(name: str) -> str:
    """Quote a column's name for Polars SQL, if it needs quotes."""
    with suppress(pl.exceptions.PolarsError):
        if pl.sql_expr(name).meta.eq(pl.col(name)):
            return name
    return '"' + name.replace('"', '""') + '"'


def item_table(file: str, frame: pl.DataFrame, text: pl.DataFrame, items: pl.Series) -> ItemTable:
    """Guess what the columns of a table of items mean.

    The id is the column that holds most of the log's ``items``. The title is found by its name. Features are the other
    columns of numbers, vectors, and categories that several items share.

    Args:
        file: how the log's YAML names the table.
        frame: the table.
        text: the same, with every column read as text.
        items: raw ids of the log.
    """
    ids = {one.name: log_ids(missing_as_null(one.unique()), items) for one in text if _may_be_id(one)}
    held = {name: own.is_in(items.implode()).sum() for name, own in ids.items()}
    key = max(held, key=held.__getitem__, default="")
    if not held.get(key):
        what = f"none of its columns holds ids of the log's items, such as {items.head(3).to_list()}"
        raise InputError(what, where=file, remedy="give a table with one row per item, and ids written as in the log")
    if key in items.cast(pl.String).to_list():
        raise InputError(f"its first row is an item, {key}, not column names", where=file, remedy="add a header row")
    title = _best_match("title", (one for one in frame if one.dtype == pl.String and one.name != key))
    features = {one.name: _feature(one) for one in frame if one.name not in (key, title)}
    return ItemTable(file, key, title, {name: feature for name, feature in features.items() if feature})


def _feature(column: pl.Series) -> str | Feature | None:
    kind, value = column.dtype, quote(column.name)
    if kind.is_numeric() and not {*_words(column.name)} & {*IDS}:
        return value if column.drop_nulls().n_unique() > 1 else None
    if isinstance(kind, pl.List) or kind == pl.Boolean:
        return value
    if kind != pl.String:
        return None
    present = _present(column)
    separator = next((one for one in "|;" if present.str.contains(one, literal=True).any()), None)
    parts = present.str.split(separator).explode() if separator else present
    shared = 1 < parts.n_unique() <= len(present) / 2
    return (Feature(value, separator=separator) if separator else value) if shared else None


def _reward_sql(columns: list[pl.Series], named: bool) -> str | None:
    varied = [column for column in columns if _present(column).n_unique() > 1]
    numeric = [column for column in varied if column.dtype.is_numeric() or column.dtype == pl.Boolean]
    if rating := _best_match("rating", numeric):
        return quote(rating)
    frame = pl.DataFrame(columns)
    chosen, worth = choice(frame), _worth_of_kinds(varied)
    if chosen and not (worth and only_choices_differ(frame, chosen, worth)):
        for column in numeric:
            nonzero = column.filter(column.cast(pl.Float64) != 0)
            if {*_words(column.name)} & {*IDS} or _dated(nonzero):
                continue
            if only_choices_differ(frame, chosen, quote(column.name)):
                return quote(column.name)
    if worth:
        return worth
    signal = _best_match("signal", numeric)
    if signal is None and not named and len(numeric) == 1:
        signal = numeric[0].name
    return quote(signal) if signal else None


def _worth_of_kinds(columns: Iterable[pl.Series]) -> str | None:
    """SQL for the worth of each kind of event; None if no column holds kinds of unequal worth."""
    text = [column for column in columns if column.dtype in (pl.String, pl.Categorical, pl.Enum)]
    for column in sorted(text, key=lambda column: _rank("event", column.name)):
        kinds = _present(column).cast(pl.String).unique().sort()
        worth = {kind: next((WORTH[word] for word in WORTH if word in _words(kind)), 0.0) for kind in kinds}
        if len(kinds) <= MAX_KINDS and len(set(worth.values())) > 1:
            cases = ("WHEN '{}' THEN {:g}".format(kind.replace("'", "''"), value) for kind, value in worth.items())
            return "\n".join([f"CASE {quote(column.name)}", *cases, "END"])
    return None


def choice(frame: pl.DataFrame) -> str | None:
    """Guess ``data.log.chosen``, the condition for a choice in a log of impressions; None if no column looks like it.

    It looks for a column of 1 and 0 named like a click, or event types of which one is an impression.
    """
    for column in frame.select(~cs.nested()):
        kinds, words = set(_present(column).unique().head(MAX_KINDS + 1).to_list()), _words(column.name)
        if kinds == {0, 1} and {*words} & CLICKS:
            return quote(column.name) if column.dtype == pl.Boolean else f"{quote(column.name)} = 1"
        skipped = [kind for kind in kinds if isinstance(kind, str) and {*_words(kind)} & IMPRESSIONS]
        if len(skipped) == 1 and 1 < len(kinds) <= MAX_KINDS:
            return "{} <> '{}'".format(quote(column.name), skipped[0].replace("'", "''"))
    return None


def only_choices_differ(frame: pl.DataFrame, chosen: str, reward: str) -> bool:
    """Whether rewards differ among chosen rows, and the other rows have one reward, or none: they were only shown.

    ``chosen`` and ``reward`` are Polars SQL over the columns of ``frame``.
    """
    try:
        rows = frame.select(pl.sql_expr(chosen).alias("chosen"), pl.sql_expr(reward).alias("reward"))
    except pl.exceptions.PolarsError:  # reported when the log is read
        return False
    counts = {chosen: rewards["reward"].drop_nulls().n_unique() for (chosen,), rewards in rows.group_by("chosen")}
    return counts.get(True, 0) > 1 and counts.get(False, 2) < 2


def request(frame: pl.DataFrame, user: str) -> str | None:
    """Guess ``data.log.request``: a column named like a request, or like its id.

    Each of its values is on rows of one user, on two rows or more in the mean. Rows without a value do not count.
    """
    for column in frame.drop(user).select(~cs.nested()):
        words = {*_words(column.name)}
        if words & REQUESTS and words <= REQUESTS | {*IDS}:
            rows = pl.DataFrame({"request": column, "user": frame[user]}).drop_nulls("request")
            users = rows.group_by("request").agg(pl.col("user").n_unique())["user"]
            if len(users) and (users == 1).all() and 2 * len(users) <= rows.height:
                return quote(column.name)
    return None


def _best_match(role: str, columns: Iterable[pl.Series]) -> str | None:
    ranks = {column.name: _rank(role, column.name) for column in columns}
    return min((name for name in ranks if ranks[name] < math.inf), key=ranks.__getitem__, default=None)


def _rank(role: str, name: str) -> float:
    """Rank of a column's name, 0 the best: the index of the matching word, plus `OTHER_WORD` for each other word.

    Both words of ``created_at`` mean a time, so neither is penalised. Infinity for a name without a matching word.
    """
    words, own = WORDS[role], [word for word in _words(name) if word not in IDS]
    if (whole := "".join(own)) in words:  # user_name
        return words.index(whole)
    places = [words.index(word) for word in own if word in words and not (word in ALONE and len(own) > 1)]
    return min(places, default=math.inf) + OTHER_WORD * (len(own) - (len(places) if role == "timestamp" else 1))


def _words(name: str) -> list[str]:
    """Lower-case words of a name: ``userId`` -> user, id; ``visitorid`` -> visitor."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = [word.lower() for word in re.findall(r"[^\W_]+", spaced)]
    return [word if word in (*IDS, "uid", "iid", "vid", "pid") else word.removesuffix("id") for word in words]


def _may_be_id(column: pl.Series) -> bool:
    if column.dtype.is_float():
        return bool((_present(column) % 1 == 0).all())
    return column.dtype.is_integer() or column.dtype in (pl.String, pl.Categorical, pl.Enum)


def _timestamp_column(columns: list[pl.Series]) -> str | None:
    """The timestamp column: of those with dates (`_dated`) the one with the best name; whole days are penalised.

    If no name matches: a column that is named like a time (training may refuse its values), else any with dates.
    """
    dated = {column.name: found[1] for column in columns if (found := _dated(column))}
    if named := [name for name in dated if _rank("timestamp", name) < math.inf]:
        return min(named, key=lambda name: _rank("timestamp", name) + WHOLE_DAYS * dated[name])
    numeric = [one for one in columns if one.dtype.is_numeric() and _rank("timestamp", one.name) < OTHER_WORD]
    text = [one for one in columns if one.dtype == pl.String]
    return _best_match("timestamp", [*numeric, *text]) or next(iter(dated), None)


def _present(column: pl.Series) -> pl.Series:
    return missing_as_null(column).drop_nulls()
