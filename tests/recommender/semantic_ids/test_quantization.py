"""Residual k-means with unique ids."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recalign.errors import InputError
from recalign.recommender.semantic_ids import quantization
from recalign.recommender.semantic_ids.quantization import (
    assign_greedy,
    assign_one_to_one,
    decode,
    keys,
    nearest,
    quantize,
)


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
def test_nearest_does_not_depend_on_blocks(seed: int, vectors: int, centres: int):
    x_ND, centre_KD = drawn(seed, vectors, 3), drawn(seed + 1, centres, 3)
    square_NK = np.square(x_ND[:, None] - centre_KD).sum(axis=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantization, "DISTANCES_AT_ONCE", 7)
        code_N, square_N = nearest(x_ND, centre_KD)
    assert code_N.tolist() == square_NK.argmin(axis=1).tolist()
    np.testing.assert_allclose(square_N, square_NK.min(axis=1), atol=1e-4)


@given(st.integers(0, 99), st.integers(1, 4), st.integers(1, 6), st.data())
def test_assign_greedy_leaves_no_item_nearer_to_a_code_with_room(seed: int, room: int, codes: int, data):
    x_ND, centre_KD = drawn(seed, data.draw(st.integers(1, room * codes)), 3), drawn(seed + 1, codes, 3)
    code_N = assign_greedy(x_ND, centre_KD, room)
    count_K = np.bincount(code_N, minlength=codes)
    assert (count_K <= room).all()
    square_NK = np.square(x_ND[:, None] - centre_KD).sum(axis=2)
    own_N = square_NK[np.arange(len(x_ND)), code_N]
    assert (square_NK[:, count_K < room] >= own_N[:, None] - 1e-5).all()


@given(st.integers(0, 99), st.integers(3, 5))
def test_assign_one_to_one_minimises_the_sum(seed: int, codes: int):
    x_ND, centre_KD = drawn(seed, 3, 2), drawn(seed + 1, codes, 2)
    code_N = assign_one_to_one(x_ND, centre_KD)
    assert len(set(code_N.tolist())) == 3
    square_NK = np.square(x_ND[:, None] - centre_KD).sum(axis=2)
    best = min(square_NK[np.arange(3), list(chosen)].sum() for chosen in itertools.permutations(range(codes), 3))
    assert square_NK[np.arange(3), code_N].sum() == pytest.approx(best, abs=1e-4)


@settings(max_examples=25)
@given(
    st.integers(0, 99),
    st.integers(1, 64),
    st.sampled_from([(8, 8), (2, 40), (40, 2), (4, 4, 4), (3, 22)]),
    st.booleans(),
)
def test_quantize_gives_unique_ids_of_valid_codes(seed, items, sizes, alike):
    found = quantize(blobs(seed, items, alike=alike), sizes)
    assert found.codes_NL.shape == (items, len(found.sizes))
    assert (found.codes_NL >= 0).all()
    assert (found.codes_NL < found.sizes).all()
    assert len(set(keys(found.codes_NL, found.sizes).tolist())) == items
    assert found.sizes[: len(sizes)] == sizes
    assert [len(centre) for centre in found.centres] == list(found.sizes)


def test_quantize_refuses_impossible_sizes(monkeypatch: pytest.MonkeyPatch):
    x_ND = blobs(items=65)
    with pytest.raises(InputError, match="65 items need ids, but 8 x 8 codes give only 64"):
        quantize(x_ND, (8, 8))
    monkeypatch.setattr(quantization, "MOST_ASSIGNED", 11)
    with pytest.raises(InputError, match="3 items share a prefix: too many to be matched with 4 codes"):
        assign_one_to_one(drawn(0, 3, 2), drawn(1, 4, 2))
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match=r"pip install 'recalign\[ids\]'"):
        quantize(blobs(), (8, 8))
