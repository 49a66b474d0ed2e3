"""Ship, do not ship, not decided: each rule on figures made up by hand."""

import math

import polars as pl
import pytest
from compared import CONTROLS, ROLES, VALUES, checked, reports, rows, table
from hypothesis import given
from hypothesis import strategies as st

from recalign.data.events.audit import OFTEN
from recalign.evaluation.comparison import SCHEMA
from recalign.evaluation.comparison_table import ComparisonTable
from recalign.evaluation.decision import candidates, decide
from recalign.evaluation.evaluated_runs import ALL_USERS
from recalign.evaluation.findings import Outcome
from recalign.evaluation.roles import UNTRAINED_RANKINGS, Roles
from recalign.evaluation.rule import TESTS, Case, holm_confidences, run_tests

RERUN = "Run three seeds: intervals of one seed are over users alone, and another may differ."
AS_GOOD = {
    ("mine", f"diff_popularity_high/{metric}"): (0.01, -0.01, 0.03) for metric in ("all/ndcg@10", "value/judge@10")
}
"""A row that shows everybody the same, as good as ours."""


def decided(test=None, trust=None, validation=None, check=None):
    test = test or table()
    trust = trust or reports(seeds=test.seeds)
    return decide(test, validation or table(split="validation"), trust, checked() if check is None else check)


def test_a_sure_gain_that_keeps_the_ranking_is_shipped_with_one_seed_said():
    found = decided()
    assert (found.outcome.text, found.policy, found.sentence) == ("ship", "mine", "Ship mine")
    assert found.reasons[0] == "Gain of mine over start: +0.200 sd, at least +0.116 sd with a confidence of 95.0%."
    tests = found.frame().filter(row="mine")
    assert set(tests["outcome"]) == {"pass"}
    assert set(tests["test"]) == {test.name for test in TESTS}
    assert tests.row(0, named=True) == pytest.approx(
        {"row": "mine", "test": "gain", "other": "start", "outcome": "pass"}
        | {"value": 0.2, "low": 0.1, "high": 0.3, "bound": 0.2 - 1.645 * 0.1 / 1.96, "confidence": 0.95, "limit": 0.0},
        abs=1e-4,
    )
    assert found.next_steps == [RERUN]
    assert decided(table(seeds=("0", "1"))).next_steps == []


def test_validation_chooses_and_the_test_measures():
    values = VALUES | {"other": 3.1, "greedy": 9.0, "sham": 8.0, "popularity_tilt": 7.0, "popularity": 6.0}
    values |= {"popularity_high": 8.0, "item_mean": 8.0, "item_knn": 8.0, "transitions": 8.0}
    validation = table(values, kept={"greedy": 0.5}, split="validation")
    assert candidates(validation) == ["mine", "other"]  # greedy loses too much; the others are no candidates


