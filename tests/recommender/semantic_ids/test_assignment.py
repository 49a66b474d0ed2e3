"""Vectors to centres of limited room."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recalign.errors import InputError
from recalign.recommender.semantic_ids import assignment
from recalign.recommender.semantic_ids.assignment import CodeAllocator, assign_greedy, groups, keys, match, nearest


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@given(st.integers(0, 99), st.integers(1, 20), st.integers(1, 6))
def test_nearest_is_the_nearest_however_it_is_cut_into_blocks(seed: int, vectors: int, centres: int):
    x_ND, centre_KD = drawn(seed, vectors, 3), drawn(seed + 1, centres, 3)
    square_NK = np.square(x_ND[:, None] - centre_KD).sum(axis=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assignment, "COSTS", 7)
        code_N, square_N = nearest(x_ND, centre_KD)
    assert code_N.tolist() == square_NK.argmin(axis=1).tolist()
    np.testing.assert_allclose(square_N, square_NK.min(axis=1), atol=1e-4)


@given(st.integers(0, 99), st.lists(st.integers(0, 4), min_size=1, max_size=6).filter(sum), st.data())
def test_fill_keeps_to_the_room_and_leaves_no_item_nearer_to_a_code_with_room(seed: int, room: list[int], data):
    room_K = np.array(room)
    x_ND, centre_KD = drawn(seed, data.draw(st.integers(1, sum(room))), 3), drawn(seed + 1, len(room), 3)
    code_N = assign_greedy(x_ND, centre_KD, room_K)
    count_K = np.bincount(code_N, minlength=len(room))
    assert (count_K <= room_K).all()
    square_NK = np.square(x_ND[:, None] - centre_KD).sum(axis=2)
    own_N = square_NK[np.arange(len(x_ND)), code_N]
    assert (square_NK[:, count_K < room_K] >= own_N[:, None] - 1e-5).all()
    assert room == room_K.tolist()  # the caller's own


def test_fill_without_limits_is_nearest():
    x_ND, centre_KD = drawn(0, 50, 3), drawn(1, 7, 3)
    assert assign_greedy(x_ND, centre_KD, np.full(7, 50)).tolist() == nearest(x_ND, centre_KD)[0].tolist()


@given(st.integers(0, 99), st.lists(st.booleans(), min_size=4, max_size=5).filter(lambda free: sum(free) >= 3))
def test_match_has_the_smallest_sum_of_all_matchings(seed: int, free: list[bool]):
    x_ND, centre_KD = drawn(seed, 3, 2), drawn(seed + 1, len(free), 2)
    code_N = match(x_ND, centre_KD, np.array(free))
    assert len(set(code_N.tolist())) == 3
    assert all(free[code] for code in code_N)
    square_NK = np.square(x_ND[:, None] - centre_KD).sum(axis=2)
    every = itertools.permutations(np.flatnonzero(free), 3)
    best = min(square_NK[np.arange(3), list(chosen)].sum() for chosen in every)
    assert square_NK[np.arange(3), code_N].sum() == pytest.approx(best, abs=1e-4)


def test_too_large_a_matching_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(assignment, "EXACT", 11)
    with pytest.raises(InputError, match="3 items share a prefix and would be matched with 4 codes"):
        match(drawn(0, 3, 2), drawn(1, 4, 2), np.full(4, True))


@given(st.integers(0, 99), st.lists(st.integers(0, 23), max_size=20, unique=True), st.data())
def test_paths_give_free_ids_once(seed: int, taken: list[int], data):
    sizes = (2, 3, 4)
    items = data.draw(st.integers(1, 24 - len(taken)))
    paths, rest_ND = CodeAllocator(sizes, np.sort(np.array(taken, np.int64))), drawn(seed, items, 2)
    codes_NL = np.empty((items, 0), np.int64)
    for level, size in enumerate(sizes):
        code_N = paths.choose(level, keys(codes_NL, sizes), rest_ND, drawn(seed + level, size, 2))
        codes_NL = np.column_stack([codes_NL, code_N])
    given_N = keys(codes_NL, sizes)
    assert len(set(given_N.tolist())) == items
    assert not set(given_N.tolist()) & set(taken)


@given(st.integers(0, 99), st.sampled_from([1.0, 1.5, 3.0]))
def test_balance_limits_every_level_but_the_last(seed: int, balance: float):
    x_ND, paths = drawn(seed, 40, 2), CodeAllocator((4, 12), balance=balance)
    code_N = paths.choose(0, np.zeros(40, np.int64), x_ND, drawn(seed + 1, 4, 2))
    assert np.bincount(code_N).max() <= min(10 * balance, 12)


def test_balance_is_exceeded_by_no_more_than_ids_ask_for():
    """A prefix whose items did not fit into what the others left had no limit at all."""
    rng = np.random.default_rng(0)
    x_ND, centre_KD = rng.normal(size=(1661, 8)).astype(np.float32), rng.normal(size=(16, 8)).astype(np.float32)
    paths = CodeAllocator((16, 16, 16), balance=1.0)
    first_N = paths.choose(0, np.zeros(1661, np.int64), x_ND, centre_KD)
    code_N = paths.choose(1, first_N, x_ND[:, ::-1], centre_KD)
    assert np.bincount(first_N).max() == 104  # an even share
    assert np.bincount(code_N).max() <= 112


def test_keys_sort_as_their_codes_do_and_groups_hold_equal_ones():
    codes_NL = np.array([[1, 0], [0, 2], [1, 2], [0, 2]])
    assert keys(codes_NL, (2, 3)).tolist() == [3, 2, 5, 2]
    assert [rows.tolist() for rows in groups(keys(codes_NL, (2, 3)))] == [[1, 3], [0], [2]]
    assert list(groups(np.empty(0, np.int64))) == []


def test_balance_limits_the_second_of_three_levels_too():
    paths, prefix_N = CodeAllocator((4, 8, 4), balance=1.0), np.repeat(np.arange(4), 4)
    code_N = paths.choose(1, prefix_N, np.zeros((16, 1), np.float32), np.arange(8, dtype=np.float32)[:, None])
    assert np.bincount(code_N).max() <= 2  # 16 items, 8 codes
