"""The claim's words follow from the figures, by hand."""

import polars as pl
import pytest

from recalign.evaluation.cells import Cells
from recalign.evaluation.claim import verdicts
from recalign.evaluation.comparison import SCHEMA

METRICS = ("high/ndcg@10", "value/judge@10")


ABOVE = (0.01, 0.03)


def figures(asft=0.1, gain=ABOVE, weighted=ABOVE, rival=ABOVE, rerank=ABOVE, placebo=(-1, 0.01), seeds=(0, 1)):
    """`comparison.csv` of a log: intervals of A-SFT's differences, in favour of A-SFT; the placebos' own gain."""
    methods = ("start", "bc", "reward_weighted", "rerank", "cql", "asft", "asft_permuted", "asft_random")
    values = dict.fromkeys(methods, 1.0) | {"cql": 2.0}
    rows = [(method, "all/ndcg@10", 0.1, 0.1, 0.1) for method in methods if method != "asft"]
    rows += [("asft", "all/ndcg@10", asft, asft, asft)]
    for metric in METRICS:
        rows += [(method, metric, values[method], 0.0, 3.0) for method in methods]
        rows += [("asft", f"holm_best_bc/{metric}", 0.02, *gain), ("asft", f"diff_best_bc/{metric}", 0.02, *gain)]
        for other, (low, high) in {"reward_weighted": weighted, "rerank": rerank}.items():
            rows += [(other, f"holm_asft/{metric}", -0.02, -high, -low)]
        rows += [(placebo_, f"diff_best_bc/{metric}", 0.0, *placebo) for placebo_ in ("asft_permuted", "asft_random")]
        rows += [("cql", f"diff_asft/{metric}", -0.02, -rival[1], -rival[0])]
    long = [(method, "all", "test", metric, *cell) for method, metric, *cell in rows]
    long += [("asft", str(seed), "test", "all/ndcg@10", asft, None, None) for seed in seeds]
    return Cells(pl.DataFrame(long, schema=SCHEMA, orient="row"))


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
        ({"rival": (-0.059, 0.0)}, 1, "holds"),  # the margin is 3 % of cql's 2.0
        ({"rival": (-0.061, 0.0)}, 1, "not shown"),
        ({"rival": (-0.08, -0.061)}, 1, "does not hold"),
        ({}, 2, "holds"),
        ({"rerank": (-0.01, 0.03)}, 2, "not shown"),
        ({"rerank": (-0.03, -0.01)}, 2, "does not hold"),
        ({"placebo": (0.001, 1)}, 2, "does not hold"),
        ({"placebo": (-0.01, 0.009)}, 2, "holds"),  # half of A-SFT's own 0.02 is 0.01
        ({"placebo": (-0.01, 0.011)}, 2, "not shown"),
        *(({"seeds": (0,)}, part, "not shown") for part in range(4)),
        ({}, 3, "not shown"),
    ],
)
def test_words(changes, part, word):
    assert verdicts(figures(**changes))[part].word == word


def test_a_method_that_was_not_run_leaves_it_open():
    without = Cells(pl.DataFrame([("asft", "all", "test", "all/ndcg@10", 0.1, 0.1, 0.1)], schema=SCHEMA, orient="row"))
    assert {verdict.word for verdict in verdicts(without)} == {"not shown"}
    assert any("reward_weighted was not measured" in line for line in verdicts(without)[0].why)


def test_figures_are_shown_in_favour_of_asft():
    lines = verdicts(figures(weighted=(0.01, 0.04)))[0].why
    assert "high/ndcg@10: +0.0200 [+0.0100, +0.0400] against reward_weighted" in lines
