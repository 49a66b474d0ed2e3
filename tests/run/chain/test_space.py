"""Spaces are read as they are written, and covered evenly, the same every time."""

from __future__ import annotations

import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution

from recalign.errors import InputError
from recalign.run.chain.search import Spaces, proposals

SPACE = {"model.lr": FloatDistribution(1e-5, 1e-3, log=True), "data.baseline": ["user", "item"]}
DEFAULTS = {"model.lr": 1e-4, "data.baseline": "soft"}


def test_the_first_setting_is_the_methods_own():
    assert proposals(SPACE, DEFAULTS, 4, seed=0)[0] == DEFAULTS
    assert proposals(SPACE, DEFAULTS, 1, seed=0) == [DEFAULTS]


@pytest.mark.parametrize("seed", range(5))
def test_settings_lie_in_the_space_and_cover_it(seed: int):
    """16 points of a Sobol sequence, scrambled or not: one in each sixteenth of an axis."""
    tried = proposals(SPACE, DEFAULTS, 17, seed)[1:]
    rates = sorted(setting["model.lr"] for setting in tried)
    assert rates[0] >= 1e-5
    assert rates[-1] <= 1e-3
    rounding = 1.01  # to three digits
    assert max(b / a for a, b in pairwise(rates)) < 100 ** (2 / 16) * rounding
    assert Counter(setting["data.baseline"] for setting in tried) == {"user": 8, "item": 8}


def test_a_longer_search_goes_on_where_a_shorter_one_stopped():
    short, long = (proposals(SPACE, DEFAULTS, trials, seed=3) for trials in (3, 6))
    assert long[:3] == short
    assert long != proposals(SPACE, DEFAULTS, 6, seed=4)


def test_a_file_is_read_method_by_method(tmp_path: Path):
    file = tmp_path / "search.yaml"
    file.write_text("default: {lr: {low: 1, high: 2}}\nasft: {beta: [1, 2]}\n")
    spaces = Spaces(file)
    assert spaces.space("asft") == {"beta": [1, 2]}
    assert spaces.space("bc") == {"lr": FloatDistribution(1, 2)}


def test_ends_that_yaml_takes_for_text_are_numbers(tmp_path: Path):
    file = tmp_path / "search.yaml"
    file.write_text("asft: {lr: {low: 1e-5, high: 1e-4, log: true}}")
    tried = proposals(Spaces(file).space("asft"), {"lr": 3e-5}, 4, seed=0)
    assert all(1e-5 <= setting["lr"] <= 1e-4 for setting in tried)


@pytest.mark.parametrize(
    "text",
    [
        "asft: {lr: {min: 0, max: 1}}",
        "asft: {lr: 3}",
        "asft: {lr: []}",
        "asft: {lr: {low: 2, high: 1}}",
        "asft: {lr: {low: 1, high: 1}}",
        "asft: {lr: {low: .nan, high: 1}}",
        "asft: {lr: {low: 0, high: 1, step: 0.3}}",
        "asft: {lr: {low: 0, high: 1, log: true}}",
        "asft: {lr: {lowest: 0, high: 1}}",
        "asft: {lr: {low: a, high: b}}",
        "asft: 3",
    ],
)
def test_spaces_refuse_invalid_search_spaces(tmp_path: Path, text: str):
    file = tmp_path / "search.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=r"search.yaml, asft: .* is not a search space"):
        Spaces(file)


def test_a_missing_file_or_space_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"search\.yaml: cannot be read"):
        Spaces(tmp_path / "search.yaml")
    (tmp_path / "search.yaml").write_text("asft: {lr: [1, 2]}")
    with pytest.raises(InputError, match="no search space for 'bc'"):
        Spaces(tmp_path / "search.yaml").space("bc")


@pytest.mark.parametrize("package", ["optuna", "scipy"])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, package: str):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=r"recalign\[search\]"):
        proposals(SPACE, DEFAULTS, 2, seed=0)
