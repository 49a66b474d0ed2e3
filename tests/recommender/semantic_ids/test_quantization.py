"""Residual k-means with unique ids, and ids for items that are new."""

from __future__ import annotations

import itertools
import sys
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recalign.errors import InputError
from recalign.recommender.semantic_ids import quantization
from recalign.recommender.semantic_ids.quantization import (
    Collisions,
    append_codes,
    assign_greedy,
    assign_one_to_one,
    decode,
    keys,
    means,
    nearest,
    quantize,
)

MODES = get_args(Collisions)


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def blobs(seed: int = 0, items: int = 60, width: int = 4, alike: bool = False) -> np.ndarray:
    """Vectors in eight clouds, a third of them one and the same if ``alike``."""
    random = np.random.default_rng(seed)
    x_ND = 5 * random.normal(size=(8, width))[random.integers(8, size=items)] + random.normal(size=(items, width))
    x_ND[: items // 3 * alike] = 1
    return (x_ND - x_ND.mean(axis=0)).astype(np.float32)


def lost(x_ND: np.ndarray, codes_NL: np.ndarray, centres: list[np.ndarray]) -> float:
    return float(np.square(x_ND - decode(codes_NL, centres)).sum() / np.square(x_ND).sum())


@given(st.integers(0, 99), st.integers(1, 20), st.integers(1, 6))
def test_nearest_is_the_nearest_however_it_is_cut_into_blocks(seed: int, vectors: int, centres: int):
    x_ND, centre_KD = drawn(seed, vectors, 3), drawn(seed + 1, centres, 3)
    square_NK = np.square(x_ND[:, None] - centre_KD).sum(axis=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantization, "DISTANCES_AT_ONCE", 7)
        code_N, square_N = nearest(x_ND, centre_KD)
    assert code_N.tolist() == square_NK.argmin(axis=1).tolist()
    np.testing.assert_allclose(square_N, square_NK.min(axis=1), atol=1e-4)


@given(st.integers(0, 99), st.lists(st.integers(0, 4), min_size=1, max_size=6).filter(sum), st.data())
def test_greedy_assignment_leaves_no_item_nearer_to_a_code_with_room(seed: int, room: list[int], data):
    room_K = np.array(room)
    x_ND, centre_KD = drawn(seed, data.draw(st.integers(1, sum(room))), 3), drawn(seed + 1, len(room), 3)
    code_N = assign_greedy(x_ND, centre_KD, room_K)
    count_K = np.bincount(code_N, minlength=len(room))
    assert (count_K <= room_K).all()
    square_NK = np.square(x_ND[:, None] - centre_KD).sum(axis=2)
    own_N = square_NK[np.arange(len(x_ND)), code_N]
    assert (square_NK[:, count_K < room_K] >= own_N[:, None] - 1e-5).all()
    assert room == room_K.tolist()  # the caller's own


@given(st.integers(0, 99), st.lists(st.integers(0, 1), min_size=4, max_size=5).filter(lambda free: sum(free) >= 3))
def test_one_to_one_assignment_has_the_smallest_sum_of_all(seed: int, free: list[int]):
    x_ND, centre_KD = drawn(seed, 3, 2), drawn(seed + 1, len(free), 2)
    code_N = assign_one_to_one(x_ND, centre_KD, np.array(free))
    assert len(set(code_N.tolist())) == 3
    assert all(free[code] for code in code_N)
    square_NK = np.square(x_ND[:, None] - centre_KD).sum(axis=2)
    every = itertools.permutations(np.flatnonzero(free), 3)
    best = min(square_NK[np.arange(3), list(chosen)].sum() for chosen in every)
    assert square_NK[np.arange(3), code_N].sum() == pytest.approx(best, abs=1e-4)


@settings(max_examples=25)
@given(
    st.integers(0, 99),
    st.integers(1, 64),
    st.sampled_from([(8, 8), (2, 40), (40, 2), (4, 4, 4), (3, 22)]),
    st.sampled_from(MODES),
    st.booleans(),
)
def test_every_id_is_of_one_item_and_every_code_of_its_level(seed, items, sizes, mode, alike):
    found = quantize(blobs(seed, items, alike=alike), sizes, mode)
    assert found.codes_NL.shape == (items, len(found.sizes))
    assert (found.codes_NL >= 0).all()
    assert (found.codes_NL < found.sizes).all()
    assert len(set(keys(found.codes_NL, found.sizes).tolist())) == items
    assert found.sizes[: len(sizes)] == sizes
    assert [len(centre) for centre in found.centres] == list(found.sizes)


def test_what_cannot_be_given_is_refused(monkeypatch: pytest.MonkeyPatch):
    x_ND = blobs(items=65)
    with pytest.raises(InputError, match="65 items, and 8 x 8 codes are only 64 ids"):
        quantize(x_ND, (8, 8))
    with pytest.raises(InputError, match="5 new items, and 4 of 64 ids are free"):
        append_codes(x_ND, quantize(x_ND[:60], (8, 8)).codes_NL, (8, 8))
    monkeypatch.setattr(quantization, "MOST_ASSIGNED", 11)
    with pytest.raises(InputError, match="3 items share a prefix and would be matched with 4 codes"):
        assign_one_to_one(drawn(0, 3, 2), drawn(1, 4, 2), np.ones(4))
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match=r"pip install 'recalign\[ids\]'"):
        quantize(blobs(), (8, 8))


