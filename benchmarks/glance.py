"""Print the tables of docs/results.md: what benchmarks/results/methods.csv says of each log, in one line a method.

python benchmarks/glance.py
"""

from __future__ import annotations

import polars as pl
from tables import RESULTS, figure

from recalign.evaluation.comparison import ALL, HIGH, VALUE

TABLES = {
    "ML-100K": ("ml-100k", "ml-100k, main rows"),
    "ML-1M": ("ml-1m",),
    "KuaiRand by watch ratio": ("kuairand-pure-excerpt",),
    "KuaiRand by clicks": ("kuairand-pure-excerpt-clicked",),
    "OneRec on ML-100K": ("ml-100k, onerec", "ml-100k, onerec, lists of its own"),
    "OneRec on ML-1M": ("ml-1m, onerec",),
    "Five simulated worlds": ("simulated", "simulated, main rows"),
    "Five simulated worlds, policies that see rewards": ("simulated, policies see rewards",),
    "Ten unopened worlds": ("simulated, unopened",),
    "Noise": ("simulated-noise, not searched",),
    "Clear": ("simulated-clear, not searched",),
    "Confounded": ("simulated-confounded, not searched",),
}
"""What each table is called, and the logs of methods.csv that it shows: a row of the first that has it."""
COLUMNS = {
    HIGH: ("high/ndcg@10", 3),
    VALUE: ("judges' value", 2),
    "value/true@10": ("true value", 2),
    "value_at_popularity": ("value at equal popularity", 2),
    "policy/coverage@10": ("coverage", 2),
    "policy/popularity@10": ("popularity", 2),
    "tail/high/ndcg@10": ("tail: high", 3),
    "tail/value/judge@10": ("tail: value", 2),
}
INTERVALS = (HIGH, VALUE, "value/true@10")


def main() -> None:
    for title, logs in TABLES.items():
        print(f"{title}\n\n{table(logs)}\n")


def table(logs: tuple[str, ...]) -> str:
    """A line a method: the share of the start's ranking that it keeps on the test, and its figures.

    ``high/ndcg@10`` and values have their 95 % interval over users and seeds. A figure that a seed lacks is left out.
    """
    saved = pl.read_csv(RESULTS / "methods.csv", schema_overrides={"seeds": pl.String, "commit": pl.String})
    rows = pl.concat([saved.filter((pl.col("log") == log) & pl.col("metric").is_in([ALL, *COLUMNS])) for log in logs])
    rows = rows.unique(["row", "metric"], keep="first", maintain_order=True)
    cells = {(row["row"], row["metric"]): row for row in rows.iter_rows(named=True)}
    shown = [metric for metric in COLUMNS if metric in set(rows["metric"])]
    start = cells["start", ALL]["mean"]
    more = int(cells["start", VALUE]["mean"] < 1)  # small rewards need one digit more
    heads = [COLUMNS[metric][0] for metric in shown]
    lines = [f"| method | kept | {' | '.join(heads)} |", "|---" * (len(shown) + 2) + "|"]
    for name in rows["row"].unique(maintain_order=True):
        own = {m: cells[name, m] for m in shown if cells.get((name, m), {}).get("seeds") == cells[name, ALL]["seeds"]}
        plain = {"ci_low": None, "ci_high": None}
        digits = {m: COLUMNS[m][1] + more * ("value" in m) for m in shown}
        figures = [figure(own[m] | ({} if m in INTERVALS else plain), digits[m]) if m in own else "-" for m in shown]
        lines.append(f"| `{name}` | {cells[name, ALL]['mean'] / start:.1%} | {' | '.join(figures)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
