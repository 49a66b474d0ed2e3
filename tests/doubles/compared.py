"""Figures of a comparison and trust reports, made up by hand."""

import polars as pl

from recalign.data.sequences.audit import FOLLOWS, READING, SEEN
from recalign.evaluation.comparison import SCHEMA
from recalign.evaluation.comparison_table import ComparisonTable
from recalign.evaluation.methods import MethodRun
from recalign.evaluation.roles import NON_LEARNED_BASELINES, Roles
from recalign.evaluation.rows import row_of

ROLES = Roles("mine", {"sham": "mine"})
CONTROLS = {"start": 3.0, "bc": 2.9, "popularity_tilt": 2.95, "sham": 3.0}
CONTROLS |= {"popularity": 3.0, "popularity_high": 3.0, "item_mean": 3.0, "item_knn": 3.0, "transitions": 3.0}
VALUES = CONTROLS | {"mine": 3.2}
KEPT = {"popularity": 0.5, "popularity_high": 0.4, "item_mean": 0.1, "item_knn": 0.9, "transitions": 0.7}
"""Of the rows that rank otherwise than `start`."""
COVERAGE = {"popularity": 0.02, "popularity_high": 0.02, "item_mean": 0.02}


def rows(values, kept=None, gains=None, over_tilt=None, beyond=None, seeds=("0",), split="test", sd=1.0, others=None):
    """Rows of `comparison.csv`.

    Args:
        values: by method, whose ranking keeps the share ``kept`` of the start's.
        gains, over_tilt, beyond: ends of the intervals of the gain over the better baseline, over `popularity_tilt`,
            and of the gain less twice that of the placebo `sham`, in the unit of the reward.
        sd: standard deviation of the rewards.
        others: further rows of the split by (method, metric).
    """
    found = []

    def add(method, metric, value, low=None, high=None, seed="all"):
        found.append((method, seed, split, metric, value, low, high))

    for method, value in values.items():
        share = (KEPT | (kept or {})).get(method, 1.0)
        for whose in ("all", "all_users"):
            add(method, f"{whose}/ndcg@10", 0.1 * share, 0.0, 1.0)
        add(method, "all_users/hits@10", 1000.0 * share)
        for seed in seeds:
            add(method, "value/judge@10", value, seed=seed)
        for who in ("judge", "select_judge"):
            add(method, f"value/{who}@10", value, value, value)
        differences = {
            "diff_best_baseline": (gains or {}).get(method, (0.1, 0.3)),
            "diff_popularity_tilt": (over_tilt or {}).get(method, (0.05, 0.2)),
            "gain_minus_2x_sham": (beyond or {}).get(method, (0.05, 0.3)),
        }
        differences |= dict.fromkeys((f"diff_{free}" for free in NON_LEARNED_BASELINES), (0.05, 0.2))
        for name, (low, high) in differences.items():
            add(method, f"{name}/value/judge@10", (low + high) / 2, low, high)
        of_start = ("diff_best_baseline", "diff_start")
        for name in (*of_start, *(f"diff_{free}" for free in NON_LEARNED_BASELINES)):
            loss = 0.1 * (share - 1) if name in of_start else 0.02
            for whose in ("all", "all_users"):
                add(method, f"{name}/{whose}/ndcg@10", loss, loss - 0.003, loss + 0.003)
        figures = {"reward/sd": sd, "reward/user_sd": 0.5 * sd, "policy/coverage@10": COVERAGE.get(method, 0.4)}
        figures |= {"placebo/correlation": 0.01} if method in ROLES.placebos else {"reads/reward_model": 1.0}
        for name, figure in figures.items():
            add(method, name, figure)
    for (method, metric), cell in (others or {}).items():
        found = [row for row in found if row[:2] + row[3:4] != (method, "all", metric)]
        add(method, metric, *cell)
    return found


def table(values=VALUES, roles=ROLES, split="test", **figures):
    """A split's figures; arguments as `rows`."""
    return ComparisonTable(
        pl.DataFrame(rows(values, split=split, **figures), schema=SCHEMA, orient="row"), roles, split
    )


def run_of(method, checkpoint=None, cost=None, **reranked):
    """A method to evaluate; ``reranked``: strength and keep, of a row that reranks."""
    return MethodRun(method, checkpoint, cost or {}, row_of(method, **reranked))


def reports(verdict="moderate", pairwise=(0.6, 0.55, 0.65), judges="moderate", seeds=("0",)):
    measured = {"judged_on": "validation", "validation": {"table": {"model": {"pairwise": list(pairwise)}}}}
    judged = measured | {"verdict": judges, "implication": "Judges."}
    own = {"verdict": verdict, "implication": "Use A-SFT."}
    return {"reward": dict.fromkeys(seeds, own), "judge_report": dict.fromkeys(seeds, judged)}


def checked(met=0.0, verdict="verdict: usable", follow=0.0, ties="not said"):
    """What `recalign check` found."""
    return {"verdict": verdict, "test": {SEEN: met, FOLLOWS: follow}, "split": {READING: ties}}
