"""Settings of a log: its files and what their columns mean."""

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from recalign.errors import SECRET_URL, SECRETS, InputError, require_positive

TimeUnit = Literal["s", "ms", "us", "datetime"]
FeatureKind = Literal["category", "number", "vector"]

SIMULATED = "simulated"
"""The folder of a log from `recalign simulate`, and the log's name if every row is a choice."""
SIMULATED_SHOWN = "simulated-shown"
"""The name of a simulated log with impressions."""
WORLDS = (SIMULATED, SIMULATED_SHOWN)

PREPARED = ("user", "item", "timestamp", "row")
"""Columns of the event table whose values recalign replaces: ids by indices, times by seconds."""

OWN_COLUMNS = (*PREPARED, "reward")
"""The event table's own columns. Expressions can read raw columns of these names, but the table does not keep them."""

HOW_READ = ("storage_options", "uri")
"""Settings of a `LogMapping` for the connection. They may hold secrets, and enter no fingerprint."""


@dataclass(frozen=True)
class Feature:
    """A feature of items, and how to read it from the item table (a value of ``data.log.items.features``).

    Attributes:
        value: Polars SQL over the columns of the item table.
        kind: ``category``: one or several (a list, or text with a ``separator``); ``number``; ``vector``: a list of
            numbers, of one length in all rows. Null: by type: numbers, lists of floats as vectors, else categories.
        separator: text between categories that are written as one text, such as ``|``.
        bins: a number becomes one of so many categories, with about as many items each; null: it is standardised.
    """

    value: str
    kind: FeatureKind | None = None
    separator: str | None = None
    bins: int | None = 20

    def __post_init__(self) -> None:
        require_positive("data.log.items.features", {"bins": self.bins}, "bins")


@dataclass(frozen=True)
class ItemTable:
    """A table of the items (``data.log.items``).

    Attributes:
        file: found and read like the log's files.
        id: column of the item's id, as in the log.
        title: column of the title; null: items are shown by their ids.
        features: what policies learn of items, by name: Polars SQL over the table's columns, or a `Feature`. With
            features, cold items (nobody chose them in training) are recommended too.
    """

    file: str
    id: str = "item"
    title: str | None = "title"
    features: dict[str, str | Feature] = field(default_factory=dict)


@dataclass
class LogMapping:
    """The files of a raw log and what their columns mean (``data.log`` in ``conf/logs/*.yaml``).

    Expressions are Polars SQL over the columns of the files (`recalign.data.events.evaluate`). The report counts the
    rows that are left out.

    Attributes:
        name: names run folders and tables.
        files: files under the data root, or URLs (s3, gs, az, hf, https), in order; wildcards allowed. All are text in
            UTF-8 (``.csv``, ``.tsv``; also ``.csv.gz``), or none is (``.parquet``, ``.ndjson``, ``.arrow``). A folder
            is a table of Delta Lake or Iceberg, or all Parquet files in it; ``day=1`` in a path is a column.
        storage_options: Polars' ``storage_options`` for an object store. A secret must name an environment variable,
            ``${oc.env:NAME}`` or ``NAME``; null: Polars reads ``AWS_...``, ``GOOGLE_...`` and so on.
        query: SQL that selects the rows from a database, in place of ``files``. It runs once per process.
        uri: the environment variable that holds the database's URI, ``${oc.env:NAME}`` or ``NAME``.
        header: names of all columns, in order, of text files without a header row; null: the first row is the header.
        separator: of text files, one byte; null: found from the first row (comma, tab, ``;`` or ``|``).
        user: column of the user's id: integers or strings.
        item: column of the item's id: integers or strings.
        timestamp: column of the event's time; null: there is none; events are in the order of rows, and only reward
            models can be trained.
        time_unit: of ``timestamp``: seconds, milliseconds or microseconds since 1970, or datetimes (ISO 8601 in text
            files; UTC if they have no offset).
        time_format: strftime format of times in text files that are not ISO 8601: ``%d/%m/%Y %H:%M`` (chrono's
            notation). ``time_unit`` is then ignored.
        time_resolution: seconds to which timestamps are floored, after sorting.
        columns: feedback columns to add, by name: expressions over the raw columns.
        where: condition for a row to be used.
        drop_repeats: of rows that are equal in every column keep the first.
        collapse: keep one event per user and item: the one with the highest reward, on ties the first.
        is_random: condition, such as a column of 1 and 0: the item was shown at random.
        propensity: expression: the probability with which the item was shown; null if unknown.
        chosen: condition: the user chose the row's item (``is_click = 1``). Other rows were skipped: shown and not
            chosen. They are in no history and no targets of cloning or ranking; reward models, judges and methods
            that learn from impressions read them. Rows for which it is null are left out. Null: every row is a choice.
        request: expression: id of the request that showed the row; null: rows of one user at one time are one.
        passed_reward: reward of skipped rows that have none; null: they stay without.
        items: the table of the items: titles and features; null: items are shown by their ids.
        truth: the file of true rewards under the data root, of simulated logs only.
    """

    name: str
    files: list[str] = field(default_factory=list)
    header: list[str] | None = None
    separator: str | None = None
    user: str = "user"
    item: str = "item"
    timestamp: str | None = "timestamp"
    time_unit: TimeUnit = "s"
    time_format: str | None = None
    time_resolution: int = 1
    columns: dict[str, str] = field(default_factory=dict)
    where: str | None = None
    drop_repeats: bool = False
    collapse: bool = False
    is_random: str | None = None
    propensity: str | None = None
    chosen: str | None = None
    request: str | None = None
    passed_reward: float | None = None
    items: ItemTable | None = None
    truth: str | None = None
    storage_options: dict[str, str] | None = None
    query: str | None = None
    uri: str | None = None

    def __post_init__(self) -> None:
        self.uri = self.uri and variable(self.uri, "data.log.uri")
        for url in (*self.files, *([self.items.file] if self.items else ())):
            refuse_secret(url, "data.log")
        for name, value in (self.storage_options or {}).items():
            if is_secret(name, value):
                named = variable(value, f"data.log.storage_options.{name}")
                self.storage_options = {**(self.storage_options or {}), name: named}
        require_positive("data.log", vars(self), "time_resolution")
        mapped, own = [self.user, self.item, self.timestamp], {*self.columns} & {*OWN_COLUMNS}
        for bad, key, what, remedy in (
            (not (self.files or self.query), ".files", "no file is named", "name the files of the log"),
            (self.files and self.query, ".query", "both files and a query are set", "leave out one of them"),
            (bool(self.query) != bool(self.uri), ".uri", "only one of query and uri is set", "set both, or neither"),
            (len({*mapped}) < 3, "", f"user, item and timestamp are {mapped}", "map each to a column of its own"),
            (self.request and not self.chosen, ".request", "request is set, but chosen is not", "set data.log.chosen"),
            (not abs(self.passed_reward or 0) < 1e38, ".passed_reward", "is NaN or too large", "give a number or null"),
            ("%Z" in (self.time_format or ""), ".time_format", "names of zones (%Z) are not read", "use %z, for +0100"),
            (own, ".columns", f"{own} are reserved for recalign's own columns", "choose other names"),
        ):
            if bad:
                raise InputError(what, where=f"data.log{key}", remedy=remedy)