@pytest.mark.parametrize(
    ("figures", "trust", "word", "says"),
    [
        ({"kept": {"mine": 0.9}}, {}, "do not ship", "keeps of the all_users/ndcg@10 of start: 90.0%, 93.0% at most"),
        ({"kept": {"mine": 0.94}}, {}, "not decided", "of start: 94.0%"),
        ({"kept": {"mine": 0.96}}, {}, "not decided", "more than 95.0% is needed"),  # 96 % less .43 of 3 %
        ({"kept": {"mine": 0.965}}, {}, "ship", "Gain of mine"),
        ({"gains": {"mine": (0.001, 0.012)}}, {}, "do not ship", "more than +0.015 sd is needed"),
        ({"gains": {"mine": (-0.002, 0.012)}}, {}, "do not ship", "+0.012 sd at most: more than +0.015 sd is needed"),
        ({"gains": {"mine": (-0.1, 0.3)}}, {}, "not decided", "at least -0.068 sd"),
        ({"gains": {"mine": (-0.01, 0.21)}}, {}, "ship", "at least +0.008 sd"),  # one-sided
        ({}, {"verdict": "no_signal"}, "do not ship", "no signal"),
        ({}, {"verdict": "not_measured"}, "not decided", "Nothing tells whether the reward model"),
        ({}, {"pairwise": (0.515, 0.43, 0.632)}, "not decided", "51.5%"),
        ({}, {"pairwise": (None, None, None)}, "not decided", "Nothing tells whether the judges"),
        ({}, {"judges": "no_signal"}, "ship", "Gain of mine"),  # they order pairs right, whatever else they know
        ({"gains": {"mine": (-0.3, -0.1)}}, {"pairwise": (0.5, 0.4, 0.6)}, "not decided", "their values say nothing"),
        ({"over_tilt": {"mine": (-0.1, 0.1)}}, {}, "not decided", "tilt, which reads no reward: "),
        (
            {"over_tilt": {"mine": (-0.2, -0.1)}},
            {},
            "do not ship",
            "which reads no reward: -0.150 sd, -0.100 sd at most",
        ),
        ({"beyond": {"mine": (-0.1, 0.2)}}, {}, "not decided", "2 times that of sham"),
        ({"others": {("sham", "placebo/correlation"): (0.36,)}}, {}, "not decided", "correlation of 0.360"),
        ({"others": AS_GOOD}, {}, "not decided", "popularity_high, which takes no training"),
        ({"others": dict(list(AS_GOOD.items())[:1])}, {}, "ship", "Gain of mine"),  # it ranks as well, with less value
        ({"sd": math.nan}, {}, "not decided", "spread of the rewards is not known"),
        ({"sd": 0.0}, {}, "not decided", "rewards do not vary"),
        ({"gains": {"mine": (0.001, 0.016)}}, {}, "not decided", "more than +0.015 sd is needed"),
        ({"gains": {"mine": (0.001, 0.031)}}, {}, "ship", "Gain of mine"),
        ({"others": {("start", "all_users/hits@10"): (31.0,)}}, {}, "not decided", "start ranks 31 of the test events"),
        ({"kept": {"mine": 1.0}, "others": {("start", "all_users/hits@10"): (32.0,)}}, {}, "ship", "Gain of mine"),
        ({"others": {("start", "all_users/hits@10"): (math.nan,)}}, {}, "not decided", "is not known"),
        ({"others": {("mine", "users/evaluated"): (19.0,)}}, {}, "not decided", "Only 19 users were evaluated"),
        ({"others": {("mine", "users/evaluated"): (20.0,)}}, {}, "ship", "Gain of mine"),
        ({"others": {("bc", "value/judge@10"): (math.nan,)}}, {}, "not decided", "not measured: bc"),
        ({"gains": {"mine": (math.nan, math.nan)}}, {}, "not decided", "gain of mine beside start: not measured"),
    ],
)
def test_each_rule_has_its_outcome_and_reason(figures, trust, word, says):
    found = decided(table(**figures), reports(**trust))
    assert found.outcome.text == word
    assert any(says in reason for reason in found.reasons)


def test_judges_that_know_averages_alone_do_not_speak_against_a_gain_that_they_may_not_see():
    small = table(gains={"mine": (0.001, 0.012)})
    assert decided(small).outcome.text == "do not ship"
    found = decided(small, reports(judges="weak"))
    assert found.outcome.text == "not decided"
    found = decided(table(over_tilt={"mine": (-0.2, -0.1)}), reports(judges="weak"))
    assert found.outcome.text == "not decided"


OTHER = VALUES | {"other": 3.3}
"""A row that nobody asked for, worth more on validation than the asked one."""


