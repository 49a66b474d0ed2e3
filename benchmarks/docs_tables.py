"""Write the pages of tables, docs/tables/*.md, from the saved rows of benchmarks/results.

    python benchmarks/docs_tables.py            # writes
    python benchmarks/docs_tables.py --check    # names pages that are not what the rows say, and fails

A table says which command made its rows, at which commit and under which version of the protocol. Nothing in these
pages is written by hand.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from tables import RESULTS

from recalign.evaluation.comparison import ALL, HIGH, VALUE
from recalign.files import write_text

PAGES = Path(__file__).parents[1] / "docs" / "tables"
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
PLAIN = {metric for metric in METHODS if metric not in (HIGH, VALUE, TRUE)}
"""Columns without intervals, which would make a table of methods too wide; they are in the CSV."""
AGAINST = {"holm_best_bc": "the better of `start` and `bc`", "holm_asft": "`asft`", "holm_rerank": "`rerank`"}
"""Paired differences, their intervals corrected by Holm for the number of methods: prefix -> less what."""
VERSION_2 = """
001dea4 04363f9 050f0d1 06eb570 0933f04 0ffebd1 127a2ac 2f9238f 33f55e8 37a79e5 48b997b 4c26600 5974b24 5de3888 65b16da
6b96bf8 771fe7d 7a97c43 7b173e2 7d9f6f9 8523a23 9dc5e74 a34d168 a725852 b87abcd b8f1f45 c8cacc5 cdd15e9 d6d309d f5e7594
9c1947c f832fc4 fca9db0
"""
"""Commits that measured under the protocol's version 2; whatever comes after them has version 3."""
NOTE_2 = (
    "Protocol version 2: gains are in the reward's unit; the NDCG budget is 97 % of the start's NDCG@10 on the "
    "validation events of users A, without a lower bound; permuted placebos shuffle rewards within each user."
)


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
SEEN = "A *seen* log: earlier versions of the project were measured on it, so it describes and does not confirm."
CONTENT: dict[str, tuple[str, list[Table]]] = {
    "ml-100k": (
        "Tables: ML-100K",
        [
            of_methods(
                "Every method on HSTU",
                ("ml-100k", "ml-100k, main rows"),
                "--log ml-100k",
                "`popularity`, `popularity_high` and `item_mean` have no NDCG budget: value alone decides nothing.",
            ),
            of_methods(
                "OneRec",
                ("ml-100k, onerec", "ml-100k, onerec, lists of its own"),
                "--log ml-100k --policy onerec --seeds 0 1 2",
                "`head: node`, codes 46 x 46 from co-occurrence. PPO and ECPO draw at a tenth of the histories.",
            ),
        ],
    ),
    "ml-1m": (
        "Tables: ML-1M",
        [
            of_methods("Methods on HSTU", ("ml-1m",), "--log ml-1m --workers 2", SEEN),
            of_methods(
                "OneRec",
                ("ml-1m, onerec",),
                "--log ml-1m --policy onerec --seeds 0",
                "One seed: intervals cover users only. `head: node`, codes 68 x 68 from co-occurrence, no dropout.",
            ),
        ],
    ),
    "kuairand": (
        "Tables: KuaiRand excerpt",
        [
            of_methods(
                "Watch ratio",
                ("kuairand-pure-excerpt",),
                "--log kuairand-pure-excerpt",
                f"{SEEN} 21 % of the events have a reward. The reward model's trust verdict is `weak` with every seed.",
            ),
            Table(
                "Why a placebo gained by watch ratio",
                "placebo.py --log kuairand-pure-excerpt",
                ("kuairand-pure-excerpt",),
                "placebo",
                {
                    "early": "share of events among their user's first ten with a reward",
                    "item_mean": "mean over events of the item's mean reward, weighted",
                    "shift": "shift of that, A-SFT's is 1",
                    "users": "correlation of a user's weight with his mean reward",
                },
            ),
            of_methods(
                "Clicks, judged by long views",
                ("kuairand-pure-excerpt-clicked",),
                "--log kuairand-pure-excerpt-clicked",
                f"{SEEN} Methods learn from clicks (22 % of the events), judges from long views. `popularity_high` "
                "counts long views, which the other rows do not know.",
            ),
        ],
    ),
    "simulated": (
        "Tables: simulated worlds",
        [
            of_methods(
                "Five worlds", ("simulated", "simulated, main rows"), "--log simulated", "No form was chosen on them."
            ),
            of_methods(
                "Five worlds, policies that see rewards",
                ("simulated, policies see rewards",),
                "--log simulated --feedback",
            ),
            of_methods(
                "Ten unopened worlds",
                ("simulated, unopened",),
                "--log simulated --label unopened --seeds 1000 1001 1002 1003 1004 1005 1006 1007 1008 1009",
                "Run once, with A-SFT as it was frozen at 5974b24: the confirmation.",
            ),
            *(
                of_methods(
                    f"{world.capitalize()}: {what}",
                    (f"simulated-{world}, not searched",),
                    f"--log simulated --world {world} --no-search --seeds 6 7 8",
                )
                for world, what in {
                    "noise": "rewards tell nothing of the truth",
                    "clear": "a reward model can know nearly everything",
                    "confounded": "rewards are due to when an item was met",
                }.items()
            ),
            Table(
                "Cost of a training step",
                "step_cost.py",
                ("simulated",),
                "step_cost",
                {"cost/step_ms": "milliseconds", "cost/step_relative": "beside cloning's"},
                digits=1,
                note="Two threads of a CPU; least and largest of the repetitions in brackets.",
            ),
        ],
    ),
    "asft": (
        "Tables: forms of A-SFT, temperature, step size",
        [
            *(
                Table(
                    f"Forms: {title}",
                    f"forms.py {command}",
                    (log,),
                    "forms",
                    GAINS,
                    note="Validation. Every row retains 97 % of the start's NDCG@10. `permuted`: the form's placebo.",
                )
                for title, log, command in (
                    ("worlds 31 to 33, noise 1.05", "simulated, noise 1.05", "--log simulated"),
                    ("worlds 31 to 33, noise 3", "simulated, noise 3", "--log simulated --noise 3"),
                    ("ML-100K, seed 0", "ml-100k", "--log ml-100k --seeds 0"),
                    (
                        "ML-100K, three seeds",
                        "ml-100k, three seeds",
                        '--log ml-100k --seeds 0 1 2 --label "three seeds"',
                    ),
                    *(
                        (
                            f"events of other {left_out}, noise {noise}",
                            f"simulated, noise {noise}, held out: {held}",
                            f"--log simulated --held-out {held}" + f" --noise {noise}" * (noise == "3"),
                        )
                        for held, left_out in (("users", "users"), ("newest", "times"))
                        for noise in ("1.05", "3")
                    ),
                )
            ),
            *(
                Table(
                    f"Temperature: reward noise {noise}",
                    "noise.py",
                    (f"noise {noise}",),
                    "noise",
                    GAINS,
                    note="Worlds 21 to 23, validation, where 97 % of the start's NDCG@10 is retained.",
                )
                for noise in ("0.3", "1.05", "3")
            ),
            *(
                Table(
                    f"Step size: {title}",
                    "frontier.py --log simulated",
                    ("simulated",),
                    "frontier",
                    GAINS,
                    prefix=prefix,
                    note="Worlds 26 to 28, validation, each method trained once, interpolated along its path.",
                )
                for title, prefix in (("97 % of NDCG retained", "97 % kept: "), ("a KL of 0.1 nats", "0.1 nats: "))
            ),
        ],
    ),
    "encoders": (
        "Tables: encoders",
        [
            ranks(
                "ML-1M, the last event of a user",
                "ml-1m-leave-last",
                "encoders.py",
                "`rectools-*`: RecTools 0.19's own models, by its tutorial. Times are floored to 600 seconds.",
            ),
            ranks("ML-100K, the last ten events of a user", "ml-100k", "encoders.py --log ml-100k"),
            ranks("KuaiRand excerpt, by time", "kuairand-pure-excerpt", "encoders.py --log kuairand-pure-excerpt"),
            *(
                Table(
                    f"Item-kNN, one change at a time: {title}",
                    "item_knn.py",
                    (log,),
                    "item_knn",
                    {"validation/ndcg@10": "ndcg@10 on validation, users A"},
                    digits=4,
                )
                for title, log in {
                    "ML-100K": "ml-100k",
                    "ML-1M": "ml-1m",
                    "KuaiRand excerpt": "kuairand-pure-excerpt",
                    "simulated": "simulated",
                }.items()
            ),
            *(
                Table(
                    f"Item prior: {title}",
                    f"prior.py {command}".strip(),
                    (log,),
                    "prior",
                    {
                        "strength": "c",
                        "validation/ndcg@10_without": "validation, without",
                        "validation/ndcg@10": "validation, with",
                        "test/ndcg@10_without": "test, without",
                        "test/ndcg@10": "test, with",
                    },
                    digits=4,
                    note="ndcg@10; each row changes one thing of the recipe.",
                )
                for title, log, command in (
                    ("ML-100K", "ml-100k", ""),
                    ("ML-1M", "ml-1m-leave-last", "--log ml-1m-leave-last --rows default --seeds 0"),
                )
            ),
            *(
                Table(
                    f"OneRec, one change at a time: {log}",
                    "changes.py",
                    (log,),
                    "changes",
                    {
                        "validation/ndcg@10/best": "validation ndcg@10, best epoch",
                        "validation/ndcg@10/last": "last epoch",
                    },
                    digits=4,
                )
                for log in ("ml-1m-leave-last, 7 epochs", "ml-1m-leave-last, 20 epochs", "ml-100k, 100 epochs")
            ),
        ],
    ),
    "offpolicy": (
        "Tables: off-policy estimates",
        [
            Table(
                f"Simulated worlds, {by}",
                "offpolicy.py --parts worlds",
                (f"simulated, {by}",),
                "offpolicy",
                {
                    "ess": "users in effect",
                    "estimates": "estimates",
                    **{
                        f"{what}/{name}": f"{name}: {what}"
                        for name in ("ips", "snips", "dm", "dr")
                        for what in ("coverage", "halfwidth", "rmse")
                    },
                },
                digits=None,
            )
            for by in ("by effective sample size", "by policy")
        ]
        + [
            Table(
                "Coat: values",
                "offpolicy.py --parts coat",
                ("coat, values",),
                "offpolicy",
                {name: name for name in ("ess", "mean_weight", "observed", "ips", "snips", "dm", "dr")},
                digits=None,
            ),
            Table(
                "Coat: ranks of the sixteen, k = 5",
                "offpolicy.py --parts coat",
                ("coat, ranks",),
                "offpolicy",
                {name: name for name in ("rank/ndcg", "rank/mrr", "rank/reward", "rank/uniform")},
                digits=None,
            ),
            Table(
                "Open Bandit Dataset, sample",
                "offpolicy.py --parts obd",
                ("obd",),
                "offpolicy",
                {
                    name: name
                    for name in ("ess", "mean_weight", "max_weight", "clicks", "earned", "ips", "snips", "diff/snips")
                },
                digits=None,
            ),
        ],
    ),
}
"""Every page: its name -> its title and its tables."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        if old := stale():
            print(f"not what the rows say: {', '.join(old)}; run python benchmarks/docs_tables.py")
        return len(old)
    for name, text in pages().items():
        write_text(PAGES / name, text)
    return 0


def stale() -> list[str]:
    """Pages that are not what the saved rows say, or that nothing makes."""
    made = pages()
    found = {path.name: path.read_text() for path in PAGES.glob("*.md")}
    return sorted(name for name in made.keys() | found.keys() if made.get(name) != found.get(name))


def pages() -> dict[str, str]:
    """All pages by file name."""
    return {f"{name}.md": page(name) for name in CONTENT} | {"promises.md": promises()}


def promises() -> str:
    """How many trials each promise has had, and when."""
    rows = pl.read_csv(RESULTS / "promises.csv", schema_overrides={"commit": pl.String})
    lines = [
        "# Tables: trials of promises",
        "Made by `benchmarks/docs_tables.py` from `benchmarks/results/promises.csv`, which `pytest --long` writes; do "
        "not edit. `--trials 0.1` makes a tenth of the trials of each long test. A test that fails ends at its first "
        "failure. [What is promised](../promises.md).",
        "| promise | faults injected | trials | failed | tests | date | commit |\n|---|---|---|---|---|---|---|",
    ]
    for (promise, faults), of in rows.group_by("promise", "faults", maintain_order=True):
        dates, commits = (", ".join(sorted(of[name].unique())) for name in ("date", "commit"))
        tests = ", ".join(f"`{name}`" for name in sorted(of["test"].str.split("::").list.first().unique()))
        cells = (promise, faults, f"{of['trials'].sum():,}", f"{of['failed'].sum():,}", tests, dates, commits)
        lines[-1] += "\n| " + " | ".join(map(str, cells)) + " |"
    return "\n\n".join(lines) + "\n"


def page(name: str) -> str:
    title, tables = CONTENT[name]
    intro = (
        "Made by `benchmarks/docs_tables.py` from `benchmarks/results/*.csv`; do not edit. A figure is the mean with "
        "its 95 % interval over users and seeds, or the mean ± sd over seeds. A command runs at the commit that its "
        "table names. [What the columns mean](../figures.md), [what follows](../results.md)."
    )
    return "\n\n".join([f"# {title}", intro, *(section(table) for table in tables)]) + "\n"


def section(table: Table) -> str:
    """A table with its heading, command, commit, version and, if it has them, its paired differences."""
    rows = saved(table)
    commits = rows["commit"].unique(maintain_order=True).to_list()
    assert table.columns
    seeds = max(rows["seeds"].drop_nulls().unique().to_list(), key=len)
    commit = f"Commit {commits[0]}" if len(commits) == 1 else "Commits: last column"
    versions = {2 if each.rstrip("+") in VERSION_2 else 3 for one in commits for each in one.split()}
    version = f"Protocol version {' and '.join(map(str, sorted(versions)))}."
    words = [f"{commit}; seeds {seeds}.", NOTE_2 if table.differences and versions == {2} else version, table.note]
    parts = [f"## {table.title}", f"`python benchmarks/{table.command}`", " ".join(words).strip()]
    plain = PLAIN if table.differences else set[str]()
    parts.append(markdown(rows, table.columns, table.digits, plain, commits=len(commits) > 1))
    for prefix, less in AGAINST.items() if table.differences else ():
        columns = {f"{prefix}/{metric}": METHODS[metric] for metric in (HIGH, VALUE, TRUE)}
        parts += [f"Less {less}, paired, intervals corrected by Holm:", markdown(rows, columns, 4, signed=True)]
    return "\n\n".join(parts)


def saved(table: Table) -> pl.DataFrame:
    """The rows of a table, with the NDCG that methods retain.

    Raises:
        ValueError: the CSV has no row of a table.
    """
    every = pl.read_csv(RESULTS / f"{table.file}.csv", schema_overrides={"seeds": pl.String, "commit": pl.String})
    rows = pl.concat([every.filter(pl.col("log") == log) for log in table.logs])
    rows = rows.unique(["row", "metric"], keep="first", maintain_order=True)
    rows = rows.filter(pl.col("row").str.starts_with(table.prefix))
    rows = rows.with_columns(pl.col("row").str.strip_prefix(table.prefix))
    if rows.is_empty():
        raise ValueError(f"benchmarks/results/{table.file}.csv has no row of {table.title}")
    start = rows.filter(pl.col("row") == "start", pl.col("metric") == ALL)
    if table.differences:
        share = rows.filter(pl.col("metric") == ALL).with_columns(
            pl.col("mean") / start["mean"].item(), metric=pl.lit(RETAINED), sd=None, ci_low=None, ci_high=None
        )
        rows = pl.concat([rows, share], how="vertical_relaxed")
    return rows


def markdown(
    rows: pl.DataFrame,
    columns: dict[str, str],
    digits: int | None,
    plain: set[str] | None = None,
    commits: bool = False,
    signed: bool = False,
) -> str:
    """A line a row. A metric that not every seed has is a dash; columns in ``plain`` have no interval."""
    shown = {metric: head for metric, head in columns.items() if metric in set(rows["metric"])}
    cells = {(row["row"], row["metric"]): row for row in rows.iter_rows(named=True)}
    heads = ["row", *shown.values(), *(["commit"] if commits else [])]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in rows["row"].unique(maintain_order=True):
        own = [cells.get((name, metric)) for metric in shown]
        if not any(own):
            continue
        most = max((len(cell["seeds"] or "") for (row, _), cell in cells.items() if row == name), default=0)
        whole = [cell if cell and (signed or len(cell["seeds"] or "") == most) else None for cell in own]
        figures = [
            figure(cell, digits, metric in (plain or ()), signed) for metric, cell in zip(shown, whole, strict=True)
        ]
        made = [" ".join(sorted({cell["commit"] for cell in own if cell}))] if commits else []
        lines.append(f"| {' | '.join([f'`{name}`', *figures, *made])} |")
    return "\n".join(lines)


def figure(cell: dict[str, Any] | None, digits: int | None, plain: bool = False, signed: bool = False) -> str:
    """The mean, with its interval or its sd over seeds where it has one."""
    if cell is None:
        return "-"
    mean = cell["mean"]
    behind = digits if digits is not None else _behind(mean)

    def text(x: float) -> str:
        return f"{x:{'+' if signed else ''}z.{behind}f}"

    if cell["metric"] == RETAINED:
        return f"{mean:.1%}"
    if plain:
        return text(mean)
    if cell["ci_low"] is not None and cell["ci_high"] is not None:
        return f"{text(mean)} ({text(cell['ci_low'])} .. {text(cell['ci_high'])})"
    return f"{text(mean)} ± {text(cell['sd'])}" if cell["sd"] else text(mean)


def _behind(x: float) -> int:
    """Digits behind the point that leave three that count."""
    return max(0, 2 - math.floor(math.log10(abs(x)))) if x else 2


if __name__ == "__main__":
    sys.exit(main())