def refuse_secret(url: str, key: str) -> None:
    """Refuse a URL that holds a password or a signature. The InputError does not repeat it."""
    asks = re.search(r"^https?://([^/]*@|.*[?#])", url, re.IGNORECASE)  # servers get no query string of https://
    if "://" in url and (asks or SECRET_URL.search("".join(url.split()))):
        what = "a URL may hold a secret (USER:PASSWORD@, or the part after ?), and settings must not contain secrets"
        remedy = "name its environment variable in data.log.storage_options, or copy the file to this machine"
        raise InputError(what, where=key, remedy=remedy)


def is_secret(name: str, value: str) -> bool:
    """Whether a storage option is a secret, by its name or value."""
    return any(word in name.lower() for word in SECRETS) or "@" in value or bool(SECRET_URL.search(value))


def without_secrets(text: str, options: Mapping[str, str]) -> str:
    """Replace secrets among storage options, a URI, and quoted parts of passwords in a text by ``***``."""
    secrets = [value for name, value in options.items() if value and (name == "uri" or is_secret(name, value))]
    for value in secrets:
        text = text.replace(value, "***")
    passwords = "\n".join(one for one in secrets if "://" not in one)  # a driver may quote a part
    return re.sub(r'(?<=")[^"]+(?=")', lambda part: "***" if part[0] in passwords else part[0], text)


def require_named(log: Mapping[str, Any], names: Collection[str]) -> None:
    """Refuse settings with a written-out secret of a store or database, even if some variable holds it.

    Args:
        log: ``data.log``, with ``${oc.env:NAME}`` resolved.
        names: environment variables that the settings name in this way.
    """
    options = (log.get("storage_options") or {}).items()
    secrets = {f"storage_options.{name}": value for name, value in options if is_secret(name, value)}
    for key, value in (secrets | {"uri": log.get("uri")}).items():
        if value:
            variable(value, f"data.log.{key}", names)


def variable(text: str, key: str, names: Collection[str] | None = None) -> str:
    """The name of the environment variable that a setting names, or that holds the setting's value.

    ``names``: variables that may hold the value; None: all.

    Raises:
        InputError: there is none, so the setting may be a written-out secret. The message does not repeat it.
    """
    name = text.removeprefix("${oc.env:").removesuffix("}")
    held = os.environ if names is None else {one: os.environ.get(one) for one in names}
    found = [name] if name in os.environ else sorted(one for one, value in held.items() if text and value == text)
    if not found:
        what = "this is not the name of an environment variable that is set, and settings must not contain secrets"
        raise InputError(what, where=key, remedy="export it as a variable, and give its name: '${oc.env:NAME}' or NAME")
    return found[0]


def data_root(root: str | None) -> Path:
    """The folder of raw logs: ``--data.root``, else ``RECALIGN_DATA``, else ``data``."""
    return Path(root or os.environ.get("RECALIGN_DATA") or "data").expanduser()