@pytest.mark.parametrize(
    ("figures", "before", "sentence"),
    [
        ({"gains": {"other": (-0.1, 0.3), "mine": (-0.1, 0.3)}}, {}, "Not decided: mine"),
        ({"gains": {"other": (-0.1, 0.3), "mine": (-0.3, -0.1)}}, {}, "Do not ship mine; not decided: other"),
        ({"gains": {"other": (-0.1, 0.3)}}, {"mine": 0.9}, "Not decided for mine or for other"),
        ({"others": {("start", "all_users/hits@10"): (3.0,)}}, {}, "Not decided: mine"),  # whatever passes
    ],
)
def test_open_decision_names_highlighted_row_first(figures, before, sentence):
    placebos = {("sham2", "placebo/correlation"): (0.0,)}
    figures = figures | {"others": figures.get("others", {}) | placebos | BEYOND}
    roles = Roles("mine", {"sham": "mine", "sham2": "other"})
    values = OTHER | {"sham2": 3.0}
    found = decided(table(values, roles, **figures), validation=table(values, roles, "validation", kept=before))
    assert (found.outcome.text, found.sentence) == ("not decided", sentence)
    if before:
        assert found.reasons[0] == "mine keeps less than 95% of the ranking on validation."


BEYOND = {("other", "gain_minus_2x_sham2/value/judge@10"): (0.2, 0.1, 0.3)}


@pytest.mark.parametrize(("met", "word"), [(0.0, "ship"), (OFTEN, "ship"), (OFTEN + 0.01, "not decided")])
def test_a_ranking_of_items_that_no_list_shows_decides_nothing(met, word):
    found = decided(check=checked(met))
    assert found.outcome.text == word
    if word != "ship":
        assert found.reasons == [
            "In 21.0% of the test events the user had met the item before. They are ranked, but lists leave such items "
            "out, so all/ndcg@10 says little of what is served."
        ]
        assert found.next_steps[0].startswith("Set data.log.collapse: true")
    against = decided(table(gains={"mine": (-0.3, -0.1)}), check=checked(met))
    assert against.outcome.text == "do not ship"  # its value is that of the items shown
    assert decided(table(kept={"mine": 0.5}), check=checked(met)).outcome.text == (
        "do not ship" if word == "ship" else "not decided"
    )
    none = decided(
        validation=table(kept=dict.fromkeys(VALUES, 0.1) | {"start": 1.0}, split="validation"), check=checked(met)
    )
    assert (none.policy, none.outcome.text) == (None, "do not ship" if word == "ship" else "not decided")


@pytest.mark.parametrize(
    ("follow", "ties", "word"),
    [
        (OFTEN, "not said", "ship"),
        (OFTEN + 0.01, "not said", "not decided"),
        (OFTEN + 0.01, "order", "ship"),
        (OFTEN + 0.01, "together", "ship"),
        (None, "together", "not decided"),
    ],
)
def test_how_a_basket_goes_on_decides_nothing_unless_the_yaml_says_what_ties_are(follow, ties, word):
    found = decided(check=checked(follow=follow, ties=ties))
    assert found.outcome.text == word
    assert bool(found.unresolved_ties) == (word == "not decided")
    said = "21% of the test events follow one of the same user and time, so these figures tell how a basket goes on"
    assert (said in found.reasons[0]) == (bool(found.unresolved_ties) and follow is not None)
    assert (said in (found.caveat_text or "")) == (ties == "order")
    harm = decided(table(gains={"mine": (-0.3, -0.1)}), check=checked(follow=follow, ties=ties))
    assert harm.outcome.text == ("do not ship" if word == "ship" else "not decided")


def test_a_start_that_ranks_nothing_has_nothing_to_keep():
    nothing = dict.fromkeys(VALUES, 0.0)
    found = decided(table(kept=nothing), validation=table(split="validation"))
    assert found.outcome.text == "not decided"
    assert found.caveat_text is None
    assert "start ranks no item of the test events" in found.reasons[0]
    assert not any("not known" in reason for reason in found.reasons)


