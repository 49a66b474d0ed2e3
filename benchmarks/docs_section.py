"""A section of a page of docs/tables: rows of one CSV, and the columns that several sections have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recalign.evaluation.comparison import HIGH, VALUE

TRUE = "value/true@10"
RETAINED = "retained"
METHODS = {
    RETAINED: "NDCG retained",
    HIGH: "high/ndcg@10",
    VALUE: "judges' value",
    TRUE: "true value",
    "value/train_rm@10": "value by the training reward model",
    "value_at_popularity": "value at equal popularity",
    "policy/coverage@10": "coverage",
    "policy/popularity@10": "popularity",
    "tail/high/ndcg@10": "tail: high",
    "tail/value/judge@10": "tail: value",
}
"""Columns of a table of methods."""


STAGES = ("start", "asft")
KINDS = ("all", "known", "new users", "new items", "true@10", "seconds")
NEXT_DAY = {f"{stage}/{name}": f"{stage} {name}" for stage in STAGES for name in KINDS}
DIFFERENCES = {
    f"{stage}/difference{metric}": f"{stage} {name}"
    for stage in STAGES
    for metric, name in {"": "ndcg@10", "/true@10": "true@10"}.items()
}
"""Columns of what an update is compared with."""


@dataclass(frozen=True)
class Table:
    """Rows of one CSV as a section of a page.

    Args:
        title: the section's heading.
        command: what made the rows, at the commit that they name.
        logs: of the CSV; of a row that several have, the first counts.
        file: the CSV, without its ending.
        columns: metric -> heading, in this order; those of no row are left out.
        digits: behind the point; None: three that count.
        prefix: of the rows that count; left out of their names.
        differences: also what the rows have over each of `AGAINST`.
        note: what a reader needs beside the table.
    """

    title: str
    command: str
    logs: tuple[str, ...]
    file: str = "methods"
    columns: dict[str, str] | None = None
    digits: int | None = 3
    prefix: str = ""
    differences: bool = False
    note: str = ""


def of_methods(title: str, logs: Sequence[str], command: str, note: str = "") -> Table:
    return Table(title, f"methods.py {command}", tuple(logs), columns=METHODS, differences=True, note=note)


def ranks(title: str, log: str, command: str, note: str = "") -> Table:
    columns = {metric: metric for metric in ("hr@10", "ndcg@10", "hr@50", "hr@200", "ndcg@200", "mrr")}
    return Table(title, command, (log,), "encoders", columns, digits=4, note=note)


GAINS = {
    "diff_start/value/true@10": "gain in true value",
    "diff_start/value/select_judge@10": "gain in the selection judges' value",
    "diff_start/high/ndcg@10": "gain in high/ndcg@10",
    "kept": "NDCG retained",
    "policy/kl": "KL to the start, nats",
    "policy/popularity@10": "popularity",
}