def test_a_further_code_numbers_the_items_of_an_id_by_their_distance():
    x_ND = blobs(items=100)
    found = quantize(x_ND, (8, 16), "token")
    assert found.moved == (found.codes_NL[:, 2] > 0).sum() > 0
    np.testing.assert_array_equal(found.codes_NL[:, :2], found.nearest_NL)
    square_N = np.square(x_ND - decode(found.codes_NL, found.centres)).sum(axis=1)
    for rows in quantization.groups(keys(found.codes_NL[:, :2], (8, 16))):
        rows = rows[np.argsort(found.codes_NL[rows, 2])]
        assert (np.diff(square_N[rows]) >= 0).all()


def test_means_are_of_what_the_levels_before_left():
    x_ND = np.array([[1, 0], [3, 0], [0, 5]], np.float32)
    first, second = means(x_ND, np.array([[0, 0], [0, 1], [2, 1]]), (3, 2))
    np.testing.assert_allclose(first, [[2, 0], [0, 0], [0, 5]])
    np.testing.assert_allclose(second, [[-1, 0], [0.5, 0]])


@settings(max_examples=25)
@given(st.integers(0, 99), st.integers(1, 50), st.integers(0, 14), st.sampled_from([(8, 8), (4, 4, 4)]), st.booleans())
def test_appending_moves_no_id_and_gives_free_ones(seed, old, new, sizes, alike):
    x_ND = blobs(seed, old + new, alike=alike)
    before_PL = quantize(x_ND[:old], sizes).codes_NL
    codes_NL = append_codes(x_ND, before_PL, sizes)
    np.testing.assert_array_equal(codes_NL[:old], before_PL)
    assert len(set(keys(codes_NL, sizes).tolist())) == old + new
    assert (codes_NL < sizes).all()
    np.testing.assert_array_equal(append_codes(x_ND, codes_NL, sizes), codes_NL)


def test_a_new_item_gets_an_id_beside_the_items_it_is_like_also_after_the_space_has_turned():
    cloud_N = np.tile(np.arange(4), 8)
    x_ND = (10 * np.eye(4)[cloud_N] + 0.1 * drawn(0, 32, 4)).astype(np.float32)
    turn_DD = np.linalg.qr(drawn(1, 4, 4))[0]
    codes_NL = quantize(x_ND[:28], (4, 12)).codes_NL
    for vectors in (x_ND, x_ND @ turn_DD):
        added_NL = append_codes(vectors, codes_NL, (4, 12))
        assert added_NL[28:, 0].tolist() == [codes_NL[cloud_N[:28] == cloud][0, 0] for cloud in cloud_N[28:]]