def test_a_start_that_ranks_no_better_than_what_takes_no_training_is_said_first():
    assert decided().caveat_text is None
    found = decided(table(kept={"popularity": 1.0, "item_knn": 1.02}))  # by .0020 [-.0010, .0050]: not reliably
    assert (found.outcome.text, found.sentence) == ("ship", "Ship mine")  # it has more value than either
    assert found.caveat_text.startswith("start ranks no better than item_knn, which takes no training (all/ndcg@10 0.1")


@pytest.mark.parametrize("other", UNTRAINED_RANKINGS)
@pytest.mark.parametrize(
    ("on_validation", "on_test", "gates"),
    [(1.001, 0.9, True), (0.9, 1.031, True), (1.0, 1.029, False), (1.0, 0.9, False)],  # .0030 is half of the interval
)
def test_a_start_below_a_table_without_training_is_to_be_trained_better_first(other, on_validation, on_test, gates):
    validation = table(kept={other: on_validation}, split="validation")
    found = decided(table(kept={other: on_test}), validation=validation)
    assert (found.outcome.text, found.policy) == ("not decided" if gates else "ship", "mine")
    assert bool(found.weak_start) == gates
    if gates:
        assert found.sentence == "Not decided: train a better start first"
        assert found.reasons[0].startswith(
            f"start ranks below {other} on {'validation' if on_validation > 1 else 'the test'}"
        )
        assert "recalign tune recommender" in found.next_steps[0]
    assert (found.caveat_text is None) == (gates or on_test < 1)  # below on the test by the estimate alone is a remark


def test_no_other_row_and_no_other_baseline_asks_for_a_better_start():
    above = {
        "popularity": 2.0,
        "popularity_high": 2.0,
        "item_mean": 2.0,
        "bc": 1.1,
        "popularity_tilt": 2.0,
        "rerank": 2.0,
    }
    found = decided(table(kept=above), validation=table(kept=above | {"mine": 1.1}, split="validation"))
    assert not found.weak_start
    assert found.caveat_text.startswith("start ranks no better than popularity, which takes no training")
    behind = {"start": 1.0, "item_knn": 1.05, "bc": 1.1, "mine": 1.1}
    assert decided(validation=table(kept=behind, split="validation")).weak_start  # bc ranks above item_knn, start below


@pytest.mark.parametrize("figures", [{"kept": {"mine": 0.5}}, {"gains": {"mine": (-0.3, -0.1)}}])
def test_a_weak_start_leaves_open_what_else_would_not_be_shipped(figures):
    assert decided(table(**figures)).outcome.text == "do not ship"
    found = decided(table(**figures), validation=table(kept={"transitions": 1.2}, split="validation"))
    assert (found.outcome.text, found.sentence) == ("not decided", "Not decided: train a better start first")


@pytest.mark.parametrize("missing", sorted(CONTROLS))
def test_a_control_that_was_not_run_is_named_and_nothing_is_shipped_without_it(missing):
    found = decided(table({name: value for name, value in VALUES.items() if name != missing}))
    assert found.outcome.text == "not decided"
    assert any(missing in reason and "not run" in reason for reason in found.reasons)
    assert any(missing in remedy for remedy in found.next_steps)


def test_the_answer_is_the_first_of_three_candidates_that_passes():
    values = VALUES | {"first": 3.5, "second": 3.4, "fourth": 3.1}
    roles = Roles("mine", {"sham": "mine", "sham_of_first": "first"})
    validation = table(values, split="validation")
    assert candidates(validation) == ["first", "second", "mine", "fourth"]
    found = decide(table(values, kept={"first": 0.8}, roles=roles), validation, reports(), checked())
    assert [(one.policy, one.outcome.text) for one in found.candidates] == [
        ("first", "do not ship"),
        ("mine", "ship"),
        ("second", "not decided"),  # it has no placebo, and so comes last
    ]
    assert (found.outcome.text, found.policy) == ("ship", "mine")
    assert [other[:2] for other in found.others] == [("first", Outcome.DO_NOT_SHIP), ("second", Outcome.OPEN)]


