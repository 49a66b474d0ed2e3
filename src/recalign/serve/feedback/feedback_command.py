"""`recalign feedback`: turn a decision log into an event table with exposure, or erase a user."""

from __future__ import annotations

import argparse
import json
import re
import time
from contextlib import ExitStack
from pathlib import Path

import yaml

from recalign.data.events import LogMapping, render
from recalign.errors import InputError
from recalign.files import atomic_write
from recalign.seals import write_with_digest
from recalign.serve.feedback import log as decision_log
from recalign.serve.feedback.joining import EARLY, MISFITS, MOST_EARLY, Joined, Rule, join
from recalign.serve.feedback.outcomes import read as read_outcomes
from recalign.serve.server.command import DECISIONS_KEY, decisions_key
from recalign.serve.server.decisions import pseudonym

TABLE, LOG, COUNTS = "feedback.parquet", "feedback.yaml", "feedback.json"
SHOWN_LOG = "feedback-shown.yaml"
EXPOSURE_YAML = """\
# What was shown and what came of it, as `recalign feedback` joined it: for estimates of what a policy is worth.
# To train on it: feedback-shown.yaml. Check it: recalign check THIS FILE
data:
  root: . # the folder of this file; --data.root overrides it
  log:
    name: feedback # names run folders and tables
    files: [{table}]
    user: user # pseudonyms: nobody without the key knows whose
    item: item # as the server shows them
    timestamp: timestamp # when the item was shown, so that a policy is asked what it would have shown then
    time_unit: us # microseconds since 1970
    where: null # such as "version = '...'": only rows that meet it are used; the others are counted
    is_random: is_random # true: drawn as the first of an unfiltered list
    propensity: propensity # of what was drawn, given what stood before it in the list; null for what was not
  reward: reward # of the outcome; {ignored:g} for items shown but not chosen
  high:
    expression: chosen # what the metrics high/* count as good
  split:
    class_path: recalign.data.sequences.TimeSplit # the same cuts for everybody: nothing is learned from the future
    init_args:
      cuts: [0.8, 0.9] # 80 % of the events train, 10 % validate, 10 % test
"""
SHOWN_YAML = """\
# Items chosen, and items shown but not chosen, as `recalign feedback` joined them: to train on, not to estimate from,
# since rows below the last choice are left out. Check it: recalign check THIS FILE
data:
  root: . # the folder of this file; --data.root overrides it
  log:
    name: feedback-shown # names run folders and tables
    files: [{table}]
    user: user # pseudonyms: nobody without the key knows whose
    item: item # as the server shows them
    timestamp: event_at # when it was chosen, so that nothing stands in a history before it happened; else when shown
    time_unit: us # microseconds since 1970
    # Places above the last choice of a list were seen but not chosen. Whether anybody saw those below is unknown.
    # What is not settled waits for a later table: another choice may still come to lie before it.
    chosen: case when not settled then null when chosen then true when position < last_outcome then false else null end
    request: decision # a list
  reward: reward # of the outcome; {ignored:g} for items shown but not chosen
  high:
    expression: reward > {ignored:g} # what the metrics high/* count as good
  split:
    class_path: recalign.data.sequences.TimeSplit # the same cuts for everybody: nothing is learned from the future
    init_args:
      cuts: [0.8, 0.9] # 80 % of the choices train, 10 % validate, 10 % test
"""
YAMLS = {LOG: EXPOSURE_YAML, SHOWN_LOG: SHOWN_YAML}
ROOT, IGNORED = r"^  root: (.+?) #", r"^  reward: reward # of the outcome; (\S+) for"
"""Lines of a YAML that have to fit the table: its folder, and the reward of items shown but not chosen."""


