"""Every post-training method from one checkpoint, on one budget: the tables, and what they say of the claim.

    python -m benchmarks.methods.run --log ml-100k [--seeds 0 1] [--methods bc asft] [--no-search] [--runs DIR]
    python -m benchmarks.methods.run --log simulated --world noise
    python -m benchmarks.methods.run --log ml-100k --feedback
    python -m benchmarks.methods.run --log ml-100k --policy onerec --methods start ppo -- --stages.ppo.model.share=0.1

Each log is one chain (conf/chains/<log>-methods.yaml) that searches, trains and measures under the same rules; what has
run is not run again, so that an interrupted table goes on where it stopped. Cells run side by side: one a GPU, else one
a core, with one thread each. Worlds: those of `WORLDS`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import polars as pl
import torch

from benchmarks.lib import CONF, commit, markdown, options, save, summary
from benchmarks.methods.claim import verdicts
from recalign.cli import main as recalign
from recalign.evaluation import chain_comparison
from recalign.evaluation.chain_comparison import load_roles
from recalign.evaluation.comparison import JUDGE_VALUE, NDCG_ALL, NDCG_HIGH
from recalign.evaluation.comparison_table import ComparisonTable
from recalign.evaluation.roles import Roles
from recalign.recommender.interpolation import ALPHAS

FILES = {path.stem.removesuffix("-methods"): path for path in CONF.glob("chains/*-methods.yaml")}
FILES["kuairand-pure-excerpt-clicked"] = CONF / "chains/kuairand-pure-excerpt-clicked.yaml"
WORLDS: dict[str, dict[str, float]] = {
    "default": {},
    "noise": {"signal": 0.0},  # rewards tell nothing of the truth: nobody may gain, and A-SFT may not harm
    "clear": {"noise": 0.05, "generosity": 0.0, "circumstance": 0.0},  # a reward model can know nearly everything
    "confounded": {"circumstance": 1.5, "confounding": 2.0},  # rewards are due to when an item was met
}
POLICIES = {"hstu": "recommender", "onerec": "recommender-onerec"}
KEPT, REACH = "policy/ndcg_retained", "policy/alpha"
COLUMNS = {
    NDCG_ALL: NDCG_ALL,
    NDCG_HIGH: NDCG_HIGH,
    JUDGE_VALUE: "judges' value",
    "value_at_popularity": "value at equal popularity",
    "value/true@10": "true value",
    "value/reward_model@10": "value by the training reward model",
    "policy/kl": "KL",
    "policy/changed@10": "changed of the first ten",
    "policy/coverage@10": "coverage",
    "policy/popularity@10": "popularity",
    "tail/high/ndcg@10": "tail: high/ndcg@10",
    "tail/value/judge@10": "tail: judges' value",
    KEPT: "kept on validation",
    f"{KEPT}_se": "its standard error",
}
COMPARED = (NDCG_ALL, NDCG_HIGH, JUDGE_VALUE, "value/true@10")
DIFFERENCES = {
    "best_baseline": "Against the better of start and bc",
    "asft": "Less A-SFT's",
    "rerank": "Less reranking's",
}


def main() -> None:
    parser = options(__doc__, runs="runs", data=True)
    parser.add_argument("--log", required=True, choices=sorted(FILES))
    parser.add_argument("--world", default="default", choices=sorted(WORLDS), help="of the simulated log")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of the chain's own")
    parser.add_argument("--methods", nargs="+", help="rows, instead of the chain's own")
    parser.add_argument("--label", help="what to call a table of other rows, which then stands beside the log's own")
    parser.add_argument("--feedback", action="store_true", help="policies that see the rewards of earlier events")
    parser.add_argument("--policy", default="hstu", choices=list(POLICIES), help="what generates recommendations")
    parser.add_argument("--workers", type=int, default=cores(), help="cells that run at once, a process each")
    parser.add_argument("--no-search", action="store_true", help="methods as their YAML files have them")
    parser.add_argument("chain", nargs="*", help="words for the chain, after --: -- --stages.ppo.model.share=0.1")
    given = parser.parse_args()
    log = given.log if given.world == "default" else f"{given.log}-{given.world}"
    suffix = f"-{given.policy}" * (given.policy != "hstu")
    name = f"{log}-methods" + suffix + "-feedback" * given.feedback + "-unsearched" * given.no_search
    settings = {
        "config": FILES[given.log],
        "name": name,
        "root": given.runs,
        "seeds": given.seeds,
        "trials": 0 if given.no_search else None,
        "methods": given.methods,
        "recommender": POLICIES[given.policy],
        "stages.recommender.model.feedback": "true" if given.feedback else None,
        "world": json.dumps(WORLDS[given.world]) if given.world != "default" else None,
        "data.root": given.data,
        "workers": given.workers,
    }
    words = [f"--{key}={value}" for key, value in settings.items() if value is not None]
    began = time.monotonic()
    if code := recalign(["chain", *words, *given.chain]):
        sys.exit(code)
    print(f"{name}: {(time.monotonic() - began) / 60:.1f} min, without what had run before")
    log += f", {given.policy}" * (given.policy != "hstu")
    log += ", policies see rewards" * given.feedback + ", not searched" * given.no_search
    report(given.runs / name, log, given.label)


def cores() -> int:
    """How many cells run at once by default: one a GPU, if there is one, else one a core."""
    return torch.cuda.device_count() or os.cpu_count() or 1


def report(folder: Path, log: str, label: str | None = None) -> None:
    """Print the tables and the claim of a chain that has run, and save its rows."""
    log = f"{log}, {label}" if label else log
    frame = chain_comparison.read(folder)
    metrics = set(frame["metric"])
    columns = {metric: text for metric, text in COLUMNS.items() if metric in metrics}
    compared = {
        key: {f"holm_{key}/{metric}": metric for metric in COMPARED if metric in metrics} for key in DIFFERENCES
    }
    rows = summary(frame, log, [*columns, *(metric for shown in compared.values() for metric in shown)])
    text = [
        f"{log}, test, {commit()}: mean and 95 % interval over users and seeds",
        markdown(rows, columns),
        "\n".join(prices(frame)),
        "Differences in value, at equal popularity too, are in standard deviations of the reward.",
    ]
    for key, shown in compared.items():
        text += [
            f"{DIFFERENCES[key]}, interval corrected by Holm:",
            markdown(rows.filter(pl.col("metric").is_in(list(shown))), shown, digits=4),
        ]
    text.append("\n".join(claim(frame, load_roles(folder)[0])))
    print("\n" + "\n\n".join(text))
    print(save(rows, "methods/rows", "log"))


def prices(frame: pl.DataFrame) -> list[str]:
    """Which rows ended at the last reach, with how many of their seeds, and which searched no NDCG budget, as lines."""
    reach = frame.filter((pl.col("metric") == REACH) & (pl.col("seed") != "all"))
    seeds = reach.group_by("method", maintain_order=True).agg(at_end=(pl.col("value") == ALPHAS[-1]).sum(), of=pl.len())
    beyond = [f"`{row}` ({at_end} of {of} seeds)" for row, at_end, of in seeds.iter_rows() if at_end]
    without = [row for row in frame["method"].unique(maintain_order=True) if row not in {"start", *seeds["method"]}]
    found = {"Price not reached": beyond, "Unpriced": [f"`{row}`" for row in without]}
    return [f"- {what}: {', '.join(names)}" for what, names in found.items() if names]


def claim(frame: pl.DataFrame, roles: Roles) -> list[str]:
    """The claim's parts with the figures behind each, as lines."""
    lines = []
    for number, verdict in enumerate(verdicts(ComparisonTable(frame, roles)), start=1):
        lines += [f"{number}. {verdict.word}: {verdict.part}", *(f"   - {line}" for line in verdict.why)]
    return lines


if __name__ == "__main__":
    main()