def test_a_row_without_a_placebo_takes_no_place_of_one_that_has_one_and_is_named():
    names = ("first", "second", "third")
    values = VALUES | {name: 4.0 - number / 10 for number, name in enumerate(names)}
    found = decided(table(values), validation=table(values, split="validation"))
    assert (found.outcome.text, found.policy) == ("ship", "mine")
    assert [one.policy for one in found.candidates] == ["mine", "first", "second"]
    assert found.others[-1] == ("third", Outcome.OPEN, "third has no placebo.")


@pytest.mark.parametrize(
    ("placebos", "lacks"),
    [
        ({"sham": "mine", "sham_scores": "rerank"}, []),
        ({"sham": "mine", "not_run": "rerank"}, []),
        ({"sham": "mine_rerank"}, []),
        ({"sham": "mine"}, ["rerank"]),
        ({"sham": "rerank"}, ["mine"]),
        ({}, ["mine", "rerank"]),
    ],
)
def test_a_reranked_row_needs_a_placebo_of_its_method_and_one_of_reranking(placebos, lacks):
    roles = Roles(placebos=placebos)
    values = {name: value for name, value in VALUES.items() if name != "mine"} | {
        "mine_rerank": 3.2,
        "sham_scores": 3.0,
    }
    others = {("mine_rerank", "gain_minus_2x_sham_scores/value/judge@10"): (0.2, 0.1, 0.3)}
    others |= {("sham_scores", "placebo/correlation"): (0.01,)}
    found = decided(
        table(values, roles=roles, others=others), validation=table(values, roles=roles, split="validation")
    )
    assert [reason for reason in found.reasons if "has no placebo" in reason] == [
        f"{one} has no placebo." for one in lacks
    ]
    assert found.outcome.text == ("not decided" if lacks or "not_run" in placebos else "ship")


def test_a_reward_model_without_signal_with_one_of_the_seeds_leaves_it_open():
    trust = reports(seeds=("0", "1"))
    trust["reward"]["1"] = {"verdict": "no_signal", "implication": "Stay."}
    found = decided(table(seeds=("0", "1")), trust)
    assert (found.outcome.text, found.reasons) == (
        "not decided",
        ["The reward model, which mine follows, shows no signal with seed 1."],
    )
    del trust["reward"]["0"]  # unknown: it may have one there
    assert decided(table(seeds=("0", "1")), trust).reasons == found.reasons


@pytest.mark.parametrize(
    ("stage", "says"),
    [("reward", "whether the reward model"), ("judge_report", "what the judges know with 1 of 2 seeds")],
)
def test_trust_that_is_not_known_with_every_seed_leaves_it_open(stage, says):
    trust = reports(seeds=("0", "1"))
    del trust[stage]["1"]
    found = decided(table(seeds=("0", "1")), trust)
    assert found.outcome.text == "not decided"
    assert found.reasons[0].startswith(f"Nothing tells {says}")


def test_a_log_that_may_not_be_trained_on_is_not_decided():
    found = decided(
        check=checked(verdict="verdict: do not train\n- the time between events reveals a high reward\n- more")
    )
    assert (found.outcome.text, found.policy) == ("not decided", "mine")
    assert found.reasons == [
        "recalign check says not to train on this log: the time between events reveals a high reward."
    ]
    found = decided(check=checked(verdict="verdict: with care\n- the time between events hints at it"))
    assert found.outcome is Outcome.SHIP


