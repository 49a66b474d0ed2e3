"""Ship, do not ship, not decided: each rule on figures made up by hand."""

import pytest
from compared import VALUES, reports, table

from recalign.evaluation.decision import candidate, decide


def decided(test, trust=None, validation=None):
    return decide(test, validation or table(VALUES, split="validation"), trust or reports())


def test_a_sure_gain_that_keeps_the_ranking_is_shipped_with_one_seed_said():
    found = decided(table(VALUES))
    assert (found.word, found.policy) == ("ship", "mine")
    assert found.because == ["mine gains +0.2000 [+0.1000, +0.3000] over start, +6.7%."]
    assert found.would_decide == [
        "Run three seeds: intervals of one seed are over users alone, and another may differ."
    ]
    assert decided(table(VALUES, seeds=("0", "1"))).would_decide == []


def test_validation_chooses_and_the_test_measures():
    values = {"start": 3.0, "bc": 2.9, "mine": 3.2, "other": 3.1, "greedy": 9.0, "sham": 8.0}
    values |= {"popularity_tilt": 7.0, "popularity": 6.0}
    validation = table(values, {"greedy": 0.5}, split="validation")
    assert candidate(validation) == "mine"  # greedy loses too much; a placebo, and what reads no reward, are out
    better_on_test = table(values | {"mine": 3.05, "other": 3.3}, {"greedy": 0.5})
    assert decided(better_on_test, validation=validation).policy == "mine"


@pytest.mark.parametrize(
    ("test", "trust", "word", "says"),
    [
        (table(VALUES, {"mine": 0.94}), None, "do not ship", "keeps 94.0%"),
        (table(VALUES, gains={"mine": (-0.3, -0.1)}), None, "do not ship", "nothing worth shipping"),
        (table(VALUES, gains={"mine": (0.001, 0.012)}), None, "do not ship", "nothing worth shipping"),
        (table(VALUES, gains={"mine": (-0.1, 0.3)}), None, "not decided", "may be chance"),
        (table(VALUES), reports(verdict="no_signal"), "do not ship", "no signal"),
        (table(VALUES), reports(pairwise=(0.515, 0.43, 0.632)), "not decided", "51.5%"),
        (table(VALUES, over_tilt={"mine": (-0.1, 0.1)}), None, "not decided", "reads no reward"),
        (table(VALUES, over_tilt={"mine": (-0.2, -0.1)}), None, "do not ship", "reads no reward"),
        (table(VALUES, over_tilt={"mine": (0.1, 0.2)}), None, "ship", "reads no reward"),
        (table(VALUES | {"sham": 3.15}, gains={"sham": (0.1, 0.2)}), None, "not decided", "sham"),
        (table(VALUES | {"sham": 3.05}, gains={"sham": (0.01, 0.09)}), None, "ship", "mine gains"),
    ],
)
def test_each_rule_has_its_word_and_its_reason(test, trust, word, says):
    found = decided(test, trust)
    assert found.word == word
    assert any(says in reason for reason in found.because)


def test_an_open_question_says_what_would_decide_it():
    found = decided(table(VALUES, gains={"mine": (-0.09, 0.31)}))  # estimate 0.11, half-width 0.2
    assert "About 3.4 times as many test users" in found.would_decide[0]


def test_nobody_keeps_enough():
    found = decided(table(VALUES), validation=table(VALUES, {"mine": 0.9}, split="validation"))
    assert (found.word, found.policy) == ("do not ship", None)
