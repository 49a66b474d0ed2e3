"""What of a history a new user's request tells, by hand."""

import numpy as np
import pytest

from benchmarks.serving.new_users import mean, told
from recalign.serve.server import Request

WHOLE = Request(items=[3, 5, 3, 7], times=[1, 2, 3, 4], rewards=[1.0, None, 2.0, 3.0], k=5)


def test_older_events_are_not_told_and_their_items_are_blocked():
    assert told(WHOLE, 1) == Request(items=[7], times=[4], rewards=[3.0], k=5, block=(3, 5))
    assert told(WHOLE, 0) == Request(items=[], times=[], rewards=[], k=5, block=(3, 5, 7))
    assert told(WHOLE, 50) == told(WHOLE, None) == WHOLE


def test_a_users_events_are_drawn_together():
    found = mean(np.array([1.0, 0.0, 0.5]), np.array([4, 9, 4]))
    assert found.value == pytest.approx(0.5)
    assert set(np.round(found.draws_D, 6)) == {0.0, 0.5, 0.75}