def test_a_placebo_counts_by_the_seed_in_which_it_keeps_most():
    """Correlations of .3 and -.3 have a mean of 0."""
    frame = pl.DataFrame(rows(VALUES, seeds=("0", "1")), schema=SCHEMA, orient="row")
    each = [
        ("sham", seed, "test", "placebo/correlation", value, None, None) for seed, value in (("0", 0.3), ("1", -0.3))
    ]
    found = decided(ComparisonTable(pl.concat([frame, pl.DataFrame(each, schema=SCHEMA, orient="row")]), ROLES))
    assert (found.outcome.text, found.reasons) == (
        "not decided",
        ["The placebo sham keeps a correlation of 0.300 with the rewards, too much for a placebo."],
    )


def test_no_row_is_called_shippable_where_the_comparison_as_a_whole_is_open():
    values = VALUES | {"other": 3.1}
    roles = Roles("mine", {"sham": "mine", "sham_of_other": "other"})
    figures = {("other", "gain_minus_2x_sham_of_other/value/judge@10"): (0.2, 0.1, 0.3)}
    found = decided(table(values, roles=roles, others=figures), reports(pairwise=(0.5, 0.4, 0.6)))
    assert found.outcome.text == "not decided"
    assert Outcome.SHIP not in [outcome for _, outcome, _ in found.others]


def test_holm_asks_most_of_the_strongest_and_stops_at_the_first_that_fails():
    three, two = 1 - 0.05 / 3, 1 - 0.05 / 2  # z of them: 2.13 and 1.96
    assert holm_confidences([3.0]) == pytest.approx([0.95])
    assert holm_confidences([1.7, 5.0, 2.0]) == pytest.approx([0.95, three, two])
    assert holm_confidences([2.0, 2.1, 2.05]) == pytest.approx([three, three, three])  # none passes
    assert holm_confidences([-math.inf, 9.0]) == pytest.approx([0.95, two])


def test_holm_is_of_rankings_too_and_not_of_the_ndcg_that_is_retained():
    close = {("mine", "diff_item_knn/all/ndcg@10"): (0.02, 0.002, 0.038)}  # 2.18 standard errors
    close |= {("mine", "diff_item_knn/value/judge@10"): (0.01, -0.01, 0.03)}
    for confidence, statuses in ((0.98, {"pass"}), (0.99, {"pass", "open"})):
        found = list(run_tests(Case(table(others=close), "mine"), confidence, judged=True, ranked=True))
        assert {result.status for result in found} == statuses
        assert {result.confidence for result in found} == {confidence, 0.8}


def test_an_open_question_says_what_would_decide_it():
    found = decided(table(gains={"mine": (-0.09, 0.31)}))  # estimate .11, bound .11 - .168
    assert "About 2.4 times as many test users" in found.next_steps[0]
    found = decided(table(gains={"mine": (-0.28, 0.32)}))
    assert "more than 10 times as many test users" in found.next_steps[0]
    for figures in ({"seeds": ("0", "1", "2")}, {"gains": {"mine": (-0.29, 0.31)}}):  # too small to be worth them
        assert decided(table(**{"gains": {"mine": (-0.09, 0.31)}} | figures)).next_steps[:1] in ([], [RERUN])


def test_decision_without_row_that_retains_enough_is_do_not_ship():
    found = decided(validation=table(kept={"mine": 0.9}, split="validation"))
    assert (found.outcome.text, found.policy, found.sentence) == ("do not ship", None, "Do not ship")
    assert found.reasons == ["No method keeps 95% of the ranking of start (all/ndcg@10) on validation."]


@pytest.mark.parametrize(
    ("figures", "says"),
    [
        ({"kept": {"mine": 0.94}}, "on validation, but one may: mine keeps 94.0% [91.0%, 97.0%]."),
        (
            {"kept": {"mine": 0.9}, "others": {("start", "all_users/hits@10"): (31.0,)}},
            "on validation, and start ranks 31 of the validation events among its first ten: too few",
        ),
        (
            {
                "kept": {"mine": 0.9},
                "others": {("mine", "diff_best_baseline/all_users/ndcg@10"): (-0.01, math.nan, math.nan)},
            },
            "but one may: what mine keeps is not known.",
        ),
    ],
)
def test_rows_that_may_retain_enough_leave_decision_open(figures, says):
    found = decided(validation=table(**figures, split="validation"))
    assert (found.outcome.text, found.policy) == ("not decided", None)
    assert says in found.reasons[0]
    assert found.next_steps[0].startswith("Add users")


