"""The claim's words follow from the figures, by hand."""

import polars as pl
import pytest

from benchmarks.methods.claim import verdicts
from recalign.evaluation.comparison import SCHEMA
from recalign.evaluation.comparison_table import ComparisonTable
from recalign.evaluation.roles import Roles

METRICS = ("high/ndcg@10", "value/judge@10")


ABOVE = (0.01, 0.03)
PLACEBOS = ("asft_permuted", "asft_random")
ROLES = Roles("asft", dict.fromkeys(PLACEBOS, "asft"))


def figures(
    asft=0.1,
    gain=ABOVE,
    weighted=ABOVE,
    rival=ABOVE,
    rerank=ABOVE,
    tilt=ABOVE,
    beyond=ABOVE,
    correlation=0.01,
    seeds=(0, 1),
    widened=None,
    once=(),
    sd=1.0,
):
    """`comparison.csv` of a log: intervals of A-SFT's differences, in favour of A-SFT; that of its gain less twice that
    of each placebo.

    The methods in `once` have only the first seed.
    """
    compared = {"reward_weighted": weighted, "rerank": rerank, "popularity_tilt": tilt}
    methods = ("start", "bc", *compared, "cql", "asft", "asft_permuted", "asft_random")
    values = dict.fromkeys(methods, 1.0) | {"asft": 2.0}
    rows = [(method, "all_users/ndcg@10", 0.1, 0.1, 0.1) for method in methods if method != "asft"]
    rows += [("asft", "all_users/ndcg@10", asft, asft, asft), ("asft", "reward/sd", sd, None, None)]
    rows += [
        (one, "diff_best_baseline/all_users/ndcg@10", asft - 0.1 if one == "asft" else 0.0, None, None)
        for one in methods
    ]
    for metric in METRICS:
        rows += [(method, metric, values[method], 0.0, 3.0) for method in methods]
        rows += [
            ("asft", f"holm_best_baseline/{metric}", 0.02, *gain),
            ("asft", f"diff_best_baseline/{metric}", 0.02, *gain),
        ]
        for other, (low, high) in compared.items():
            rows += [(other, f"holm_asft/{metric}", -0.02, -high, -low)]
        for other in methods:
            low, high = rival if other == "cql" else ABOVE
            rows += [(other, f"diff_asft/{metric}", -0.02, -high, -low)]
            if other not in compared:
                low, high = widened if widened and other == "cql" else (low, high)
                rows += [(other, f"holm_asft/{metric}", -0.02, -high, -low)]
    for sham in PLACEBOS:
        rows += [("asft", f"gain_minus_2x_{sham}/value/judge@10", 0.02, *beyond)]
        rows += [(sham, "placebo/correlation", correlation, correlation, correlation)]
    long = [(method, "all", "test", metric, *cell) for method, metric, *cell in rows]
    long += [(m, str(seed), "test", "all_users/ndcg@10", 0.1, None, None) for m in methods for seed in seeds]
    long = [row for row in long if row[:2] not in {(method, "1") for method in once}]
    return ComparisonTable(pl.DataFrame(long, schema=SCHEMA, orient="row"), ROLES)


@pytest.mark.parametrize(
    ("changes", "part", "word"),
    [
        ({}, 0, "holds"),
        ({"gain": (-0.01, 0.03)}, 0, "not shown"),
        ({"weighted": (-0.03, -0.01)}, 0, "does not hold"),
        ({"asft": 0.094}, 0, "does not hold"),
        ({"asft": 0.096}, 0, "holds"),
        ({"asft": float("nan")}, 0, "not shown"),
        ({}, 1, "holds"),
        ({"rival": (-0.099, 0.0)}, 1, "holds"),  # the margin is a tenth of a standard deviation
        ({"rival": (-0.101, 0.0)}, 1, "not shown"),
        ({"rival": (-0.12, -0.101)}, 1, "does not hold"),
        ({"rival": (-0.12, -0.101), "widened": (-0.13, -0.09)}, 1, "not shown"),  # one of many has to show it
        ({"rival": (-0.099, 0.0), "widened": (-0.11, 0.1)}, 1, "holds"),  # all of them have to: no Holm
        ({"rival": (-0.06, 0.0), "sd": 0.5}, 1, "not shown"),  # -.12 standard deviations
        ({"sd": float("nan")}, 1, "not shown"),
        ({"tilt": (-0.01, 0.03)}, 1, "not shown"),
        ({"tilt": (-0.03, -0.01)}, 1, "does not hold"),
        ({}, 2, "holds"),
        ({"rerank": (-0.01, 0.03)}, 2, "not shown"),
        ({"rerank": (-0.03, -0.01)}, 2, "does not hold"),
        ({"beyond": (-0.03, -0.01)}, 2, "does not hold"),
        ({"beyond": (-0.01, 0.03)}, 2, "not shown"),
        ({"correlation": 0.2}, 2, "not shown"),  # no placebo
        *(({"seeds": (0,)}, part, "not shown") for part in range(4)),
        *(({"once": ("asft",)}, part, "not shown") for part in range(4)),
        *(({"once": ("cql",)}, part, word) for part, word in enumerate(["holds", "not shown", "holds"])),
        *(({"once": ("rerank",)}, part, word) for part, word in enumerate(["holds", "not shown", "not shown"])),
        ({}, 3, "not shown"),
    ],
)
def test_claim_outcome_of_each_part(changes, part, word):
    assert verdicts(figures(**changes))[part].word == word


def test_a_method_that_was_not_run_leaves_it_open():
    without = ComparisonTable(
        pl.DataFrame([("asft", "all", "test", "all_users/ndcg@10", 0.1, 0.1, 0.1)], schema=SCHEMA, orient="row"),
        Roles(),
    )
    assert {verdict.word for verdict in verdicts(without)} == {"not shown"}
    assert any("reward_weighted was not measured" in line for line in verdicts(without)[0].why)


def test_figures_are_shown_in_favour_of_asft():
    lines = verdicts(figures(weighted=(0.01, 0.04)))[0].why
    assert "high/ndcg@10: +0.0200 [+0.0100, +0.0400] against reward_weighted" in lines


def test_asft_reranked_is_no_rival_of_its_own():
    rows = [
        ("asft_rerank", "all", "test", metric, *cell)
        for metric, cell in {
            "all_users/ndcg@10": (0.1, 0.1, 0.1),
            "value/judge@10": (9.0, 8.0, 10.0),
            "diff_asft/value/judge@10": (8.0, 7.0, 9.0),
            "holm_asft/value/judge@10": (8.0, 7.0, 9.0),
        }.items()
    ]
    cells = figures()
    other = ComparisonTable(pl.DataFrame(rows, schema=SCHEMA, orient="row"), Roles())
    cells._cells |= other._cells
    cells.methods += other.methods
    assert verdicts(cells) == verdicts(figures())


def test_every_rival_counts_not_only_the_best_by_value():
    """bc's value is below cql's, but nobody knows how far: its interval is wide."""
    rows = [
        row
        for metric, value, ci in (("diff_asft", 0.0, (-0.1, 0.1)), ("holm_asft", 0.0, (-0.2, 0.2)))
        for row in [("bc", "all", "test", f"{metric}/value/judge@10", value, *ci)]
    ]
    wide = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    cells = figures()
    cells._cells |= ComparisonTable(wide, Roles())._cells
    verdict = verdicts(cells)[1]
    assert verdict.word == "not shown"
    assert "against bc; the margin is -0.10 sd, the closest of 8 others" in verdict.why[1]
