"""One place refuses what no bundle could answer, and says where."""

from __future__ import annotations

import pytest

from recalign.errors import InputError
from recalign.serve.server import Boost, Request


def test_from_json_and_from_python_it_is_the_same():
    given = {"items": [1], "times": [2], "boost": [{"column": "genre", "value": "War", "weight": 0.5}]}
    assert Request.from_any(given) == Request(items=[1], times=[2], boost=[Boost("genre", "War", 0.5)])


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ([], "the request"),
        ({"itmes": []}, "'itmes'"),
        ({"items": "abc"}, "items"),
        ({"items": [1.5], "times": [1]}, "items[0]"),
        ({"items": [True], "times": [1]}, "items[0]"),
        ({"items": [None], "times": [1]}, "items[0]"),
        ({"items": [1] * 10_001, "times": [1] * 10_001}, "items"),
        ({"items": [1], "times": []}, "times"),
        ({"items": [1], "times": [1], "rewards": []}, "rewards"),
        ({"items": [1], "times": [1], "rewards": [float("nan")]}, "rewards[0]"),
        ({"items": [1], "times": [1], "rewards": [float("inf")]}, "rewards[0]"),
        ({"items": [1], "times": [1], "rewards": ["good"]}, "rewards[0]"),
        ({"items": [1], "times": [1], "rewards": [10**400]}, "rewards[0]"),
        ({"k": 0}, "k"),
        ({"k": 1001}, "k"),
        ({"k": 2.0}, "k"),
        ({"k": True}, "k"),
        ({"allow": 3}, "allow"),
        ({"block": None}, "block"),
        ({"times": None}, "times"),
        ({"block": [1] * 10_001}, "block"),
        ({"seen": "maybe"}, "seen"),
        ({"strength": -1}, "strength"),
        ({"strength": float("nan")}, "strength"),
        ({"log_probs": 1}, "log_probs"),
        ({"boost": [{}]}, "boost[0].column"),
        ({"boost": [3]}, "boost[0]"),
        ({"boost": [{"column": "x", "value": [1], "weight": 1}]}, "boost[0].value"),
        ({"boost": [{"column": "x", "value": 1, "weight": float("nan")}]}, "boost[0].weight"),
        ({"boost": [{"column": "x", "value": 1, "weight": 1}] * 101}, "boost"),
    ],
)
def test_request_refuses_invalid_fields(given, where):
    with pytest.raises(InputError) as refused:
        Request.from_any(given)
    assert refused.value.where == where
    assert refused.value.remedy


def test_a_misspelt_name_has_a_suggestion():
    with pytest.raises(InputError, match="did you mean 'strength'"):
        Request.from_any({"strenght": 1})
