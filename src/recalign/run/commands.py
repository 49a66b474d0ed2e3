"""`recalign check`, `recalign rewards`, `recalign prepare` and `recalign recommend`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recalign.data.events import render
from recalign.data.sequences import EventDataModule
from recalign.data.sequences.audit import audit_log, verdict
from recalign.data.sequences.prepare import prepare as prepare_log
from recalign.errors import InputError, printable, require_positive
from recalign.files import write_parquet, write_text
from recalign.recommender.recommendations import RECOMMENDATIONS, require_users
from recalign.recommender.recommendations import recommend as answered
from recalign.reward.candidates import compare_log_rewards
from recalign.reward.candidates.text import render as candidates_text
from recalign.run.stage.opened import open_run
from recalign.workers import Engine


def check(*, data: EventDataModule, strict: bool = False) -> None:
    """Print whether a log may be trained on, what it holds and how it is divided, before any training.

    Args:
        data: the log, its reward and its split; name its YAML: recalign check ml-100k.
        strict: exit with 4 if the verdict on the log has concerns.
    """
    sections = audit_log(data)
    said = verdict(sections, data.log_.time_unit)
    print(said, data.report, render(sections), sep="\n\n")
    if strict and said.concerns:
        sys.exit(4)


def rewards(
    *, data: EventDataModule, rewards: dict[str, Any] | None = None, against: str | None = None, out: Path | None = None
) -> None:
    """Compare candidate rewards of a log on training and validation events, before anything is trained on them.

    Args:
        data: the log, its own reward (a candidate too) and its split; name its YAML: recalign rewards ml-100k.
        rewards: the candidates by name, each an expression as data.reward, or {reward: ..., relative_to: {column: ...}}
            as under data; in a file of their own after the log's, or as --rewards '{long: seconds > 30}'.
        against: a numeric column that each is correlated with, such as a video's duration; null: the one that a
            candidate is relative to, else data.high.within, else none.
        out: a CSV file for all figures with their intervals: reward,figure,other,value,ci_low,ci_high.
    """
    if out is not None and out.suffix != ".csv":
        raise InputError("the figures are written as CSV", where=f"--out {out}", remedy="name a file that ends in .csv")
    found = compare_log_rewards(data, rewards or {}, against)
    print(candidates_text(found))
    if data.log_.collapse:
        print("Only the events that the log's own reward keeps were compared (data.log.collapse).")
    if out is not None:
        write_text(out, found.write_csv())


def prepare(
    *, data: EventDataModule, partitions: int | None = None, workers: int = 1, engine: Engine = "local"
) -> None:
    """Prepare a log that is larger than memory; training then memory-maps it from the cache.

    Args:
        data: the log, its reward and its split; name its YAML: recalign prepare my-log.yaml.
        partitions: about how many parts of users; each worker holds one in memory. Null: one per 4 million rows.
        workers: processes that work on parts in parallel; they share the threads of Polars.
        engine: where they run: on this machine, or on a Ray cluster (that of RAY_ADDRESS) that shares the cache's disk.
    """
    print(prepare_log(data, partitions, workers, engine))
    print(f"prepared: {data.preparation.entry.path}")


def recommend(run: Path, users: str | list[str] | None = None, k: int = 10) -> None:
    """Print recommendations after the log's end, as a table.

    Args:
        run: the run folder of a policy, such as runs/ml-100k/asft/seed-0, or of a reranked row of a chain, such as
            runs/ml-100k/rerank/seed-0; its recommendations.parquet is rewritten, for all users.
        users: raw ids of the users to show, as the log has them, such as [1, 7] or [0104257]; null: the first five.
        k: items per user.
    """
    require_positive("", {"k": k}, "k")
    found = open_run(run)
    policy, data = found.policy, found.data
    try:  # as text: YAML reads 0104257 as octal
        ids = yaml.load(users, yaml.BaseLoader) if isinstance(users, str) else users
    except yaml.YAMLError as error:
        raise InputError(f"{users!r} is not a list of ids", where="users", remedy="give ids, such as [1, 7]") from error
    known = data.sequences.users
    shown = require_users([ids] if isinstance(ids, str) else ids, known) if ids else known[:5]
    frame = answered(policy.to(found.device), data, k=k)
    write_parquet(frame, run / RECOMMENDATIONS)
    made = f"made on the {'CPU' if found.device.type == 'cpu' else 'GPU'}"
    print(f"recommendations for {frame['user'].n_unique():,} users, {made}: {run / RECOMMENDATIONS}")
    if without := shown.filter(~shown.is_in(frame["user"].implode())).to_list():
        who = ", ".join(printable(str(one)) for one in without)
        print(f"no list for {who}: no event with an item of the catalogue, or every item already seen")
    name = "title" if "title" in frame.columns else "item"
    table = Table("user", "rank", name, "score")
    for row in frame.filter(pl.col("user").is_in(shown.implode())).select("user", "rank", name, "score").iter_rows():
        user, rank, item, score = row
        table.add_row(escape(printable(str(user))), str(rank), escape(printable(str(item))), f"{score:.2f}")
    Console().print(table)
