"""Write a log's YAML from what was guessed of its table."""

from __future__ import annotations

from typing import Any

import yaml

from recalign.events.log import Log

TIMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds"}


def draft(log: Log, root: str, reward: str, high: str | None, test: int, commands: list[str]) -> str:
    """A commented YAML of a log.

    Args:
        log: the files and what their columns mean.
        root: folder of the files.
        reward: Polars SQL.
        high: SQL condition for a high reward; null: the best quarter.
        test: last events of a user that are the test.
        commands: what to run with the YAML.
    """
    unit = f"{TIMES[log.time_unit]} since 1970" if log.time_unit in TIMES else "ISO 8601; UTC where it has no offset"
    lines = [
        f"# The log of {', '.join(log.files)}, as recalign init understood it. Check it, then run the main job on it:",
        *(f"#   {command}" for command in commands),
        "data:",
        f"  root: {_scalar(root)} # folder of the files, from where recalign is started; --data.root overrides it",
        "  log:",
        f"    name: {_scalar(log.name)} # names run folders and tables",
        f"    files: {_scalar(log.files)} # read in order; patterns such as events-*.parquet are allowed",
    ]
    if log.header:
        lines.append(f"    header: {_scalar(log.header)} # names of the columns: the file has no header row")
    if log.separator:
        lines.append(f"    separator: {_scalar(log.separator)} # between fields")
    lines += [
        f"    user: {_scalar(log.user)} # the column that says who",
        f"    item: {_scalar(log.item)} # the column that says what",
        f"    timestamp: {_scalar(log.timestamp)} # the column that says when",
        f"    time_unit: {log.time_unit} # of that column: {unit}",
    ]
    if log.where:
        lines.append(f"    where: {_scalar(log.where)} # other rows are left out and counted")
    lines += [
        "  # How good an event was: Polars SQL over the columns of its row. Where a column that it reads is empty,",
        "  # there is no reward: the event stays in histories and no loss sees a reward.",
        *_reward(reward),
        "  high: # which events the metrics high/* count as good",
        f"    expression: {_scalar(high)} # a condition; null: quantile decides",
        f"    quantile: {'null' if high else 0.75} # share of the rewards that a high one exceeds",
        "  split:",
        "    class_path: recalign.sequences.LeaveLast # by user; recalign.sequences.TimeSplit cuts in time",
        "    init_args:",
        f"      test: {test} # last events of a user",
        f"      validation: {max(1, test // 2)} # events before those",
    ]
    return "\n".join(lines) + "\n"


def _reward(expression: str) -> list[str]:
    first, *more = expression.split("\n")
    if not more:
        return [f"  reward: {_scalar(expression)}"]
    return [
        "  # What each kind of event is worth is a guess: edit the numbers. A kind that is not listed has no reward.",
        "  reward: >-",
        *(f"    {line}" for line in (first, *more)),
    ]


def _scalar(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")
