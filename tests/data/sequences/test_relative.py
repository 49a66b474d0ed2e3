"""Rewards as ranks among events that are alike: by hand, from training rows alone, refused where it cannot be."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recalign.data.sequences import High, LeaveLast, RelativeTo, UserGroups, build_sequences
from recalign.data.sequences.splits import TEST, TRAIN, VALIDATION

from .tables import table


def frame(rewards, lengths, split=None):
    return pl.DataFrame(
        {
            "reward": pl.Series(rewards, dtype=pl.Float64),
            "length": pl.Series(lengths, dtype=pl.Float64),
            "split": pl.Series(split or [TRAIN] * len(rewards), dtype=pl.UInt8),
        }
    )


def test_ranks_have_worked_out_values():
    short, long = [1.0, 2.0, 2.0, 4.0], [10.0, 30.0, 20.0, 40.0]
    ranks = RelativeTo("length", 2).ranks(frame([*short, *long], [5] * 4 + [50] * 4))
    assert ranks.to_list() == [0.125, 0.5, 0.5, 0.875, 0.125, 0.625, 0.375, 0.875]


@pytest.mark.parametrize(
    ("rewards", "lengths", "split", "bins", "ranks"),
    [
        ([1, 3, 2, 9, -1], [5] * 5, [TRAIN, TRAIN, VALIDATION, TEST, TEST], 1, [0.25, 0.75, 0.5, 1.0, 0.0]),
        ([1, None, 3, 4], [5, 5, None, float("nan")], None, 2, [0.5, None, None, None]),
        ([1, None, 3], [5, 50, 50], [TRAIN, TRAIN, VALIDATION], 2, [0.5, None, None]),  # a bin without training rewards
    ],
)
def test_ranks_use_training_rows_and_are_null_where_unknown(rewards, lengths, split, bins, ranks):
    assert RelativeTo("length", bins).ranks(frame(rewards, lengths, split)).to_list() == ranks


values = st.lists(st.tuples(st.integers(-20, 20), st.integers(1, 9), st.sampled_from([TRAIN, TEST])), min_size=2)


@given(values, st.integers(1, 4))
def test_ranks_lie_between_0_and_1_and_follow_the_order(rows, bins):
    rewards, lengths, split = zip(*[(0, 1, TRAIN), *rows], strict=True)
    relative = RelativeTo("length", bins)
    ranks = relative.ranks(frame(rewards, lengths, list(split)))
    assert ranks.drop_nulls().is_between(0, 1).all()
    bent = relative.ranks(frame(np.exp(np.array(rewards) / 10), lengths, list(split)))
    assert bent.equals(ranks)
    train = ranks.filter(pl.Series(split) == TRAIN)
    assert train.mean() == pytest.approx(0.5)


@given(values, st.floats(-100, 100))
def test_later_rewards_change_no_training_rank(rows, other):
    rewards, lengths, split = zip(*[(0, 1, TRAIN), *rows], strict=True)
    relative, trained = RelativeTo("length", 3), pl.Series(split) == TRAIN
    changed = [r if s == TRAIN else other for r, s in zip(rewards, split, strict=True)]
    longer = [n if s == TRAIN else n + 7 for n, s in zip(lengths, split, strict=True)]
    before, after = (relative.ranks(frame(*of, list(split))) for of in ((rewards, lengths), (changed, longer)))
    assert before.filter(trained).equals(after.filter(trained))


USERS, ITEMS, TIMES = [0] * 6 + [1] * 6, [0, 1, 2, 3, 4, 9, 5, 0, 1, 2, 3, 4], [*range(6), *range(6)]
REWARDS, LENGTHS = [float(i) for i in range(12)], [5.0, 50.0] * 6


def built(relative_to=None, rewards=REWARDS, high=None):
    events = table(USERS, ITEMS, TIMES, rewards, length=pl.Series(LENGTHS))
    return build_sequences(events, LeaveLast(1, 1), high, UserGroups(), 1, relative_to=relative_to)


def test_built_sequences_hold_ranks_everywhere():
    plain, ranked = built(), built(RelativeTo("length", 2), high=High("reward > 0.9"))
    assert ranked.frame["reward"].to_list() == RelativeTo("length", 2).ranks(plain.frame).to_list()
    assert ranked.reward.tolist() == ranked.frame["reward"].cast(pl.Float32).gather(ranked.event).to_list()
    assert ranked.frame["high"].to_list() == (ranked.frame["reward"] > 0.9).to_list()
    assert ranked.frame.drop("reward", "high").equals(plain.frame.drop("reward", "high"))
    assert len({built(of).fingerprint for of in (None, RelativeTo("length", 2), RelativeTo("length", 3))}) == 3
    assert ranked.catalogue == plain.catalogue
