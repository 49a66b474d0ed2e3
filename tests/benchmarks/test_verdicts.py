"""What the benchmark of the report's sentence counts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from benchmarks.decision import made_up as verdict_tables
from benchmarks.decision import records as verdict_records
from benchmarks.decision import run as verdicts
from benchmarks.decision import worlds as verdict_worlds
from benchmarks.decision.worlds import CANDIDATES
from recalign.data.sequences.audit import GAIN_ERROR, NDCG_ERROR
from recalign.evaluation.comparison import HITS, JUDGE_VALUE
from recalign.evaluation.comparison_table import ComparisonTable
from recalign.evaluation.evaluated_runs import ALL_USERS
from recalign.evaluation.findings import Outcome
from recalign.evaluation.methods import EVALUATED


@pytest.mark.parametrize(
    ("reason", "rests"),
    [
        ("asft gains +nan sd [+nan, +nan] over start.", True),
        ("asft keeps nan% [nan%, nan%] of it.", True),
        ("No method keeps 95% of the ranking of None.", True),
        ("asft gains +0.100 sd [+0.050, +0.150] over nanny.", False),
    ],
)
def test_a_word_that_rests_on_nan_is_noticed(reason: str, rests: bool):
    assert verdicts.rests_on_nan(SimpleNamespace(reasons=["So.", reason])) == rests


def test_the_truth_is_of_events_that_the_decision_has_not_seen():
    """Users 1 and 2 are tested on their last event; only the next ten of each tell what is true."""

    def of(user: int, times: range, part: int) -> pl.DataFrame:
        return pl.DataFrame({"user": user, "timestamp": times, "part": part}, schema_overrides={"part": pl.UInt8})

    log = pl.concat([of(1, range(3), 0), of(1, range(3, 4), 2), of(2, range(1), 1), of(2, range(1, 2), 2)])
    log = pl.concat([log, of(3, range(1), 0)])
    later = pl.concat([of(user, range(10, 10 + n), 0) for user, n in ((1, 25), (2, 4), (3, 9))]).drop("part")
    found = verdict_worlds.with_fresh(log, later, test=1)
    assert found.filter(pl.col("timestamp") < 10).equals(log.with_columns(pl.col("part").clip(upper_bound=1)))
    assert found.filter(part=2).group_by("user", maintain_order=True).len().rows() == [(1, 10), (2, 4)]
    assert found.filter(part=2)["timestamp"].max() == 19


@pytest.mark.parametrize("shipped", ["asft", "rerank"])
def test_a_gain_is_not_shipped_where_harm_is_in_its_place(monkeypatch: pytest.MonkeyPatch, shipped: str):
    names = ["start", "bc", *verdicts.CANDIDATES]
    truth = {name: {"value": 0.0, "ndcg": 0.1} for name in names}
    truth["asft"]["value"], truth["rerank"]["value"] = -0.1, 0.2
    rows = [(name, "all", "test", f"diff_best_baseline/{JUDGE_VALUE}", 0.1, 0.09, 0.11) for name in names]
    rows += [(name, "all", "test", "reward/sd", 1.0, None, None) for name in names]
    said = SimpleNamespace(text="So.", outcome=Outcome.SHIP)
    decision = SimpleNamespace(outcome=Outcome.SHIP, policy=shipped, reasons=["So."], findings=[said])
    monkeypatch.setattr(verdicts, "decide", lambda *_: decision)
    found = verdicts.judged(0, {"kind": "any", "truth": truth, "trust": {}, "check": {}, "rows": rows})
    assert found["harmful"]
    assert found["clear gains"]
    assert (found["harm shipped"], found["clear gains shipped"]) == (shipped == "asft", shipped == "rerank")


def test_cases_are_saved_by_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(verdicts, "CASES", tmp_path / "cases.csv")
    case = dict.fromkeys(verdicts.COUNTS, False) | {"kind": "stars", "keep": 0.97, "policy": "", "because": 'a, "b"'}
    case |= {"commit": "abc", "gain": float("nan"), "kept": 0.98}
    cases = pl.DataFrame([case | {"seed": seed} for seed in (1, 2)])
    for label, own in (("one", cases), ("two", cases.head(1)), ("one", cases)):
        verdicts.save_cases(own, label)
    found = pl.read_csv(verdicts.CASES, schema_overrides=verdicts.CASE)
    assert found["label"].to_list() == ["two", "one", "one"]
    own = found.filter(label="one")
    assert own.equals(cases.with_columns(label=pl.lit("one")).select(own.columns), null_equal=True)


@pytest.mark.slow
def test_what_is_kept_of_a_world_is_all_that_its_word_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The word and its reasons are those of the whole comparison and of whole reports."""
    monkeypatch.setattr(verdict_records, "FILE", tmp_path / "worlds.parquet")
    words = set()
    for seed in (4, 7, 17, 24):  # of each word one, and a start that is below transitions
        made = verdict_tables.made_up(seed)
        frame = pl.DataFrame(made["rows"], schema=verdicts.ROW, orient="row")
        others = pl.DataFrame([("asft", "0", "test", JUDGE_VALUE, 9.0, None, None)], schema=verdicts.ROW, orient="row")
        small = verdict_records.cut(pl.concat([frame, others]), made["trust"], made["check"])
        verdict_records.save({seed: made | small | {"keep": 0.97, "commit": "abc"}}, str(seed))
        kept = verdict_records.load(str(seed))[seed]
        assert len(kept["rows"]) < len(frame)
        found, whole = verdicts.judged(seed, kept), verdicts.judged(seed, made)
        words.add(next(word for word in verdicts.OUTCOMES if found[word]))
        same = [*verdicts.COUNTS, "policy", "because"]
        assert [found[name] for name in same] == [whole[name] for name in same]
    assert words == set(verdicts.OUTCOMES)
    assert verdict_records.load("another label") == {}


def test_what_check_says_of_errors_is_what_the_worlds_had():
    gains, shares = [], []
    for record in verdict_records.load("one-sided").values():
        test = ComparisonTable(pl.DataFrame(record["rows"], schema=verdicts.ROW, orient="row"), verdicts.ROLES)
        users = test.get("asft", EVALUATED)
        hits, ndcg = (max(test.get(one, metric) for one in ("start", "bc")) for metric in (HITS, ALL_USERS))
        for method in CANDIDATES:
            gain, loss = (test.get(method, f"diff_best_baseline/{metric}") for metric in (JUDGE_VALUE, ALL_USERS))
            gains.append(gain.error * users.value**0.5)
            shares.append(loss.error / ndcg.value * hits.value**0.5)
    assert pl.Series(gains).quantile(0.9) == pytest.approx(GAIN_ERROR, abs=0.001)
    assert pl.Series(shares).median() == pytest.approx(NDCG_ERROR, abs=0.001)
