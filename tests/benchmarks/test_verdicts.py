"""What the benchmark of the report's sentence counts."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import verdicts

VALUE = "value/judge@10"


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
    assert verdicts.rests_on_nan(SimpleNamespace(because=["So.", reason])) == rests


@pytest.mark.parametrize("shipped", ["asft", "rerank"])
def test_a_gain_is_not_shipped_where_harm_is_in_its_place(monkeypatch: pytest.MonkeyPatch, shipped: str):
    names = ["start", "bc", *verdicts.CANDIDATES]
    truth = {name: {"value": 0.0, "ndcg": 0.1} for name in names}
    truth["asft"]["value"], truth["rerank"]["value"] = -0.1, 0.2
    rows = [(name, "all", "test", f"diff_best_bc/{VALUE}", 0.1, 0.09, 0.11) for name in names]
    rows += [(name, "all", "test", "reward/sd", 1.0, None, None) for name in names]
    decision = SimpleNamespace(word="ship", policy=shipped, because=["So."])
    monkeypatch.setattr(verdicts, "decide", lambda *_: decision)
    found = verdicts.judged(lambda _: {"kind": "any", "truth": truth, "trust": {}, "check": {}, "rows": rows}, 0)
    assert found["harmful"]
    assert found["clear gains"]
    assert (found["harm shipped"], found["clear gains shipped"]) == (shipped == "asft", shipped == "rerank")


def test_what_was_decided_in_a_world_is_kept_by_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(verdicts, "CASES", tmp_path / "cases.csv")
    case = dict.fromkeys(verdicts.COUNTS, False) | {"kind": "stars", "keep": 0.97, "policy": "", "because": 'a, "b"'}
    case |= {"commit": "abc", "gain": float("nan"), "kept": 0.98}
    cases = pl.DataFrame([case | {"seed": seed} for seed in (1, 2)])
    verdicts.save_cases(cases, "one")
    verdicts.save_cases(cases.head(1), "two")
    verdicts.save_cases(verdicts.known_cases("one"), "one")
    assert verdicts.known_cases("one").equals(cases.select(verdicts.known_cases("one").columns), null_equal=True)
    assert verdicts.known_cases("two")["seed"].to_list() == [1]
