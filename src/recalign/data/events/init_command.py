"""`recalign init`: describe a table of events in a log's YAML."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import polars as pl
from rich.prompt import Prompt

from recalign.data.events import guess
from recalign.data.events.audit import early_concerns
from recalign.data.events.division import SplitSuggestion, basket_share, collapse_and_divide, divide
from recalign.data.events.log import ItemTable, LogMapping
from recalign.data.events.messages import did_you_mean
from recalign.data.events.queries import ask
from recalign.data.events.reading import read
from recalign.data.events.rows import TIED
from recalign.data.events.sources import Source, files_named, read_errors
from recalign.data.events.table import EventTable, load_events
from recalign.data.events.yaml_text import yaml_scalar
from recalign.errors import InputError, printable
from recalign.files import write_text

COLUMNS = {
    "user": "the column of the user's id",
    "item": "the column of the item's id",
    "timestamp": "the column of the time",
}
QUESTIONS = COLUMNS | {"reward": "how good an event was (a column, or Polars SQL over columns)"}
"""Help texts of the options."""

UNITS = {"s": "seconds since 1970", "ms": "milliseconds since 1970", "us": "microseconds since 1970"}


def init(words: Sequence[str]) -> None:
    """Guess what the columns of a table mean, show the first events, choose a split, and write the log's YAML.

    Raises:
        InputError: the table cannot be used, or something cannot be guessed and there is no terminal to ask on.
    """
    options = _parsed(words)
    root, entry, where, name = Path(), options.table, dict[str, Any](), ""
    if options.query is not None:
        where, name = _of_query(options.table, options.query)
    elif "://" not in entry:
        root = next(folder for folder in Path(entry).parents if not set("*?[") & set(str(folder)))
        entry = os.path.relpath(entry, root)
    where = where or {"files": [entry]}
    beginning = re.split(r"[*?\[]", entry)[0].removesuffix(".gz")  # before a wildcard
    name = name or re.sub(r"[^\w.-]+", "-", Path(beginning).stem).strip("-._") or root.resolve().name
    files = [ask(LogMapping(name, **where))] if options.query else files_named(options.table)
    out = Path(options.out or f"{name}.yaml")
    if out.exists() and not options.force:
        raise InputError("the file exists already", where=str(out), remedy="give another --out FILE, or --force")
    frame, named = _read(files)
    given = {role: value for role in QUESTIONS if (value := getattr(options, role)) is not None}
    meaning = _guess_or_ask(frame, named, given)
    unit, reward = guess.unit(frame[meaning["timestamp"]]), meaning.pop("reward")
    if not named:
        frame = frame.rename({column: role for role, column in meaning.items()})
        meaning = {role: role for role in meaning}
    log = LogMapping(
        name,
        **where,
        header=None if named else frame.columns,
        time_unit="datetime" if options.time_format else unit,
        time_format=options.time_format,
        where=guess.missing_condition(frame, meaning.values()),
        **meaning,  # type: ignore[arg-type]
    )
    events = load_events(log, root, reward)
    if (choice := guess.choice(frame)) and guess.only_choices_differ(frame, choice, reward):
        others = frame.drop(meaning["item"], meaning["timestamp"])
        impressions = replace(log, chosen=choice, request=guess.request(others, meaning["user"]))
        shown = load_events(impressions, root, reward)
        if shown.skipped is not None and shown.frame["request"].is_in(shown.skipped["request"].implode()).mean() > 0.5:  # type: ignore[operator]
            log, events = impressions, shown  # most choices were made beside an item that was skipped
    collapse, suggested = collapse_and_divide(events.frame, reward)
    if collapse:
        log = replace(log, collapse=True)
        events = load_events(log, root, reward)
    if options.items is not None:
        log = replace(log, items=_item_table(options.items, None if "://" in entry or options.query else root, events))
    if share_in_baskets := basket_share(events.frame):
        suggested = divide(events.frame.filter(~pl.col(TIED))["user"], events.frame["reward"])  # a basket is one event
    _print_events(log, reward, suggested, events)
    if share_in_baskets:
        print(
            f"ties: {share_in_baskets:.0%} of the events came with another item of the same user at the same time, as "
            "in a basket, so none of these is in another's history (ties: together). If they happened one after the "
            "other, in the order of the file, write ties: order"
        )
    if choice and not log.chosen:
        print(printable(f"chosen: if {choice} tells choices from items that were only shown, uncomment it in {out}"))
    for concern in early_concerns(events):
        print(f"with care: {concern}")
    commands = [shlex.join(["recalign", "check", str(out)])]
    if not suggested.cannot:
        commands.append(shlex.join(["recalign", "chain", str(out)]))
    beside = root if root.is_absolute() else Path(os.path.relpath(root, out.parent))  # relative to the YAML's folder
    here = beside if options.query is None and "://" not in entry else None
    write_text(out, _yaml_text(log, here, reward, suggested, commands, bool(share_in_baskets), choice))
    print(f"\n{printable(str(out))} is written: look it over. Next:", *commands, sep="\n  ")


def _item_table(file: str, root: Path | None, events: EventTable) -> ItemTable:
    """Guess the columns of an item table. The YAML holds its path relative to ``root``; None: its absolute path."""
    table = files_named(file)[0]
    beside = os.path.relpath(file, root) if root else os.path.abspath(file)
    found = guess.item_table(file if "://" in file else beside, read(table, ()), read(table, None), events.items)
    features = ", ".join(found.features) or "none"
    print(printable(f"items: {found.id} of {file}; title: {found.title or 'none'}; features: {features}"))
    return found


def _of_query(database: str, query: str) -> tuple[dict[str, Any], str]:
    """The settings ``query`` and ``uri`` of a log, and a name for it: the database's.

    If no environment variable holds the URI, set one for this process.
    """
    name = re.sub(r"\W+", "_", urlsplit(os.environ.get(database, database)).path).strip("_") or "rows"
    if database not in os.environ and database not in os.environ.values():
        os.environ[variable := f"{name.upper()}_URI"] = database
        print(f"export {variable} with this URI before the next command: the YAML reads it there", file=sys.stderr)
    return {"query": query, "uri": database}, name


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    summary = "Guess what the columns of a table of events mean, and write the log's YAML."
    parser = argparse.ArgumentParser(prog="recalign init", description=summary, allow_abbrev=False)
    files = "a file of events, one per row, or a pattern such as 'events-*.csv': .csv, .tsv or .parquet"
    files += "; its URL; or a database, postgresql://USER:PASSWORD@HOST/NAME, or a variable that holds this URI"
    parser.add_argument("table", help=f"{files}, with or without header")
    parser.add_argument("--query", metavar="SQL", help="a query to the database that gives one row per event")
    for role, meaning in QUESTIONS.items():
        parser.add_argument(f"--{role}", help=meaning, metavar="SQL" if role == "reward" else "COLUMN")
    parser.add_argument("--items", metavar="FILE", help="a table of the items, one per row: titles and features")
    parser.add_argument("--time_format", help="how times are written, if not as ISO 8601: %%d/%%m/%%Y %%H:%%M")
    parser.add_argument("--time-format", dest="time_format", help=argparse.SUPPRESS)  # its name in version 1.0
    parser.add_argument("--out", help="the YAML to write; default: the table's name, in the current folder")
    parser.add_argument("--force", action="store_true", help="overwrite that YAML")
    options, left = parser.parse_known_args(words)
    if left:
        known = [f"--{name}" for name in vars(options) if name != "table"]
        raise InputError("there is no such option", where=left[0], remedy=did_you_mean(left[0], known))
    if "" in (options.table, options.items):
        raise InputError("a file argument is empty", where="init", remedy="name a file: is a shell variable unset?")
    return options


def _read(files: Sequence[Source]) -> tuple[pl.DataFrame, bool]:
    """A table as training would read it, and whether it has a header row; else columns are ``column_1``, ..."""
    first = read(files[0], ())
    number_or_date = re.compile(r"[-+]?\d+([-.:/T ]\d+)*(Z|[eE+]\d.*)?(_duplicated_\d+)?")
    named = files[0].kind != "text" or not any(map(number_or_date.fullmatch, first.columns))
    names = None if named else [f"column_{number}" for number in range(1, first.width + 1)]
    with read_errors(", ".join(one.name for one in files)):
        frame = pl.concat([read(file, (), names) for file in files], how="diagonal_relaxed")
    if frame.width < 3 or not frame.height:
        what = f"it has {frame.height} rows of {frame.width} columns, but an event needs a user, an item and a time"
        remedy = "give a table with a row per event, and columns separated by a comma, tab, ; or |"
        raise InputError(what, where=", ".join(one.name for one in files), remedy=remedy)
    return frame, named


def _guess_or_ask(frame: pl.DataFrame, named: bool, given: dict[str, str]) -> dict[str, str]:
    """Guess user, item, timestamp and reward. Ask for what cannot be guessed.

    Raises:
        InputError: a column does not exist, or there is no terminal to ask on.
    """
    for role in COLUMNS.keys() & given:
        if given[role] not in frame.columns:
            remedy = did_you_mean(given[role], frame.columns)
            raise InputError(f"there is no column {given[role]!r}", where=f"--{role}", remedy=remedy)
    while unknown := [role for role in QUESTIONS if role not in (found := guess.guess(frame, given, named))]:
        role = unknown[0]
        if not sys.stdin.isatty():
            what = f"cannot guess {QUESTIONS[role]} from the columns: {', '.join(frame.columns)}"
            remedy = f"give {', '.join(f'--{one}' for one in unknown)}; a log without times (timestamp: null, see "
            remedy += "`recalign configs own-log`) trains reward models only. A table of items goes beside the events: "
            remedy += "`recalign init EVENTS --items FILE`"
            raise InputError(what, where=role, remedy=remedy)
        choices = frame.columns if role in COLUMNS else None
        given = found | {role: Prompt.ask(f"Give {QUESTIONS[role]}", choices=choices)}
    reward = found["reward"]
    return found | {"reward": guess.quote(reward) if reward in frame.columns else reward}


def _print_events(log: LogMapping, reward: str, suggested: SplitSuggestion, events: EventTable) -> None:
    frame, high = events.frame, suggested.high
    condition = pl.sql_expr(high) if high else pl.col("reward") > pl.col("reward").quantile(0.75, "linear")
    good = frame.select(condition.fill_null(False)).to_series()
    share = good.sum() / frame.height
    first = frame.with_columns(good.alias("high")).sort("row").head(5)
    shown = first.select(
        events.users.gather(first["user"]).alias(f"user: {log.user}"),
        events.items.gather(first["item"]).alias(f"item: {log.item}"),
        pl.from_epoch("timestamp").alias(f"time (UTC): {log.timestamp}"),
        "reward",
        "high",
    )
    layout = {"tbl_formatting": "MARKDOWN", "tbl_hide_dataframe_shape": True, "tbl_hide_column_data_types": True}
    print(printable(f"The first events of {', '.join(log.files) or log.uri}, as they were understood"))
    with pl.Config(**layout, fmt_str_lengths=40, tbl_width_chars=120):  # type: ignore[arg-type]
        print(printable(str(shown)))
    print(f"{frame.height:,} events of {len(events.users):,} users and {len(events.items):,} items")
    if events.skipped is not None:
        print(printable(f"chosen: {log.chosen}; {events.skipped.height:,} other rows were shown and not chosen"))
    print(printable(f"reward: {' '.join(reward.split())}"))
    print(f"high: {high or 'the best quarter of the rewards'} ({share:.0%} of the events)")
    if share > guess.MOST_HIGH:
        print(f"that is more than {guess.MOST_HIGH:.0%}: the best grade alone is as frequent, so high/* says less")
    left_out = (printable(f"{count:,} rows {reason}") for reason, count in events.report.left_out().items())
    print(suggested, *left_out, sep="\n")


def _items_lines(table: ItemTable) -> list[str]:
    """The lines of ``data.log.items``."""
    comments = {
        "file": "the table of the items",
        "id": "its column of the item's id",
        "title": "its column of the title; null: items are shown by their ids",
    }
    features = {
        name: feature if isinstance(feature, str) else {"value": feature.value, "separator": feature.separator}
        for name, feature in table.features.items()
    }
    return [
        "    items:",
        *(f"      {key}: {yaml_scalar(getattr(table, key))} # {why}" for key, why in comments.items()),
        f"      features:{'' if features else ' {}'} # what is learned of items: Polars SQL over its columns",
        *(f"        {yaml_scalar(name)}: {yaml_scalar(value)}" for name, value in features.items()),
    ]


def _yaml_text(
    log: LogMapping,
    root: Path | None,
    reward: str,
    suggested: SplitSuggestion,
    commands: list[str],
    together: bool,
    choice: str | None,
) -> str:
    high, split = suggested.settings["high"], suggested.settings["split"]
    comments = {
        "name": "names run folders and tables",
        "files": "read in order; patterns such as events-*.parquet are allowed",
        "query": "selects the rows from the database",
        "uri": "the environment variable that holds its URI",
        "header": "names of the columns: the file has no header row",
        "user": "the column that says who",
        "item": "the column that says what",
        "timestamp": "the column that says when",
        "time_unit": f"of that column: {UNITS.get(log.time_unit, 'ISO 8601; UTC where it has no offset')}",
        "time_format": "how that column is written",
        "where": "other rows are left out and counted",
        "chosen": "these rows are choices; the others were shown and not chosen",
        "request": "the column that says what was shown together",
        "collapse": "a user's events on an item become one, that with the highest reward; false: all are kept",
    }
    lines = [
        f"# The log of {yaml_scalar(', '.join(log.files) or log.uri)}, as recalign init understood it.",
        "# Check it, then run the main job on it:",
        *(f"#   {yaml_scalar(command)}" for command in commands),
        "data:",
    ]
    if root is not None:
        lines.append(f"  root: {yaml_scalar(str(root))} # folder of the files; --data.root overrides it")
    lines.append("  log:")
    lines += [
        f"    {key}: {yaml_scalar(value)} # {why}" for key, why in comments.items() if (value := getattr(log, key))
    ]
    if log.items:
        lines += _items_lines(log.items)
    if choice and not log.chosen:
        lines.append(f"    # chosen: {yaml_scalar(choice)} # if some rows were shown but not chosen")
    lines += [
        "  # How good an event was: Polars SQL over the columns of its row. Where a column that it reads is empty,",
        "  # there is no reward: only histories and cloning use the event.",
    ]
    if reward.startswith("CASE"):
        lines.append("  # The worth of each kind is a guess: edit it. A kind that is not listed has no reward.")
        lines += ["  reward: >-", *(f"    {line}" for line in reward.split("\n"))]
    else:
        lines.append(f"  reward: {yaml_scalar(reward)}")
    lines += [
        "  high: # which events the metrics high/* count as good",
        f"    expression: {yaml_scalar(high['expression'])} # a condition; null: quantile decides",
        f"    quantile: {yaml_scalar(high['quantile'])} # share of the rewards that a high one exceeds",
        f"  split: # tests {suggested.tested:,} of {suggested.users:,} users; all events of the others are training",
        f"    class_path: {split['class_path']} # by user; recalign.data.sequences.TimeSplit cuts in time",
        "    init_args:",
        f"      test: {suggested.test} # last events of a user",
        f"      validation: {suggested.validation} # events before those; two or more give pairs to order",
    ]
    if together:
        lines.append(
            "  ties: together # a user's events at one time are a set; order: they happened as the file has them"
        )
    return "\n".join(lines) + "\n"
