"""The histories that stood before a list."""

from __future__ import annotations

import polars as pl

from recalign.serve.loop.served import UserHistories

EVENTS = pl.DataFrame(
    [("anna", 1, 10, 4.0, None), ("anna", 3, 15, None, 12), ("anna", 2, 19, 5.0, 20), ("anna", 4, 20, 1.0, None)],
    schema=["user", "item", "time", "reward", "shown_at"],
    orient="row",
)


def test_a_history_ends_with_the_list_and_has_nothing_that_came_of_it():
    """In whole seconds, item 2 seems to be chosen before the list of time 20 that showed it."""
    histories = UserHistories(EVENTS)
    assert histories.before("anna", 20, 10) == ([1, 3, 4], [10, 15, 20], [4.0, None, 1.0])
    assert histories.before("anna", 19, 10)[0] == [1, 3]
    assert histories.before("anna", 21, 10)[0] == [1, 3, 2, 4]
    assert histories.before("anna", 21, 2)[0] == [2, 4]
    assert histories.before("bob", 21, 2) == ([], [], [])
