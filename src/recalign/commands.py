"""Commands over a log and a trained policy that are no stages."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from rich.console import Console
from rich.table import Table

from recalign.errors import InputError
from recalign.events import render
from recalign.recommender.training import RECOMMENDATIONS
from recalign.sequences import EventDataModule
from recalign.sequences.audit import audit_log
from recalign.stage import run_stage


def check(data: EventDataModule) -> None:
    """What a log holds and how it is divided, before any training.

    Args:
        data: the log, its reward and its split: --config conf/data/<log>.yaml.
    """
    print(data.table.report)
    print()
    print(render(audit_log(data.table, data.sequences, data.max_length)))


def recommend(run: Path, users: list[str] | None = None, k: int = 10) -> None:
    """Recommendations after the log's end, as a table.

    Args:
        run: the run folder of a policy (runs/ml-100k/asft/seed-0); all users' are written to its recommendations.parquet.
        users: raw ids of the users to show; null: the first five.
        k: items a user.
    """
    config = run / "config.yaml"
    if not config.is_file():
        raise InputError("there is no run here", where=str(run), remedy="name the folder of a finished run")
    run_stage(["predict", f"--config={config}", f"--model.top_k={k}"])
    frame = pl.read_parquet(run / RECOMMENDATIONS)
    known = frame["user"].unique(maintain_order=True).cast(pl.String)
    chosen = users or known.head(5).to_list()
    if unknown := set(chosen) - set(known):
        raise InputError(f"the log has no user {sorted(unknown)[0]!r}", where="--users", remedy="give raw ids of the log")
    table = Table("user", "rank", "item", "score")
    for user, rank, item, score in frame.filter(pl.col("user").cast(pl.String).is_in(chosen)).iter_rows():
        table.add_row(str(user), str(rank), str(item), f"{score:.2f}")
    Console().print(table)
