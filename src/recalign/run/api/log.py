"""A log in Python: from a DataFrame or a YAML file, with the folder for its runs."""

from __future__ import annotations

import re
import reprlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import UnionType
from typing import Any, get_args

import polars as pl

from recalign.data.events import guess
from recalign.data.events.division import collapse_and_divide
from recalign.data.events.expression import condition
from recalign.data.events.fields import missing_as_null, read_ids, read_timestamps
from recalign.data.events.log import TimeUnit
from recalign.data.events.messages import SourceRows, did_you_mean
from recalign.data.events.rows import read_numbers
from recalign.data.events.yaml_text import yaml_text
from recalign.errors import InputError
from recalign.files import write_parquet, write_text
from recalign.run import configs
from recalign.run.stage.settings import load
from recalign.run.words import to_builtin

EVENTS = "events.parquet"
ITEMS = "items.parquet"


@dataclass(frozen=True)
class Log:
    """A log, its settings, and the folder of its runs.

    Attributes:
        name: name of the log in tables.
        yaml: its YAML file, with the ``data`` settings of every stage.
        folder: runs are written to ``<folder>/<stage>/seed-<n>``.
        temporary: handle of the temporary folder, deleted with this object; None if `folder` was given.
    """

    name: str
    yaml: Path
    folder: Path
    temporary: tempfile.TemporaryDirectory[str] | None = None

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        *,
        user: str,
        item: str,
        timestamp: str,
        reward: str | None = None,
        time_unit: TimeUnit | None = None,
        high: str | None = None,
        collapse: bool | None = None,
        chosen: str | None = None,
        request: str | None = None,
        passed_reward: float | None = None,
        items: Any = None,
        title: str | None = None,
        features: Mapping[str, Any] | None = None,
        folder: str | Path | None = None,
        name: str = "log",
        **data: Any,
    ) -> Log:
        """Make a log from a Polars or pandas DataFrame with one row per event.

        Args:
            frame: the events.
            user: column of the user's id, integers or strings.
            item: column of the item's id, integers or strings.
            timestamp: column of the time: numbers since 1970, or datetimes (UTC if they have no time zone).
            reward: how good an event was: a column, or Polars SQL over the columns; None: the log has no reward.
            time_unit: unit of a numeric time: ``s``, ``ms`` or ``us``; None: the one for which times lie after 1990.
            high: condition for a high reward, in Polars SQL; None: chosen from the rewards, as by `recalign init`; with
                ``relative_to`` the best quarter.
            collapse: whether a user's events on an item become one, that with the highest reward; None: as by `recalign
                init`, where ``reward`` is a CASE and a user's events on one item have several rewards.
            chosen: whether the user chose the shown item, a column of 1 and 0 or a condition; other rows were
                skipped. None: every row is a choice.
            request: id of the request that showed the item, a column or an expression; None: a user's rows of one time.
            passed_reward: reward of skipped rows that have none.
            items: DataFrame with a row per item; its id column is named as in `frame`, else it is the first.
            title: its column of titles; None: items are shown by their ids.
            features: item features for policies, by name: a column of ``items``, Polars SQL over its columns, or the
                settings of a feature (``{"value": "genres", "separator": "|"}``, `recalign.data.events.Feature`).
            folder: where runs are written; None: a temporary folder, deleted with this object.
            name: name of the log in tables.
            **data: further ``data`` settings, as in a log's YAML (``split``, ``max_length``, ...). Without ``split``
                the last events of each user are validation and test, as many as `recalign init` chooses.
        """
        events, shown = _polars(frame, "frame"), {"chosen": chosen, "request": request}
        named = {"user": user, "item": item, "timestamp": timestamp}
        for where, text in {**named, **shown, "reward": reward, "high": high}.items():
            require_kind(text, str if where in named else str | None, where, "name a column, or give Polars SQL")
        features = {} if features is None else features
        require_kind(features, Mapping, "features", 'give a dictionary, such as {"genre": "genre"}')
        _require_columns(events, "frame", named)
        if time_unit not in (None, *get_args(TimeUnit)):
            raise InputError(f"cannot be {time_unit!r}", where="time_unit", remedy="give s, ms, us or datetime")
        unit = time_unit or guess.unit(events[timestamp].alias("timestamp"))
        expression = guess.quote(reward) if reward in events.columns else reward
        rows = SourceRows(pl.int_range(1, len(events) + 1, eager=True))
        columns = {"user": events[user], "item": events[item]}  # names may look like Polars patterns
        try:
            known = {key: read_ids(missing_as_null(ids.alias(key)), key, rows) for key, ids in columns.items()}
            read_timestamps(missing_as_null(events[timestamp].alias("timestamp")), unit, rows)
        except InputError as error:
            where = str(error.where).removeprefix("data.log.")
            raise InputError(error.what, where=where, remedy=_without_yaml(str(error.remedy))) from error
        known["reward"] = read_numbers(events, rows, expression, "data.reward")
        sql = {key: guess.quote(one) if one in events.columns else one for key, one in shown.items()}
        taken = pl.DataFrame(known)
        if chosen is not None:
            taken = taken.filter(condition(events, str(sql["chosen"]), "data.log.chosen", rows))
        collapse, division = collapse_and_divide(taken, expression, collapse)
        log: dict[str, Any] = {"name": name, "files": [EVENTS], "user": user, "item": item}
        log |= {"timestamp": timestamp, "time_unit": unit, "collapse": collapse}
        if chosen is not None or request is not None:
            log |= {**sql, "passed_reward": passed_reward}
        tables = {EVENTS: events}
        if items is not None:
            tables[ITEMS] = table = _polars(items, "items")
            _require_columns(table, "items", {"title": title} if title else {})
            made = {name: guess.quote(one) if one in table.columns else one for name, one in features.items()}
            key = item if item in table.columns else table.columns[0]
            log["items"] = {"file": ITEMS, "id": key, "title": title, "features": made}
        elif title or features or "titles" in data:
            what, remedy = "titles and features need a table of items", "give items=DataFrame, title='its column'"
            raise InputError(what, where="items", remedy=remedy)
        settings = {"log": log, "reward": expression, **division.settings}
        if high or reward is None or data.get("relative_to"):  # relative rewards are ranks from 0 to 1
            settings["high"] = {"expression": high, "quantile": None if high else 0.75} if high or reward else None
        return cls._create(name, settings | data, folder, tables)

    @classmethod
    def from_config(cls, config: str | Path, *, folder: str | Path | None = None, **data: Any) -> Log:
        """Make a log from its YAML file.

        Args:
            config: the YAML's path, or the name of a shipped one (``ml-100k``).
            folder: where runs are written; None: a temporary folder, deleted with this object.
            **data: ``data`` settings to change (``root``, ``split``, ...).
        """
        path = configs.find(str(config), "logs")
        settings: Any = load(path).get("data")
        if not isinstance(settings, dict) or "name" not in (settings.get("log") or ()):
            remedy = "name one of `recalign configs`, such as ml-100k"
            raise InputError("is not the YAML of a log", where=str(path), remedy=remedy)
        if isinstance(root := settings.get("root"), str) and "${" not in root:
            settings["root"] = path.parent / Path(root).expanduser()  # relative to the YAML, as for the command
        return cls._create(settings["log"]["name"], settings | data, folder, {})

    @classmethod
    def _create(
        cls, name: str, settings: Mapping[str, Any], folder: str | Path | None, tables: Mapping[str, pl.DataFrame]
    ) -> Log:
        temporary = tempfile.TemporaryDirectory(prefix="recalign-") if folder is None else None
        place = Path(temporary.name) / "runs" if temporary else Path(str(folder)).expanduser().absolute()
        for file, table in tables.items():
            if (path := place / file).is_file() and not pl.read_parquet(path, glob=False).equals(table):
                remedy = "name another folder, or delete that one"
                raise InputError(
                    f"holds a different {file}, on which its runs were trained", where=str(place), remedy=remedy
                )
            write_parquet(table, path)
        root = settings.get("root") or (place if tables else None)
        named = root and "${" not in str(root)
        own = {"root": Path(str(root)).expanduser().resolve()} if named else {}  # relative to the current folder
        text = yaml_text({"data": to_builtin({"cache": (place / "cache").resolve(), **settings, **own})})
        # another Log's YAML in this folder stays as it is
        names = ("log" + f"-{number}" * (number > 1) + ".yaml" for number in count(1))
        path = next(one for name in names if not (one := place / name).is_file() or one.read_text("utf-8") == text)
        write_text(path, text)
        return cls(name, path, place, temporary)


