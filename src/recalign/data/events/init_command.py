"""`recalign init`: describe a table of events in a log's YAML."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path, PurePath
from typing import Any

import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.prompt import Prompt
from rich.table import Table

from recalign.data.events import files, guess, reading
from recalign.data.events.division import Division, collapse_and_divide
from recalign.data.events.fields import MISSING
from recalign.data.events.init_items import describe_items, items_text, yaml_scalar
from recalign.data.events.log import LogMapping
from recalign.data.events.messages import did_you_mean
from recalign.data.events.table import EventTable, load_events
from recalign.data.events.tree import plain_name
from recalign.errors import InputError, printable
from recalign.files import write_text

COLUMNS = {
    "user": "the column of the user's id",
    "item": "the column of the item's id",
    "timestamp": "the column of the time",
}
QUESTIONS = COLUMNS | {"reward": "how good an event was (a column, or Polars SQL over columns)"}
"""What each option means."""

SHORTEST = 3
"""Letters that the common beginning of several files' names needs, to name their log."""

UNITS = {"s": "seconds since 1970", "ms": "milliseconds since 1970", "us": "microseconds since 1970"}


def init(words: Sequence[str]) -> None:
    """Guess what the columns of a table mean, show the first events, choose a split, and write the log's YAML.

    Raises:
        InputError: the table cannot be used, or something cannot be guessed and there is no terminal to ask on.
    """
    options = _parsed(words)
    root, entries, sources = _find(options.table)
    name = _name(root, sources)
    out = Path(options.out or f"{name}.yaml")
    if out.exists() and not options.force:
        raise InputError("the file exists already", where=str(out), remedy="give --out FILE, or --force")
    frame, named, separator = _read(sources)
    given = {role: plain_name(value) for role in QUESTIONS if (value := getattr(options, role)) is not None}
    meaning = _guess_or_ask(frame, named, given)
    unit = guess.unit(frame[meaning["timestamp"]])
    if not named:
        frame, meaning = _name_columns(frame, meaning)
    reward = meaning.pop("reward")
    log = LogMapping(
        name,
        entries,
        header=None if named else frame.columns,
        separator=separator,
        time_unit="datetime" if options.time_format else unit,
        time_format=options.time_format,
        where=guess.missing_condition(frame, meaning.values()),
        **meaning,  # type: ignore[arg-type]
    )
    events = load_events(log, root, reward)
    collapse, division = collapse_and_divide(events.frame, reward)
    if collapse:
        log = replace(log, collapse=True)
        events = load_events(log, root, reward)
    items = describe_items(options.items, root, events.items, log.item) if options.items else None
    _print_events(log, reward, division, events)
    commands = [
        shlex.join(["recalign", "check", str(out)]),
        shlex.join(["recalign", "chain", "own-log", "--log", str(out), "--name", name]),
    ]
    write_text(out, _yaml_text(log, root, reward, division, commands, items))
    following = commands[:1] if division.cannot else commands
    print(f"\n{printable(str(out))} is written: look it over. Next:", *following, sep="\n  ")


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    """The options.

    Raises:
        InputError: one that does not exist.
    """
    options, left = _options().parse_known_args(words)
    if left:
        known = [f"--{name.replace('_', '-')}" for name in vars(options) if name != "table"]
        raise InputError("there is no such option", where=left[0], remedy=did_you_mean(left[0], known))
    return options


def _options() -> argparse.ArgumentParser:
    summary = "Guess what the columns of a table of events mean, and write the log's YAML."
    parser = argparse.ArgumentParser(prog="recalign init", description=summary, allow_abbrev=False)
    parser.add_argument(
        "table",
        nargs="+",
        help="files of events, a row each, or a pattern such as 'events-*.csv': .csv, .tsv, .parquet, with or "
        "without header",
    )
    for role, meaning in QUESTIONS.items():
        parser.add_argument(f"--{role}", help=meaning, metavar="SQL" if role == "reward" else "COLUMN")
    parser.add_argument("--items", help="a table of the items, for titles and features", metavar="FILE")
    parser.add_argument("--time-format", help="how times are written, where that is not ISO 8601: %%d/%%m/%%Y %%H:%%M")
    parser.add_argument("--out", help="the YAML to write; default: the table's name, in the current folder")
    parser.add_argument("--force", action="store_true", help="overwrite it")
    return parser


