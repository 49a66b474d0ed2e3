"""A log as Python sees it: a DataFrame or a log's YAML, and the folder that its runs are written to."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from recalign import configs
from recalign.errors import InputError, nearest
from recalign.events import guess
from recalign.files import replacing, write_text

EVENTS = "events.parquet"
TITLES = "titles.parquet"


@dataclass(frozen=True)
class Log:
    """A log, how it is read, and where its runs go.

    Attributes:
        name: names the log in tables.
        yaml: its YAML file, with the ``data`` settings of every stage.
        folder: runs are written to ``<folder>/<stage>/seed-<n>``.
        temporary: keeps a folder that nobody named until this object goes.
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
        time_unit: str | None = None,
        high: str | None = None,
        titles: Any = None,
        folder: str | Path | None = None,
        name: str = "log",
        **data: Any,
    ) -> Log:
        """A log from a DataFrame of Polars or pandas, one row an event.

        Args:
            frame: the events.
            user: column of the user's id, integers or strings.
            item: column of the item's id, integers or strings.
            timestamp: column of the time: numbers since 1970, or datetimes (without a time zone they are UTC).
            reward: how good an event was: a column, or Polars SQL over the columns; None: the log has no reward.
            time_unit: of a numeric time: ``s``, ``ms`` or ``us``; None: what makes the times lie after 1990.
            high: condition for a high reward, in Polars SQL; None: above the 75th percentile of the training rewards.
            titles: DataFrame whose first column is the item's id and whose second is its title.
            folder: where runs are written; None: a temporary folder, gone with this object.
            name: names the log in tables.
            **data: further settings of the data, as a log's YAML has them (``split``, ``max_length``, ...).

        Raises:
            InputError: no DataFrame, a column that it does not have, a null or NaN id, a wrong type of id or time, or a
                folder of another log.
        """
        events = _polars(frame, "frame")
        _require_columns(events, {"user": user, "item": item, "timestamp": timestamp})
        _require_ids(events, {"user": user, "item": item})
        _require_times(events[timestamp])
        unit = time_unit or guess.unit(events[timestamp])
        place, temporary = _folder(folder)
        log: dict[str, Any] = {"name": name, "files": [EVENTS], "user": user, "item": item}
        log |= {"timestamp": timestamp, "time_unit": unit}
        if (place / EVENTS).is_file() and not pl.read_parquet(place / EVENTS).equals(events):
            what = "holds another log, which runs in it rest on"
            raise InputError(what, where=str(place), remedy="name another folder, or delete that one")
        _write(events, place / EVENTS)
        if titles is not None:
            table = _polars(titles, "titles")
            if table.width < 2:
                raise InputError("has no second column", where="titles", remedy="give the item's id, then its title")
            _write(table, place / TITLES)
            log["titles"] = {"file": TITLES, "id": table.columns[0], "title": table.columns[1]}
        settings = {"log": log, "root": str(place.resolve()), "reward": _quoted(reward, events)}
        settings |= {"high": _high(high, reward), "split": {"class_path": "recalign.sequences.TimeSplit"}}
        return cls._of(name, settings | data, place, temporary)

    @classmethod
    def from_config(cls, config: str | Path, *, folder: str | Path | None = None, **data: Any) -> Log:
        """A log from its YAML file.

        Args:
            config: the YAML's path, or the name of a shipped one (``ml-100k``).
            folder: where runs are written; None: a temporary folder, gone with this object.
            **data: settings of the data to change (``root``, ``split``, ...).

        Raises:
            InputError: there is no such file.
        """
        path = configs.find(str(config), "data")
        settings = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("data", {})
        if "log" not in settings:
            raise InputError(
                "is no log's YAML", where=str(path), remedy="name one of `recalign configs`, such as ml-100k"
            )
        place, temporary = _folder(folder)
        return cls._of(settings["log"]["name"], settings | data, place, temporary)

    @classmethod
    def _of(
        cls,
        name: str,
        settings: Mapping[str, Any],
        folder: Path,
        temporary: tempfile.TemporaryDirectory[str] | None,
    ) -> Log:
        settings = {"cache": str((folder / "cache").resolve()), **settings}
        path = folder / "log.yaml"
        write_text(path, yaml.safe_dump({"data": settings}, sort_keys=False, allow_unicode=True))
        return cls(name, path, folder, temporary)


