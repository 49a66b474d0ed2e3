"""Two readings of a log, each one chain: every row a choice or what was shown and chosen; one order or sets.

    python -m benchmarks.shown.run --log kuairand --reading chosen [--seeds 0 1 2] [--data DIR] [-- WORDS OF THE CHAIN]
    python -m benchmarks.shown.run --log shop --reading together

Logs: kuairand and worlds (ten items shown, the truth known) as *choices* (every row is one; *high* are those that were
chosen) and as *chosen*; ml-100k, ml-1m and shop as *order* and *together*. Settings are not searched. What has run is
not run again. `--report` saves the rows of what runs there are, and runs nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from benchmarks.lib import markdown, options, save, summary
from recalign.cli import main as recalign
from recalign.data.simulation import shop, simulate
from recalign.evaluation import chain_comparison
from recalign.evaluation.comparison import JUDGE_VALUE, NDCG_ALL, NDCG_HIGH, SHOWN_AUC

UNTRAINED = ["start", "item_knn", "transitions", "popularity"]
SHOWN_ROWS = [*UNTRAINED, "bc", "reward_weighted", "asft", "asft_permuted", "rerank", "rerank_permuted", "asft_rerank"]
SHOWN_ROWS += ["dpo", "wbc"]
TIES_ROWS = [*UNTRAINED[:3], "bc", "asft"]
WATCHED = "least(play_time_ms / nullif(duration_ms, 0), 2.0) - 0.2"  # as conf has it of what was shown
COLUMNS = {
    NDCG_ALL: NDCG_ALL,
    NDCG_HIGH: NDCG_HIGH,
    JUDGE_VALUE: "judges' value",
    "value/true@10": "true value",
    SHOWN_AUC: SHOWN_AUC,
    "shown/ndcg": "shown/ndcg",
    "policy/ndcg_retained": "kept on validation",
}
COMPARED = (NDCG_ALL, NDCG_HIGH, JUDGE_VALUE, "value/true@10", SHOWN_AUC)
GAINS = {f"holm_best_baseline/{metric}": metric for metric in COMPARED}
SESSION = 1800  # seconds without an event after which a customer's next basket begins


@dataclass(frozen=True)
class Log:
    """A log of the study.

    Attributes:
        chain: its chain in conf.
        methods: rows of the table.
        seeds: those of the chain, unless others are given.
        readings: by name the words of the chain that make it.
    """

    chain: str
    methods: list[str]
    seeds: list[int]
    readings: Mapping[str, Mapping[str, object]] = field(
        default_factory=lambda: {name: {"data.ties": name} for name in ("order", "together")}
    )


LOGS = {
    "kuairand": Log(
        "kuairand-pure-excerpt-shown",
        SHOWN_ROWS,
        [0, 1, 2],
        {
            "chosen": {},
            "choices": {
                "log": "kuairand-pure-excerpt",
                "data.reward": WATCHED,
                "data.high": {"expression": "coalesce(is_click, long_view) = 1", "quantile": None, "within": None},
            },
        },
    ),
    "worlds": Log(
        "simulated-shown-methods",
        SHOWN_ROWS,
        [0, 1, 2],
        {
            "chosen": {},
            "choices": {
                "data.log.chosen": None,
                "data.log.passed_reward": None,
                "data.reward": "coalesce(reward - 3, case when chosen then null else -1.0 end)",
                "data.high": {"expression": "chosen"},
            },
        },
    ),
    "ml-100k": Log("ml-100k", TIES_ROWS, [0]),
    "ml-1m": Log("ml-1m-methods", [*TIES_ROWS, "rerank", "rerank_permuted"], [0]),
    "shop": Log("own-log", TIES_ROWS, [0, 1, 2]),
}


def main() -> None:
    parser = options(__doc__, runs="runs", data=True)
    parser.add_argument("--log", required=True, choices=list(LOGS))
    parser.add_argument("--reading", choices=sorted({name for log in LOGS.values() for name in log.readings}))
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of the study's own")
    parser.add_argument("--report", action="store_true", help="save the rows of what has run")
    parser.add_argument("chain", nargs="*", help="words for the chain, after --")
    given = parser.parse_args()
    log = LOGS[given.log]
    for reading in [given.reading] if given.reading else log.readings:
        folder = given.runs / f"{given.log}-{reading}"
        if not given.report:
            words = {
                "config": log.chain,
                "name": folder.name,
                "root": str(given.runs),
                "seeds": given.seeds or log.seeds,
                "methods": log.methods,
                "trials": 0,
                **({"data.root": given.data} if given.data and given.log != "worlds" else {}),  # each seed's is its own
                **({"log": str(shop_log(given.runs / "shop"))} if given.log == "shop" else {}),
                **log.readings[reading],
            }
            spelt = (f"--{key}={text if isinstance(text, str) else json.dumps(text)}" for key, text in words.items())
            if code := recalign(["chain", *spelt, *given.chain]):
                sys.exit(code)
        report(folder, given.log, reading)


def shop_log(folder: Path) -> Path:
    """The YAML of a shop's log in which all that a customer bought in one session has its first time."""
    path, written = folder / "baskets.csv", folder / "baskets.yaml"
    if not written.is_file():
        events, _ = shop.tables(simulate(shop.shop()))
        second = pl.col("time").str.to_datetime(time_zone="UTC").dt.epoch("s")
        opens = (second.diff().over("customer", order_by="time") >= SESSION).fill_null(True)
        session = opens.cum_sum().over("customer", order_by="time")
        baskets = events.with_columns(session=session).with_columns(pl.col("time").min().over("customer", "session"))
        folder.mkdir(parents=True, exist_ok=True)
        baskets.drop("session").write_csv(path)
        if code := recalign(["init", str(path), "--out", str(written)]):
            sys.exit(code)
    return written


def report(folder: Path, log: str, reading: str) -> None:
    """Print the table of a chain that has run, and save its rows."""
    frame = chain_comparison.read(folder)
    rows = summary(frame, f"{log}, {reading}", [*COLUMNS, *GAINS])
    for columns, digits in ((COLUMNS, 3), (GAINS, 4)):
        found = {metric: text for metric, text in columns.items() if metric in set(rows["metric"])}
        print(f"\n{log}, {reading}\n\n{markdown(rows, found, digits)}")
    print(save(rows, "shown/rows", "log"))


if __name__ == "__main__":
    main()