def _find(tables: Sequence[str]) -> tuple[Path, list[str], list[str]]:
    """Find the files of a table.

    Args:
        tables: files, or patterns.

    Returns:
        The folder of all of them, what to write into ``data.log.files``, and the files.

    Raises:
        InputError: there is no such file.
    """
    if "" in tables:
        raise InputError("an empty name is no file", where="FILE", remedy="name a table of events")
    folders = [Path(table).parent for table in tables]
    folders = [next(one for one in (folder, *folder.parents) if not set("*?[") & set(str(one))) for folder in folders]
    root = folders[0] if len(set(folders)) == 1 else Path(os.path.commonpath([one.absolute() for one in folders]))
    entries = [os.path.relpath(table, root) for table in tables]
    found = [files.find(root, entry) for entry in entries]
    for table, sources in zip(tables, found, strict=True):
        if not sources:
            path = Path(table)
            remedy = did_you_mean(path.name, [one.name for one in path.parent.glob("*")])
            raise InputError("there is no such file", where=table, remedy=remedy)
    return root, entries, [source for sources in found for source in sources]


def _name(root: Path, sources: Sequence[str]) -> str:
    """Name a log: as its file, as what its files' names begin with, or, where that says too little, as their folder."""
    stems = [PurePath(source.removesuffix(".gz")).stem for source in sources]
    shared = takewhile(lambda letters: len(set(letters)) == 1, zip(*stems, strict=False))
    common = re.sub(r"\d+$", "", "".join(letters[0] for letters in shared)).strip("-._")  # not a part of a number
    name = stems[0] if len(stems) == 1 else common if len(common) >= SHORTEST else root.resolve().name
    return re.sub(r"[^\w.-]+", "-", name).strip("-._") or "events"


def _read(sources: Sequence[str]) -> tuple[pl.DataFrame, bool, str | None]:
    """Read the files of a table as training would.

    Returns:
        The table; whether it has a header row (without one, columns are named ``column_1``, ``column_2``, ...); and the
        separator, or None if the file name implies it.
    """
    first, where = sources[0], ", ".join(sources)
    separator = None
    frames = [reading.read(source, (), None, separator) for source in sources]
    named = not files.is_text(first) or not reading.looks_like_data(frames[0].columns) or _is_named(frames[0])
    if not named:
        names = [f"column_{number}" for number in range(1, frames[0].width + 1)]
        frames = [reading.read(source, (), names, separator) for source in sources]
    frame = pl.concat(frames, how="diagonal_relaxed")
    if frame.width < 3:
        text = f"{frame.width} columns, and an event has a user, an item and a time: {', '.join(frame.columns)}"
        remedy = "give a table with a row per event, its fields separated by a comma, tab, ; or |"
        raise InputError(text, where=where, remedy=remedy)
    if not frame.height:
        raise InputError("the table has no rows", where=where, remedy="give a table with events")
    return frame, named, separator


def _is_named(frame: pl.DataFrame) -> bool:
    """Whether a first row that holds a number is a header all the same: a column of numbers has a word above it."""
    names = (re.sub(r"_duplicated_\d+$", "", one.name) for one in frame if one.dtype.is_numeric())
    return any(map(_is_word, names))


def _is_word(name: str) -> bool:
    """Whether a name is neither a number (1e-05, inf), nor a date, nor what stands for a missing value."""
    try:
        float(name)
    except ValueError:
        other = name in (*guess.MISSING, *MISSING) or reading.looks_like_data([name])
        return not other and bool(re.search(r"[^\W\d_]", name))
    return False


def _guess_or_ask(frame: pl.DataFrame, named: bool, given: dict[str, str]) -> dict[str, str]:
    """Guess user, item, timestamp and reward. Ask for what cannot be guessed.

    Raises:
        InputError: a column does not exist, or there is no terminal to ask on.
    """
    for role in COLUMNS:
        if role in given and given[role] not in frame.columns:
            remedy = did_you_mean(given[role], frame.columns)
            raise InputError(f"there is no column {given[role]!r}", where=f"--{role}", remedy=remedy)
    reward = given.get("reward")
    if reward == "null":
        remedy = "name what tells good events from bad ones, or leave --reward out to have it guessed"
        raise InputError("null is not a reward", where="--reward", remedy=remedy)
    while True:
        if (reward := given.get("reward")) in frame.columns:
            given = given | {"reward": guess.quote(str(reward))}
        found = guess.guess(frame, given, named)
        unknown = [role for role in QUESTIONS if role not in found]
        if not unknown:
            return found
        role = unknown[0]
        if not sys.stdin.isatty():
            remedy = f"give {', '.join(f'--{one}' for one in unknown)}"
            if role == "timestamp":
                remedy += (
                    "; a log without times (timestamp: null, see `recalign configs own-log`) trains reward models only"
                )
            what = f"cannot tell {QUESTIONS[role]} among: {', '.join(frame.columns)}"
            raise InputError(what, where=role, remedy=remedy)
        choices = frame.columns if role in COLUMNS else None
        given = found | {role: Prompt.ask(f"Give {QUESTIONS[role]}", choices=choices)}