def _folder(given: str | Path | None) -> tuple[Path, tempfile.TemporaryDirectory[str] | None]:
    if given is not None:
        return Path(given), None
    temporary = tempfile.TemporaryDirectory(prefix="recalign-")
    return Path(temporary.name) / "runs", temporary


def _polars(frame: Any, where: str) -> pl.DataFrame:
    """A DataFrame of Polars, from one of Polars or of pandas."""
    if isinstance(frame, pl.DataFrame):
        return frame
    if isinstance(frame, pl.LazyFrame):
        return frame.collect()
    if not hasattr(frame, "iloc"):
        kind = f"{type(frame).__module__}.{type(frame).__qualname__}".removeprefix("builtins.")
        raise InputError(f"{kind} is no DataFrame", where=where, remedy="give a DataFrame of Polars or pandas")
    try:
        return pl.from_pandas(frame)
    except ImportError as error:
        raise InputError(
            str(error), where=where, remedy="pip install pyarrow, or give a DataFrame of Polars"
        ) from error
    except (TypeError, ValueError) as error:  # pyarrow's errors are these: integers beside strings in a column, say
        remedy = "give every column one type: frame[column] = frame[column].astype(str)"
        raise InputError(f"a column cannot be read: {error}", where=where, remedy=remedy) from error


def _require_columns(events: pl.DataFrame, columns: Mapping[str, str]) -> None:
    for argument, column in columns.items():
        if column not in events.columns:
            near = nearest(column, events.columns)
            remedy = f"did you mean {near!r}?" if near else f"it has: {', '.join(events.columns)}"
            raise InputError(f"the DataFrame has no column {column!r}", where=argument, remedy=remedy)
    if events.is_empty():
        raise InputError("the DataFrame has no rows", where="frame", remedy="give one row an event")


def _require_ids(events: pl.DataFrame, columns: Mapping[str, str]) -> None:
    for argument, column in columns.items():
        ids = events[column]
        bad = ids.is_null() | ids.is_nan() if ids.dtype.is_float() else ids.is_null()
        if bad.any():
            raise InputError(
                f"{bad.sum():,} of {len(ids):,} ids are null or NaN, the first in row {bad.arg_max()}",
                where=f"{argument}, column {column!r}",
                remedy="drop those rows, or give them an id",
            )
        if not (ids.dtype.is_integer() or ids.dtype in (pl.String, pl.Categorical, pl.Enum)):
            raise InputError(
                f"ids of type {ids.dtype}",
                where=f"{argument}, column {column!r}",
                remedy="cast them to integers or strings: a float cannot hold every id",
            )


def _require_times(times: pl.Series) -> None:
    if not (times.dtype.is_temporal() or times.dtype.is_numeric() or times.dtype == pl.String):
        raise InputError(f"times of type {times.dtype}", where="timestamp", remedy="give numbers or datetimes")


def _quoted(reward: str | None, events: pl.DataFrame) -> str | None:
    """A column's name as an expression; an expression as it is."""
    if reward in events.columns and not str(reward).isidentifier():
        return '"' + str(reward).replace('"', '""') + '"'
    return reward


def _high(high: str | None, reward: str | None) -> dict[str, Any] | None:
    if reward is None:
        return None
    return {"expression": high} if high else {"expression": None, "quantile": 0.75}


def _write(frame: pl.DataFrame, path: Path) -> None:
    with replacing(path) as temporary:
        frame.write_parquet(temporary)
