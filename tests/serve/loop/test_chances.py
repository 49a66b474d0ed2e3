"""The chances of a list that another policy had shown."""

from __future__ import annotations

import numpy as np
import pytest

from recalign.serve.loop.chances import of_list
from recalign.serve.server.request import Explore

SCORES = np.array([-np.inf, 3.0, 2.0, 1.0])  # of the padding item and of three others
AHEAD = -np.log(1 + np.exp(-1))  # of an item whose only rival scores one less


@pytest.mark.parametrize(
    ("items", "fixed", "expected"),
    [
        ([1, 2], 1, [0, AHEAD]),
        ([2, 1], 1, [-np.inf, -np.log(1 + np.exp(-2))]),  # the first place would hold item 1
        ([1, 3], 2, [0, -np.inf]),
        ([2, 0, 1], 0, [2 - np.log(np.exp([3, 2, 1]).sum()), -np.inf, -np.inf]),  # an item that it does not have
        ([0, 1], 1, [-np.inf, -np.inf]),
    ],
)
def test_of_list_gives_items_that_the_policy_would_not_show_no_probability(items, fixed, expected):
    found = of_list(SCORES, np.array(items), Explore(temperature=1.0, fixed=fixed))
    assert found == pytest.approx(np.array(expected))
