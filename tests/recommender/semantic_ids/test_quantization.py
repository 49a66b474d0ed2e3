"""Residual k-means with unique ids, and ids for items that are new."""

from __future__ import annotations

import math
import sys
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recalign.errors import InputError
from recalign.recommender.semantic_ids.assignment import keys
from recalign.recommender.semantic_ids.quantization import Collisions, append_codes, decode, described, means, quantize

MODES = get_args(Collisions)


def blobs(seed: int = 0, items: int = 60, width: int = 4, alike: bool = False) -> np.ndarray:
    """Vectors in eight clouds, a third of them one and the same if ``alike``."""
    random = np.random.default_rng(seed)
    x_ND = 5 * random.normal(size=(8, width))[random.integers(8, size=items)] + random.normal(size=(items, width))
    x_ND[: items // 3 * alike] = 1
    return (x_ND - x_ND.mean(axis=0)).astype(np.float32)


def lost(x_ND: np.ndarray, codes_NL: np.ndarray, centres: list[np.ndarray]) -> float:
    return float(np.square(x_ND - decode(codes_NL, centres)).sum() / np.square(x_ND).sum())


@settings(max_examples=25)
@given(
    st.integers(0, 99),
    st.integers(1, 60),
    st.sampled_from([(8, 8), (2, 40), (40, 2), (4, 4, 4), (3, 21)]),
    st.sampled_from(MODES),
    st.sampled_from([None, 1.0, 2.0]),
    st.booleans(),
)
def test_every_id_is_of_one_item_and_every_code_of_its_level(seed, items, sizes, mode, balance, alike):
    x_ND = blobs(seed, items, alike=alike)
    found = quantize(x_ND, sizes, mode, balance)
    assert found.codes_NL.shape == (items, len(found.sizes))
    assert (found.codes_NL >= 0).all()
    assert (found.codes_NL < found.sizes).all()
    key_N = keys(found.codes_NL, found.sizes)
    assert len(set(key_N.tolist())) == items
    assert found.sizes[: len(sizes)] == sizes
    assert [len(centre) for centre in found.centres] == list(found.sizes)


@pytest.mark.parametrize("mode", MODES)
def test_a_full_house(mode: Collisions):
    found = quantize(blobs(items=64), (8, 8), mode)
    assert len(set(keys(found.codes_NL, found.sizes).tolist())) == 64


def test_more_items_than_ids_are_refused():
    with pytest.raises(InputError, match="65 items, and 8 x 8 codes are only 64 ids"):
        quantize(blobs(items=65), (8, 8))


def test_each_level_brings_the_vectors_nearer_and_assignment_beats_relocation():
    x_ND = blobs(items=200)
    found = {mode: quantize(x_ND, (16, 16), mode) for mode in MODES}
    left = {mode: lost(x_ND, one.codes_NL, one.centres) for mode, one in found.items()}
    first = found["assign"]
    assert left["assign"] < lost(x_ND, first.codes_NL[:, :1], first.centres[:1]) < 1
    assert left["token"] <= left["assign"] < left["relocate"]


def test_items_of_one_cloud_share_their_first_code():
    random = np.random.default_rng(0)
    cloud_N = np.repeat(np.arange(4), 10)
    x_ND = 10 * np.eye(4)[cloud_N] + 0.1 * random.normal(size=(40, 4))
    codes_NL = quantize((x_ND - x_ND.mean(axis=0)).astype(np.float32), (4, 12)).codes_NL
    assert len({(cloud, code) for cloud, code in zip(cloud_N, codes_NL[:, 0], strict=True)}) == 4


def test_relocation_leaves_the_nearest_item_of_each_id_and_counts_the_others():
    x_ND = blobs(items=100)
    found = quantize(x_ND, (8, 16), "relocate")
    token = quantize(x_ND, (8, 16), "token")
    first_N = token.codes_NL[:, 2] == 0
    np.testing.assert_array_equal(found.codes_NL[first_N], token.codes_NL[first_N, :2])
    assert token.moved == (~first_N).sum() > 0
    square_N = np.square(x_ND - decode(token.codes_NL, token.centres)).sum(axis=1)
    for key in set(keys(token.codes_NL[:, :2], (8, 16)).tolist()):
        rows = np.flatnonzero(keys(token.codes_NL[:, :2], (8, 16)) == key)
        rows = rows[np.argsort(token.codes_NL[rows, 2])]
        assert (np.diff(square_N[rows]) >= 0).all()


def test_the_same_seed_gives_the_same_ids():
    x_ND = blobs(items=200)
    np.testing.assert_array_equal(quantize(x_ND, (16, 16)).codes_NL, quantize(x_ND, (16, 16)).codes_NL)


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
    again_NL = append_codes(x_ND, codes_NL, sizes)
    np.testing.assert_array_equal(again_NL, codes_NL)


def test_a_new_item_gets_an_id_beside_the_items_it_is_like_also_after_the_space_has_turned():
    random = np.random.default_rng(0)
    cloud_N = np.tile(np.arange(4), 8)
    x_ND = (10 * np.eye(4)[cloud_N] + 0.1 * random.normal(size=(32, 4))).astype(np.float32)
    turn_DD = np.linalg.qr(random.normal(size=(4, 4)))[0].astype(np.float32)
    codes_NL = quantize(x_ND[:28], (4, 12)).codes_NL
    for vectors in (x_ND, x_ND @ turn_DD):
        added_NL = append_codes(vectors, codes_NL, (4, 12))
        assert added_NL[28:, 0].tolist() == [codes_NL[cloud_N[:28] == cloud][0, 0] for cloud in cloud_N[28:]]


def test_appending_more_than_there_are_ids_is_refused():
    x_ND = blobs(items=65)
    with pytest.raises(InputError, match="5 new items, and 4 of 64 ids are free"):
        append_codes(x_ND, quantize(x_ND[:60], (8, 8)).codes_NL, (8, 8))


def test_ids_are_described_as_they_were_made():
    x_ND = blobs(items=100)
    made = quantize(x_ND, (8, 16))
    found = described(x_ND, made.codes_NL, made.sizes)
    assert math.isclose(lost(x_ND, made.codes_NL, made.centres), lost(x_ND, made.codes_NL, found.centres), rel_tol=1e-3)


def test_without_faiss_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match=r"pip install 'recalign\[ids\]'"):
        quantize(blobs(), (8, 8))
