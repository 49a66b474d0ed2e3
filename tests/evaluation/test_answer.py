"""What the report's first screen says, from figures made up by hand."""

import polars as pl
import pytest

from recalign.evaluation.answer import answer
from recalign.evaluation.comparison import SCHEMA
from recalign.evaluation.comparison_table import ComparisonTable
from recalign.evaluation.roles import Roles

ROLES = Roles("mine", {"sham": "mine"})
TRUST = {
    "0": {"verdict": "no_signal", "implication": "Use the item means."},
    "1": {"verdict": "no_signal", "implication": "Use the item means."},
}


def cards(values, kept=(), gain=(0.1, 0.3), seeds=("0",), trust=None):
    """Cards by question: of methods' values, those that keep less than all, and the interval of every gain."""
    rows = []
    for method, value in values.items():
        share = dict(kept).get(method, 1.0)
        rows += [(method, "all", "test", "value/judge@10", value, value, value)]
        rows += [(method, "all", "test", "all/ndcg@10", 0.1 * share, 0.0, 1.0)]
        rows += [(method, "all", "test", "holm_best_bc/value/judge@10", value - 3.0, *gain)]
        rows += [(method, "all", "test", "diff_mine/value/judge@10", value - values.get("mine", 0.0), *gain)]
        rows += [(method, "all", "test", "cost/seconds", 30.0, None, None)]
        rows += [(method, seed, "test", "value/judge@10", value, None, None) for seed in seeds]
    table = ComparisonTable(pl.DataFrame(rows, schema=SCHEMA, orient="row"), ROLES)
    return {card.question: card for card in answer(table, trust or {})}


def test_the_best_row_is_named_with_what_it_gains_and_costs():
    found = cards({"start": 3.0, "bc": 2.9, "mine": 3.2, "other": 3.1}, {"mine": 0.96}.items())
    assert found["Which is best?"].words == "mine"
    assert "3.200, of the 2 of 2 methods that keep 95% of the all/ndcg@10 of start" in found["Which is best?"].text
    gain = found["What does it gain?"]
    assert (gain.words, gain.sign) == ("+0.2000", 1)
    assert "+0.2000 [+0.1000, +0.3000] over start, +6.7%" in gain.text
    assert found["What does it cost?"].words == "96.0%"
    assert "training takes 30 s" in found["What does it cost?"].text
    assert "And mine?" not in found  # it is the best


def test_rows_that_are_better_than_ours_are_named():
    values = {"start": 3.0, "mine": 3.2, "a": 3.3, "b": 3.4, "greedy": 9.0, "sham": 8.0}
    found = cards(values, {"greedy": 0.5}.items())
    assert found["Which is best?"].words == "b"  # greedy loses too much, sham is a placebo
    assert found["And mine?"].words == "2 better"
    assert "More have: b +0.2000 [" in found["And mine?"].text
    assert "; a +0.1000 [" in found["And mine?"].text
    assert "greedy" not in found["And mine?"].text


def test_a_gain_that_may_be_chance_is_called_so():
    gain = cards({"start": 3.0, "mine": 3.2}, gain=(-0.1, 0.3))["What does it gain?"]
    assert gain.sign == 0
    assert "may be chance" in gain.text


def test_nobody_keeps_enough():
    found = cards({"start": 3.0, "mine": 3.2}, {"mine": 0.9}.items())
    assert found["Which is best?"].words == "none"
    assert "What does it gain?" not in found
    assert found["And mine?"].words == "loses too much"


@pytest.mark.parametrize(("seeds", "words"), [(("0",), "1 seed"), (("0", "1"), "2 seeds")])
def test_one_seed_is_called_one_seed(seeds, words):
    card = cards({"start": 3.0, "mine": 3.2}, seeds=seeds)["How sure is this?"]
    assert card.words == words
    assert ("Another seed may" in card.text) == (len(seeds) == 1)


def test_the_reward_models_verdict_is_said():
    card = cards({"start": 3.0, "mine": 3.2}, trust=TRUST)["May the reward model be trusted?"]
    assert (card.words, card.text) == ("no signal", "Use the item means. (seed 0, 1)")


def test_baselines_alone_need_no_answer():
    assert cards({"start": 3.0, "bc": 3.1, "sham": 3.2}) == {}
