"""`recalign init`: describe a table of events in a log's YAML."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.prompt import Prompt
from rich.table import Table

from recalign.errors import InputError, nearest
from recalign.events import files, guess, reading
from recalign.events.draft import draft
from recalign.events.guess import Guess
from recalign.events.log import Log
from recalign.events.table import EventTable, load_events
from recalign.files import write_text

SHOWN = 5
"""Rows that are shown."""

QUESTIONS = {
    "user": "the column of the user's id",
    "item": "the column of the item's id",
    "timestamp": "the column of the time",
    "reward": "how good an event was (a column, or Polars SQL over columns)",
}
"""What each option gives."""


@dataclass(frozen=True)
class Sample:
    """A table whose columns have names, and how to read it.

    Attributes:
        frame: its rows.
        header: whether the file names the columns.
        separator: of a text file whose name does not say that it is one.
    """

    frame: pl.DataFrame
    header: bool
    separator: str | None


def init(words: Sequence[str]) -> Path:
    """Guess what the columns of a table mean, show some rows as they were understood, and write the log's YAML.

    Args:
        words: those after ``recalign init``.

    Returns:
        The YAML.

    Raises:
        InputError: the table cannot be used, or nobody says what cannot be guessed.
    """
    options = _options().parse_args(words)
    path = Path(options.table)
    name = re.sub(r"[^\w.-]+", "-", path.stem).strip("-.") or "events"
    out = Path(options.out or f"{name}.yaml")
    if out.exists() and not options.force:
        raise InputError("there is such a file already", where=str(out), remedy="give --out FILE, or --force")
    sample = _read(path)
    given = Guess(options.user, options.item, options.timestamp, None, options.reward)
    found = _complete(sample, given)
    if not sample.header:
        sample, found = _name_columns(sample, found)
    log, reward = _log(name, path, sample, found), str(found.reward)
    events = load_events(log, path.parent, reward)
    high = guess.high(events.frame["reward"])
    commands = [
        shlex.join(["recalign", "check", str(out)]),
        shlex.join(["recalign", "chain", "own-log", "--log", str(out), "--name", name]),
    ]
    test = _test_events(events)
    _show(log, reward, high, events)
    write_text(out, draft(log, str(path.parent), reward, high, test, commands))
    print("\n".join([f"\n{out} is written: look it over. Next:", *(f"  {command}" for command in commands)]))
    return out


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recalign init", description="Guess what the columns of a table of events mean, and write the log's YAML."
    )
    parser.add_argument(
        "table", help=f"a file of events, a row each: {', '.join(files.TABLES)}, with or without header"
    )
    for role, meaning in QUESTIONS.items():
        parser.add_argument(f"--{role}", help=meaning, metavar="SQL" if role == "reward" else "COLUMN")
    parser.add_argument("--out", help="the YAML to write; default: the table's name, in the current folder")
    parser.add_argument("--force", action="store_true", help="overwrite it")
    return parser


def _read(path: Path) -> Sample:
    """Read a table by the rules of training, and give its columns names if it has no header row."""
    sources = files.find(path.parent, path.name)
    if not sources:
        near = nearest(path.name, [one.name for one in path.parent.glob("*")])
        remedy = f"did you mean {path.parent / near}?" if near else "give the path of a table of events"
        raise InputError("there is no such file", where=str(path), remedy=remedy)
    source = sources[0]
    known = source.name.endswith(files.TABLES) or source.name in reading.MOVIELENS
    separator = None if known else reading.find_separator(source)
    frame = reading.read(source, (), None, separator)
    header = not reading.has_header(source, None) or not reading.looks_like_data(frame.columns)
    if not header:
        names = [f"column_{number}" for number in range(1, frame.width + 1)]
        frame = reading.read(source, (), names, separator)
    if frame.width < 3:
        raise InputError(
            f"{frame.width} columns, and an event has a user, an item and a time: {', '.join(frame.columns)}",
            where=str(path),
            remedy="give a table with a row per event, its fields separated by a comma, tab, ; | or ::",
        )
    if not frame.height:
        raise InputError("the table has no rows", where=str(path), remedy="give a table with events")
    return Sample(frame, header, separator)


def _complete(sample: Sample, given: Guess) -> Guess:
    """Guess, and ask for what cannot be guessed.

    Raises:
        InputError: a column does not exist, or nobody is there to be asked.
    """
    columns = sample.frame.columns
    while True:
        for role in ("user", "item", "timestamp"):
            if (name := getattr(given, role)) is not None and name not in columns:
                near = nearest(name, columns)
                remedy = f"did you mean {near}?" if near else f"there are: {', '.join(columns)}"
                raise InputError(f"there is no column {name!r}", where=f"--{role}", remedy=remedy)
        found = guess.guess(sample.frame, given, sample.header)
        if not found.unknown:
            return found
        role = found.unknown[0]
        if not sys.stdin.isatty():
            raise InputError(
                f"cannot tell {QUESTIONS[role]} among: {', '.join(columns)}",
                where=role,
                remedy=f"give {', '.join(f'--{one}' for one in found.unknown)}",
            )
        choices = None if role == "reward" else columns
        given = replace(found, time_unit=None, **{role: Prompt.ask(f"Give {QUESTIONS[role]}", choices=choices)})


def _name_columns(sample: Sample, found: Guess) -> tuple[Sample, Guess]:
    """Name the columns of a table without a header row by what they mean; the others stay ``column_5``."""
    names = {found.user: "user", found.item: "item", found.timestamp: "timestamp"}
    reward = str(found.reward)
    feedback = set(re.findall(r"\bcolumn_\d+\b", reward)) - set(names)
    if len(feedback) == 1:
        names[feedback.pop()] = "event" if reward.startswith("CASE") else "rating"
    reward = re.sub(r"\bcolumn_\d+\b", lambda column: names.get(column[0], column[0]), reward)
    frame = sample.frame.rename({str(column): name for column, name in names.items()})
    return replace(sample, frame=frame), Guess("user", "item", "timestamp", found.time_unit, reward)


def _log(name: str, path: Path, sample: Sample, found: Guess) -> Log:
    user, item, timestamp = str(found.user), str(found.item), str(found.timestamp)
    return Log(
        name,
        [path.name],
        header=None if sample.header else sample.frame.columns,
        separator=sample.separator,
        user=user,
        item=item,
        timestamp=timestamp,
        time_unit=found.time_unit or "s",
        where=guess.where(sample.frame, (user, item, timestamp)),
    )


def _test_events(events: EventTable) -> int:
    """Events of a user to test on: a tenth of what the median user has, from 1 to 10."""
    median = int(events.frame.group_by("user").len()["len"].quantile(0.5, "nearest") or 0)
    return min(10, max(1, median // 10))


def _show(log: Log, reward: str, high: str | None, events: EventTable) -> None:
    """Print some rows as they were understood, and what there is."""
    frame = events.frame
    condition = pl.sql_expr(high) if high else pl.col("reward") > pl.col("reward").quantile(0.75, "linear")
    rows = frame.with_columns(condition.fill_null(False).alias("high")).sort("row")
    table = Table(title=f"The first events of {', '.join(log.files)}, as they were understood", title_justify="left")
    for heading in (f"user: {log.user}", f"item: {log.item}", f"time (UTC): {log.timestamp}", "reward", "high"):
        table.add_column(heading)
    for user, item, moment, value, good in rows.select("user", "item", "timestamp", "reward", "high").head(5).rows():
        shown = "none" if value is None else f"{value:g}"
        time = f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S}"
        table.add_row(str(events.users[user]), str(events.items[item]), time, shown, "yes" if good else "no")
    Console().print(table)
    print(f"{frame.height:,} events of {len(events.users):,} users and {len(events.items):,} items")
    print(f"reward: {' '.join(reward.split())}")
    share = rows["high"].sum() / rows.height
    print(f"high: {high or 'the best quarter of the rewards'} ({share:.0%} of the events)")
    for note in events.report.notes:
        print(f"{note.count:,} rows {note.reason}: {note.rows}")