@pytest.mark.parametrize("metric", [ALL_USERS, "value/select_judge@10"])
def test_unknown_validation_figures_leave_decision_open(metric):
    unknown = {(name, metric): (math.nan,) for name in ("mine", "start", "bc")}
    found = decided(validation=table(others=unknown, split="validation"))
    assert (found.outcome.text, found.policy, found.sentence) == ("not decided", None, "Not decided")
    assert found.reasons == ["What the methods keep and are worth on validation is not known."]
    assert decided(validation=table(values={}, split="validation")).outcome.text == "not decided"


@pytest.mark.parametrize("other", ["sham", "start", "item_knn", "popularity_tilt"])
def test_decision_names_rows_with_fewer_seeds(other):
    frame = pl.DataFrame(rows(VALUES, seeds=("0", "1")), schema=SCHEMA, orient="row")
    assert decided(ComparisonTable(frame, ROLES)).outcome.text == "ship"
    found = decided(ComparisonTable(frame.filter(~((pl.col("method") == other) & (pl.col("seed") == "1"))), ROLES))
    assert found.outcome.text == "not decided"
    assert found.reasons == [f"Run with fewer seeds than the 2 of mine: {other} (1)."]


OFF_BOUNDS = st.tuples(*(st.integers(low, 300).map(lambda n: (n + 0.3) / 1000) for low in (-100, 0)))
"""Low end and width of an interval, so that rounding decides nothing."""


@given(st.floats(-100, 100), st.floats(0.01, 100), OFF_BOUNDS, OFF_BOUNDS)
def test_outcome_does_not_depend_on_unit_or_zero_of_reward(zero, unit, gain, beyond):
    figures = {"gains": {"mine": (gain[0], sum(gain))}, "beyond": {"mine": (beyond[0], sum(beyond))}}
    before = pl.DataFrame(rows(VALUES, **figures), schema=SCHEMA, orient="row")
    of_reward = pl.col("metric").str.contains("value/|^reward/")
    moved = of_reward & ~pl.col("metric").str.contains("^(diff|gain_minus_2x)_|^reward/")
    after = before.with_columns(
        pl.when(moved)
        .then(unit * pl.col(name) + zero)
        .when(of_reward)
        .then(unit * pl.col(name))
        .otherwise(pl.col(name))
        .alias(name)
        for name in ("value", "ci_low", "ci_high")
    )
    found, other = (decided(ComparisonTable(frame, ROLES)) for frame in (before, after))
    assert found.outcome.text == other.outcome.text
    assert [finding.outcome for finding in found.findings] == [finding.outcome for finding in other.findings]


def test_retained_share_uses_shared_seeds():
    of_start = [
        ("start", str(n), "validation", ALL_USERS, value, None, None) for n, value in enumerate((0.07, 0.09, 0.09))
    ]
    rows = [
        *of_start,
        ("start", "all", "validation", ALL_USERS, 0.25 / 3, 0.08, 0.09),
        ("dpo", "0", "validation", ALL_USERS, 0.068, None, None),
        ("dpo", "all", "validation", ALL_USERS, 0.068, 0.06, 0.07),
        ("dpo", "all", "validation", f"diff_best_baseline/{ALL_USERS}", -0.002, -0.004, 0.0),
    ]
    table = ComparisonTable(pl.DataFrame(rows, schema=SCHEMA, orient="row"), Roles(), "validation")
    kept = table.retained_interval("dpo")
    assert kept is not None
    assert table.retained("dpo") == kept.value == pytest.approx(1 - 0.002 / 0.07)
    assert table.retained("start") == 1
