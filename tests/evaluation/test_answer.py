"""The report's first screen: its cards, from figures made up by hand."""

from compared import VALUES, reports, table

from recalign.evaluation import answer
from recalign.evaluation.decision import decide


def cards(test, trust=None, validation=None):
    trust = trust or reports()
    decision = decide(test, validation or table(VALUES, split="validation"), trust)
    return {card.question: card for card in answer.cards(decision, test, trust)}


def test_what_is_gained_and_what_it_costs():
    found = cards(table(VALUES, {"mine": 0.96}))
    assert (found["What does it gain?"].words, found["What does it gain?"].sign) == ("+0.200", 1)
    assert "+0.2000 [+0.1000, +0.3000] over start" in found["What does it gain?"].text
    assert found["What does it cost?"].words == "96.0%"


def test_a_gain_is_grey_where_the_judges_may_be_guessing():
    found = cards(table(VALUES), reports(pairwise=(0.515, 0.43, 0.632)))
    assert found["What does it gain?"].sign == 0
    assert (found["May the judges be believed?"].words, found["May the judges be believed?"].sign) == ("51.5%", 0)
    assert cards(table(VALUES))["May the judges be believed?"].sign == 1


def test_rows_with_more_value_are_named_beside_what_they_keep():
    values = VALUES | {"a": 3.3, "b": 3.4, "greedy": 9.0, "sham": 8.0}
    found = cards(table(values, {"greedy": 0.5}))["What has more value?"]
    assert found.words == "b"  # the best that keeps enough; a placebo is none
    assert "b 3.400, keeps 100.0%; a 3.300, keeps 100.0%; greedy 9.000, keeps 50.0%." in found.text
    assert cards(table(values | {"a": 3, "b": 3}, {"greedy": 0.5}))["What has more value?"].words.startswith("none")


def test_baselines_alone_need_no_decision():
    assert decide(table({"start": 3.0, "bc": 2.9}), table({"start": 3.0}, split="validation"), reports()) is None