def require_kind(value: Any, kind: type | UnionType, where: str, remedy: str) -> None:
    """Refuse an argument of another type."""
    if not isinstance(value, kind):
        raise InputError(f"cannot be {reprlib.repr(value)}", where=where, remedy=remedy)


def _without_yaml(remedy: str) -> str:
    """A remedy without what only a log's YAML can say."""
    return re.split(r": data\.log\.where|\. How text is read|, or say how times", remedy)[0].replace("data.log.", "")


def _polars(frame: Any, where: str) -> pl.DataFrame:
    if isinstance(frame, pl.DataFrame | pl.LazyFrame):
        return frame.lazy().collect()
    try:
        return pl.from_pandas(frame)
    except (ImportError, NotImplementedError, TypeError, ValueError) as error:  # mixed types in a column, say
        remedy = "give a DataFrame of Polars or pandas, each column with a name of its own and one type"
        raise InputError(f"cannot be read: {error}", where=where, remedy=remedy) from error


def _require_columns(table: pl.DataFrame, where: str, columns: Mapping[str, str]) -> None:
    for argument, column in columns.items():
        if column not in table.columns:
            remedy = did_you_mean(str(column), table.columns)
            raise InputError(f"the DataFrame has no column {column!r}", where=argument, remedy=remedy)
    if table.is_empty():
        raise InputError("the DataFrame has no rows", where=where, remedy="give one row per event, or per item")
