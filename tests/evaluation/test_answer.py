"""The report's first screen: its cards, from figures made up by hand."""

import math

import pytest
from compared import VALUES, checked, reports, table

from recalign.evaluation import answer
from recalign.evaluation.decision import decide
from recalign.evaluation.names import KNOWN, names
from recalign.evaluation.rows import UNTRAINED


def cards(test=None, trust=None, validation=None):
    test, trust = test or table(), trust or reports()
    decision = decide(test, validation or table(split="validation"), trust, checked())
    return {card.question: card for card in answer.cards(decision, test, trust)}


def test_cards_name_gain_and_cost():
    found = cards(table(kept={"mine": 0.96}, sd=0.5))
    assert (found["What does it gain?"].words, found["What does it gain?"].sign) == ("+0.20", 1)
    assert "in the reward, over start" in found["What does it gain?"].text
    assert "+0.400 sd [+0.200, +0.600]" in found["What does it gain?"].text
    assert (found["What does it cost?"].words, found["What does it cost?"].sign) == ("loses 4.0%", 0)
    assert cards(table(kept={"mine": 0.9}))["What does it cost?"].sign == -1
    assert "40.0% of the catalogue is shown to anybody, by start 40.0%" in found["What does it cost?"].text


def test_gain_card_is_neutral_if_judges_may_guess():
    found = cards(trust=reports(pairwise=(0.515, 0.43, 0.632)))
    assert found["What does it gain?"].sign == 0
    assert found["May the judges be believed?"].sign == 0
    assert "51.5%" in found["May the judges be believed?"].text
    assert cards()["May the judges be believed?"].sign == 1


def test_judges_that_know_averages_alone_are_not_green_and_the_page_says_what_they_cannot_see():
    trust = reports(pairwise=(0.589, 0.511, 0.668), judges="weak")
    found = cards(trust=trust)
    assert found["What does it gain?"].sign == found["May the judges be believed?"].sign == 0
    assert "whether better items are shown" in answer.limits(trust)
    assert answer.limits(reports()) is None


def test_the_size_of_an_ab_test_follows_from_the_gain():
    """By hand: 2 (1.960 + 0.842)^2 (0.5 / 0.2)^2 = 98.1."""
    decision = decide(table(), table(split="validation"), reports(), checked())
    assert "about 99 users" in answer.ab_test(decision, table())
    assert "about 99 users" in answer.ab_test(decision, table(sd=10.0, gains={"mine": (1.0, 3.0)}))  # whatever the unit
    loss = table(gains={"mine": (-0.3, -0.1)})
    assert answer.ab_test(decide(loss, table(split="validation"), reports(), checked()), loss) is None
    tiny, sure = {"mine": (0.0001, 0.0003)}, {"mine": (2.0, 4.0)}
    assert "has more than 10,000,000 users" in answer.ab_test(decision, table(gains=tiny))
    assert "has 50 users" in answer.ab_test(decision, table(gains=sure))
    assert answer.ab_test(decision, table(others={("mine", "reward/user_sd"): (math.inf,)})) is None


@pytest.mark.parametrize("against", [{"kept": {"mine": 0.9}}, {"others": {("start", "all_users/hits@10"): (3.0,)}}])
def test_no_ab_test_is_proposed_of_a_gain_that_is_not_to_be_shipped_or_cannot_be_believed(against):
    test = table(**against)
    assert answer.ab_test(decide(test, table(split="validation"), reports(), checked()), test) is None


def test_a_gain_that_holm_leaves_open_is_grey_and_proposes_no_ab_test():
    """Two rows are tried: a gain of .1 with a lower end of -.005 passes at 95 %, not at 97.5 %."""
    values, gains = VALUES | {"other": 3.1}, {"mine": (-0.005, 0.205), "other": (-0.1, 0.3)}
    test, validation = table(values, gains=gains), table(values, split="validation")
    found = cards(test, validation=validation)["What does it gain?"]
    assert (found.sign, "[-0.005, +0.205]" in found.text) == (0, True)
    assert answer.ab_test(decide(test, validation, reports(), checked()), test) is None  # it may be chance
    alone = table(gains=gains)
    assert cards(alone)["What does it gain?"].sign == 1


def test_cards_leave_out_nan():
    unknown = {("mine", "policy/coverage@10"): (math.nan,), ("mine", "diff_best_baseline/high/ndcg@10"): (math.nan,)}
    assert not any("nan" in card.text for card in cards(table(others=unknown)).values())


@pytest.mark.parametrize("values", [{"start": 3.0, "bc": 2.9}, {name: VALUES[name] for name in ("start", "item_mean")}])
def test_baselines_alone_need_no_decision(values):
    assert decide(table(values), table({"start": 3.0}, split="validation"), reports(), checked()) is None


def test_detectable_gain_names_smallest_gain_and_share_kept():
    """By hand: (1.645 + .842) .1 / 1.96 = .127 sd; (.842 + .842) .03 / 1.96 = 2.6 %."""
    decision = decide(table(), table(split="validation"), reports(), checked())
    assert "truly is 0.127 sd" in answer.detectable_gain(decision)
    assert "is kept if 97.6% truly is" in answer.detectable_gain(decision)
    exact = table(gains={"mine": (0.004, 0.006)})  # .015 + .842 .001 / 1.96: a smaller estimate is no gain
    assert "truly is 0.015 sd" in answer.detectable_gain(decide(exact, table(split="validation"), reports(), checked()))
    unknown = table(gains={"mine": (math.nan, math.nan)})
    assert answer.detectable_gain(decide(unknown, table(split="validation"), reports(), checked())) is None


def test_the_headline_has_the_unit_of_the_reward_and_a_loss():
    test = table(kept={"mine": 0.96}, sd=0.5)
    decision = decide(test, table(split="validation"), reports(), checked())
    said = answer.headline(decision, test, reports(judges="weak"), "stars")
    assert said == "+0.20 in stars (3.00 to 3.20), loses 4.0% of its ranking, judges weak"
    assert "loses nothing of its ranking, no judges" in answer.headline(decision, table(), {})
    tiny = table(gains={"mine": (0.0011, 0.0013)})
    assert answer.headline(decide(tiny, table(split="validation"), reports(), checked()), tiny, {}).startswith(
        "+0.0012"
    )


def test_rows_with_more_value_are_named_with_why_they_are_no_answer():
    more = {"popularity": 3.5, "item_mean": 3.6}
    test = table(VALUES | more)
    decision = decide(test, table(VALUES | more, split="validation"), reports(), checked())
    assert "popularity, item_mean have more value and keep 50% of the ranking" in answer.more_value(decision, test)
    assert answer.more_value(decision, table()) is None


def test_each_name_is_explained_and_so_is_what_explains_it():
    found = names("Ship mine_rerank over popularity_tilt", table(VALUES | {"mine_rerank": 3.3}))
    assert list(found) == ["mine_rerank", "popularity_tilt", "start", "mine"]
    assert found["mine_rerank"].startswith("mine, with its items reordered")
    assert names("sham", table())["sham"].startswith("a placebo: mine,")
    known = {*UNTRAINED} - {name for name in UNTRAINED if name.endswith("_permuted")}
    assert known <= {*KNOWN}
