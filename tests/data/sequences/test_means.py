from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recalign.data.sequences import reward_means
from recalign.data.sequences.splits import TEST, TRAIN


def frame(users, items, rewards, split=None):
    return pl.DataFrame(
        {"user": users, "item": items, "reward": rewards, "split": split or [TRAIN] * len(users)},
        schema_overrides={"reward": pl.Float64},
    )


def test_reward_means_have_worked_out_values():
    means = reward_means(frame([0, 0, 0, 1], [7, 8, 7, 7], [4.0, 2.0, None, 1.0]), shrinkage=1.0)
    mu = 7 / 3
    item7, item8 = (5 + mu) / 3, (2 + mu) / 2
    assert means["global"].to_list() == pytest.approx([mu] * 4)
    assert means["item"].to_list() == pytest.approx([item7, item8, item7, item7])
    assert means["user"].to_list() == pytest.approx([mu, (4 + mu) / 2, (6 + mu) / 3, mu])
    first, second = 4 - item7, 2 - item8
    assert means["user_item"].to_list() == pytest.approx(
        [item7, item8 + first / 2, item7 + (first + second) / 3, item7]
    )


rows = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.floats(-5, 5)), min_size=2, max_size=30)


@given(rows, st.floats(-100, 100))
def test_user_mean_ignores_the_own_and_later_rewards(events, other):
    events = sorted(events, key=lambda e: e[0])
    users, items, rewards = (list(x) for x in zip(*events, strict=True))
    # the means of items and of everything stay as they are: only the last event's reward changes, no training row
    split = [TRAIN] * (len(users) - 1) + [TEST]
    if len(users) < 2:
        return
    before = reward_means(frame(users, items, rewards, split))
    after = reward_means(frame(users, items, [*rewards[:-1], other], split))
    assert before.equals(after)


@given(rows)
def test_item_and_global_means_ignore_test_rows(events):
    events = sorted(events, key=lambda e: e[0])
    users, items, rewards = (list(x) for x in zip(*events, strict=True))
    split = [TRAIN] + [TEST if i % 2 else TRAIN for i in range(1, len(users))]
    before = reward_means(frame(users, items, rewards, split))
    changed = [r if s == TRAIN else r + 50 for r, s in zip(rewards, split, strict=True)]
    after = reward_means(frame(users, items, changed, split))
    assert before.select("global", "item").equals(after.select("global", "item"))