def feedback(words: list[str]) -> None:
    """Join a decision log with outcomes, or erase a user from it.

    Args:
        words: the command-line arguments after ``recalign feedback``.

    Raises:
        InputError: the log, the outcomes or the settings cannot be used.
    """
    given = _options().parse_args(words)
    out = given.out or given.folder
    if (given.outcomes is None) == (given.forget is None):
        what = "needs --outcomes or --forget" if given.forget is None else "takes --outcomes or --forget, not both"
        remedy = "give --outcomes TABLE to join them, or --forget USER to erase somebody"
        raise InputError(what, where="", remedy=remedy)
    if given.forget is not None:
        erased = decision_log.forget(given.folder, given.forget, decisions_key(given.key_file), out / TABLE)
        print(f"{erased:,} records are erased. Erase the user from tables of outcomes too: --unshown reads them again")
        return
    if given.decision is not None and (given.user is not None or given.unshown):
        what = "--decision joins outcomes by the ids of decisions, and users are not read"
        raise InputError(what, where="decision", remedy="give --user instead of it, or leave out --user and --unshown")
    joined_by = "decision" if given.decision else "user"
    key = None if given.decision else decisions_key(given.key_file)
    rule = Rule(given.window, given.delay, given.ignored, given.unshown)
    outcomes = LogMapping(
        "outcomes",
        given.outcomes,
        user=given.decision or given.user or "user",
        item=given.item,
        timestamp=given.time,
        time_unit=given.time_unit,
        time_format=given.time_format,
    )
    with decision_log.reading(given.folder, key) as log:  # locked until the table is written
        decisions, damaged, missing = decision_log.read(log)
        events, unnamed = read_outcomes(outcomes, joined_by, given.reward, lambda user: pseudonym(str(key), user))
        joined = join(decisions, events, rule, time.time_ns() // 1000)
        joined.counts["decisions"] |= {"damaged records, dropped": damaged, "missing records": missing}
        joined.counts["outcomes"] |= {f"left out, as they name no {joined_by}": unnamed}
        print(render(joined.counts))
        early, attributed = int(joined.counts[MISFITS][EARLY]), int(joined.counts["outcomes"]["joined"])
        if early > MOST_EARLY * (early + attributed):
            print(f"\nwith care: {early:,} {EARLY}. They count as shown and not chosen")
        if not joined.table["shown"].any():
            remedy = "give outcomes of after their window (a newer table), or a shorter --window"
            raise InputError("no decision can be joined yet", where=str(given.folder), remedy=remedy)
        write(joined, out, rule)
    print(f"\n{out / TABLE} is written: recalign check {out / LOG}, and {out / SHOWN_LOG} to train on it")


def _options() -> argparse.ArgumentParser:
    rule = Rule()
    parser = argparse.ArgumentParser(
        prog="recalign feedback", description="Join the lists that a server showed with outcomes, or erase a user."
    )
    option = parser.add_argument
    option("folder", type=Path, help="the decision log: FOLDER of recalign serve BUNDLE --decisions FOLDER")
    option("--outcomes", nargs="+", help="tables of outcomes, such as clicks: .csv, .tsv or .parquet")
    option("--user", help="column of the user's id, as in requests (default user)")
    option("--decision", help="column of the decision's id, as in answers; replaces --user")
    option("--item", default="item", help="column of the item's id (default %(default)s)")
    option("--time", default="timestamp", help="column of the time (default %(default)s)")
    option("--time_unit", choices=("s", "ms", "us", "datetime"), default="s", help="default %(default)s")
    option("--time_format", help="format of times as text, if not ISO 8601, such as %%d/%%m/%%Y %%H:%%M")
    option("--reward", default="1", help="reward of an outcome: SQL over the columns (default %(default)s)")
    option("--window", type=float, default=rule.window, help="attribution window in seconds (default %(default)g)")
    option("--delay", type=float, default=rule.delay, help="longest delay of outcomes in seconds (default %(default)g)")
    option("--ignored", type=float, default=rule.ignored, help="reward of items not chosen (default %(default)g)")
    option("--unshown", action="store_true", help="also keep outcomes that belong to no shown item, as events")
    option("--key_file", type=Path, help=f"file with the log's key (default: the environment variable {DECISIONS_KEY})")
    option("--out", type=Path, help="folder to write to (default: that of the decision log)")
    option("--forget", metavar="USER", help="erase a user from the log, and from feedback.parquet in it (or in --out)")
    return parser


def write(joined: Joined, out: Path, rule: Rule) -> None:
    """Write the table, the counts and those of `YAMLS` that are missing: all or none, readable by their owner only.

    Raises:
        InputError: the folder cannot be written, or a YAML in it does not fit the table.
    """
    missing = [name for name in YAMLS if not (out / name).is_file()]
    for name in YAMLS.keys() - missing:
        _require_kept(out / name, rule.ignored)
    try:
        with ExitStack() as stack:
            table = stack.enter_context(write_with_digest(out / TABLE))
            counts, *logs = (stack.enter_context(atomic_write(out / name)) for name in (COUNTS, *missing))
            for path in (counts, *logs):
                path.touch(0o600)
            joined.table.write_parquet(table)
            counts.write_text(json.dumps(joined.counts, indent=2) + "\n", encoding="utf-8")
            for name, path in zip(missing, logs, strict=True):
                text = YAMLS[name].format(table=TABLE, ignored=rule.ignored)
                path.write_text(text, encoding="utf-8")
    except OSError as error:
        what = f"the table cannot be written: {error.strerror or error}"
        raise InputError(what, where=str(out), remedy="give --out a folder that can be written") from error


def _require_kept(path: Path, ignored: float) -> None:
    """Refuse a YAML of an earlier table that does not fit this one: that of a copied folder, or of other rewards."""
    text = path.read_text(encoding="utf-8")
    root, reward = (re.search(line, text, re.MULTILINE) for line in (ROOT, IGNORED))
    remedy = "delete it, and a new one is written; or write {} in it"
    if root and (path.parent / Path(str(yaml.safe_load(root[1]))).expanduser()).resolve() != path.parent.resolve():
        raise InputError(f"it reads the table in {root[1]}", where=str(path), remedy=remedy.format("root: ."))
    if reward and reward[1] != f"{ignored:g}":
        what = f"it was written for --ignored {reward[1]}, not {ignored:g}, which data.high may depend on"
        raise InputError(what, where=str(path), remedy=remedy.format(f"{ignored:g} for {reward[1]}"))