def _name_columns(frame: pl.DataFrame, meaning: dict[str, str]) -> tuple[pl.DataFrame, dict[str, str]]:
    """Rename the columns of a table without a header row to their roles. Other columns stay ``column_5``."""
    names = {meaning[role]: role for role in COLUMNS}
    reward = meaning["reward"]
    feedback = set(re.findall(r"\bcolumn_\d+\b", reward)) - set(names)
    if len(feedback) == 1:
        names[feedback.pop()] = "event" if reward.startswith("CASE") else "rating"
    reward = re.sub(r"\bcolumn_\d+\b", lambda column: names.get(column[0], column[0]), reward)
    return frame.rename(names), {role: role for role in COLUMNS} | {"reward": reward}


def _print_events(log: LogMapping, reward: str, division: Division, events: EventTable) -> None:
    """Print the first events, and a summary of the log and its split."""
    frame, high = events.frame, division.high
    condition = pl.sql_expr(high) if high else pl.col("reward") > pl.col("reward").quantile(0.75, "linear")
    rows = frame.with_columns(condition.fill_null(False).alias("high")).sort("row")
    title = f"The first events of {escape(printable(', '.join(log.files)))}, as they were understood"
    table = Table(title=title, title_justify="left")
    for heading in (f"user: {log.user}", f"item: {log.item}", f"time (UTC): {log.timestamp}", "reward", "high"):
        table.add_column(escape(printable(heading)))
    for user, item, moment, value, good in rows.select("user", "item", "timestamp", "reward", "high").head(5).rows():
        shown = "none" if value is None else f"{value:g}"
        time = f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S}"
        who, what = (escape(printable(str(one))) for one in (events.users[user], events.items[item]))
        table.add_row(who, what, time, shown, "yes" if good else "no")
    Console().print(table)
    print(f"{frame.height:,} events of {len(events.users):,} users and {len(events.items):,} items")
    print(printable(f"reward: {' '.join(reward.split())}"))
    share = rows["high"].sum() / rows.height
    print(f"high: {high or 'the best quarter of the rewards'} ({share:.0%} of the events)")
    if share > guess.MOST_HIGH:
        print(f"that is more than {guess.MOST_HIGH:.0%}: the best grade alone holds as many, so high/* says less")
    print(division)
    for note in events.report.notes:
        print(note)


def _yaml_text(
    log: LogMapping, root: Path, reward: str, division: Division, commands: list[str], items: dict[str, Any] | None
) -> str:
    """Write a log as commented YAML."""
    high, split = division.settings["high"], division.settings["split"]
    comments = {
        "name": "names run folders and tables",
        "files": "read in order; patterns such as events-*.parquet are allowed",
        "header": "names of the columns: the file has no header row",
        "separator": "between fields",
        "user": "the column that says who",
        "item": "the column that says what",
        "timestamp": "the column that says when",
        "time_unit": f"of that column: {UNITS.get(log.time_unit, 'ISO 8601; UTC where it has no offset')}",
        "time_format": "how that column is written",
        "where": "other rows are left out and counted",
        "collapse": "a user's events on an item become one, that with the highest reward; false: all are kept",
    }
    shown = {key: (value, comment) for key, comment in comments.items() if (value := getattr(log, key))}
    lines = [
        f"# The log of {', '.join(log.files)}, as recalign init understood it. Check it, then run the main job on it:",
        *(f"#   {command}" for command in commands),
        "data:",
        f"  root: {yaml_scalar(str(root))} # folder of the files; --data.root overrides it",
        "  log:",
        *(f"    {key}: {yaml_scalar(value)} # {comment}" for key, (value, comment) in shown.items()),
        *(items_text(items) if items else ()),
        "  # How good an event was: Polars SQL over the columns of its row. Where a column that it reads is empty,",
        "  # there is no reward: the event stays in histories and no loss sees a reward.",
    ]
    if reward.startswith("CASE"):
        lines += [
            "  # What each kind is worth is a guess: edit the numbers. A kind that is not listed has no reward.",
            "  reward: >-",
            *(f"    {line}" for line in reward.split("\n")),
        ]
    else:
        lines.append(f"  reward: {yaml_scalar(reward)}")
    lines += [
        "  high: # which events the metrics high/* count as good",
        f"    expression: {yaml_scalar(high['expression'])} # a condition; null: quantile decides",
        f"    quantile: {yaml_scalar(high['quantile'])} # share of the rewards that a high one exceeds",
        f"  split: # tests {division.tested:,} of {division.users:,} users; all events of the others are training",
        f"    class_path: {split['class_path']} # by user; recalign.data.sequences.TimeSplit cuts in time",
        "    init_args:",
        f"      test: {division.test} # last events of a user",
        f"      validation: {division.validation} # events before those; two or more give pairs to order",
    ]
    return "\n".join(lines) + "\n"
