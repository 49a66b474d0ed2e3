"""Codes of item features: what becomes of every kind of value, of what is missing, and of what comes later."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recalign.data.events import Feature, ItemValues
from recalign.data.sequences import LeaveLast, UserGroups, build_sequences
from recalign.data.sequences.features import ItemFeatures, number_with_features

from .tables import table

TYPES = {"category": pl.List(pl.String), "number": pl.Float64, "vector": pl.List(pl.Float32)}


def values_of(ids, **columns) -> ItemValues:
    """Values by feature: the kind, what items have, and what the feature is set to."""
    frame = pl.DataFrame({name: pl.Series(one, dtype=TYPES[kind]) for name, (kind, one, *_) in columns.items()})
    kinds = {name: kind for name, (kind, *_) in columns.items()}
    specified = {name: Feature(name, **(more[0] if more else {})) for name, (_, _, *more) in columns.items()}
    return ItemValues(pl.Series(ids), kinds, frame, specified)


def codes_of(features: ItemFeatures) -> list[list[int]]:
    return [part.tolist() for part in np.split(features.code, features.offset[1:-1])]


def test_encode_returns_worked_out_codes_and_weights():
    values = values_of(
        [1, 2, 3, 4],
        genre=("category", [["b", "a"], ["b"], None, ["a", "new", "newer"]]),
        tag=("category", [["x"], ["x"], ["y"], ["new"]]),
    )
    features = ItemFeatures.encode(values, pl.Series([1, 2, 3, 4, 5]), warm=3)
    assert features.plan == {"sizes": [3, 3], "width": 0, "codes": 11, "warm": 3}
    # genre: 0 unknown, 1 a, 2 b; tag: 3 unknown, 4 x, 5 y. What only cold items have is unknown, once an item.
    assert codes_of(features) == [[2, 1, 4], [2, 4], [0, 5], [1, 3], [0, 3]]
    half = math.sqrt(0.5)
    assert features.weight.tolist() == pytest.approx([half, half, 1, 1, 1, 1, 1, 1, 1, 1, 1])
    assert features.number.shape == (5, 0)


def test_numbers_are_binned_into_bins_of_equal_size():
    values = values_of(range(8), year=("number", [1, 2, 3, 4, 5, 6, None, 100], {"bins": 3}))
    features = ItemFeatures.encode(values, pl.Series(range(8)), warm=7)
    assert codes_of(features) == [[1], [1], [2], [2], [3], [3], [0], [3]]  # beyond the last edge: the last interval


def test_numbers_without_bins_and_vectors_are_standardised():
    values = values_of(
        [1, 2, 3], price=("number", [2.0, 6.0, None], {"bins": None}), text=("vector", [[0.0, 1], [4, 1], [9, 9]])
    )
    features = ItemFeatures.encode(values, pl.Series([1, 2, 3]), warm=2)
    assert features.number.tolist() == [[-1, -1, 0], [1, 1, 0], [0, 3.5, 4]]
    assert codes_of(features) == [[], [], [0]]  # a missing number says so; nothing else has a code
    assert features.plan == {"sizes": [1, 1], "width": 3, "codes": 1, "warm": 2}


def test_standardised_numbers_are_clipped():
    values = values_of([1, 2, 3], price=("number", [2.0, 6.0, 1e9], {"bins": None}))
    assert ItemFeatures.encode(values, pl.Series([1, 2, 3]), warm=2).number.tolist() == [[-1], [1], [10]]


def test_features_missing_in_training_are_unknown_everywhere():
    values = values_of(
        [1, 2],
        text=("vector", [None, [1.0, 2]]),
        year=("number", [None, 5.0], {"bins": 4}),
        tag=("category", [None, ["x"]]),
    )
    features = ItemFeatures.encode(values, pl.Series([1, 2]), warm=1)
    assert np.isfinite(features.number).all()
    assert features.plan["sizes"] == [1, 2, 1]
    assert codes_of(features) == [[0, 1, 3], [2, 3]]


some = st.one_of(st.none(), st.lists(st.sampled_from("abcde"), min_size=1, unique=True))
rows = st.lists(
    st.tuples(some, st.one_of(st.none(), st.floats(-1e6, 1e6)), st.one_of(st.none(), st.just([0.5, -1.0]))),
    min_size=1,
    max_size=30,
)


@given(rows, st.integers(1, 30), st.integers(1, 6))
def test_items_have_codes_of_their_features_with_unit_weights(rows, warm, bins):
    genre, year, text = zip(*rows, strict=True)
    warm = min(warm, len(rows))
    ids = pl.Series(range(len(rows)))
    values = values_of(
        ids, genre=("category", genre), year=("number", year, {"bins": bins}), text=("vector", [*text[:-1], [3.0, 4]])
    )
    features = ItemFeatures.encode(values, ids, warm)
    coder = features.coder
    first = np.cumsum([0, *coder.sizes])
    for v, codes in enumerate(codes_of(features)):
        of = np.searchsorted(first, codes, side="right") - 1
        weight = features.weight[features.offset[v] : features.offset[v + 1]]
        for f in (0, 1):  # the squares of a feature's weights sum to 1
            assert np.square(weight[of == f]).sum() == pytest.approx(1, abs=1e-5)
        names = {coder.plans[0]["categories"][code - 1] for code in codes if 0 < code < first[1]}
        known = set().union(*(one or () for one in genre[:warm]))
        assert names == set(genre[v] or ()) & known
        assert (0 in codes) == (not names)
        assert (year[v] is None) == (first[1] in codes)
    assert (features.number[[x is None for x in text[:-1]] + [False]] == 0).all()
    # What comes later is encoded as it would have been: items do not see each other.
    again = coder.encode(values.values.reverse())
    assert np.array_equal(again[3], features.number[::-1])
    assert [part.tolist() for part in np.split(again[0], again[2][1:-1])] == codes_of(features)[::-1]


def test_cold_items_follow_the_warm_items():
    # u0: a b c | d, u1: b a d | e, raw ids 100..104 of items a..e; 900 is an item that nobody has chosen
    events = table([0] * 4 + [1] * 4, [0, 1, 2, 3, 1, 0, 2, 4], range(8))
    split, groups = LeaveLast(1, 1), UserGroups(1.0)
    plain = build_sequences(events, split, None, groups)
    values = values_of([900, 104, 100, 103, 777], tag=("category", [["x"], ["x"], ["y"], None, None]))
    known = build_sequences(events, split, None, groups, numbering=partial(number_with_features, values))
    assert plain.items.to_list() == [100, 101]
    assert known.items.to_list() == [100, 101, 104, 900]  # 103 and 777 are in the table, and nothing is known of them
    assert (known.num_warm, plain.num_warm) == (2, 2)
    assert plain.frame["item_id"].to_list() == [1, 2, 0, 0, 2, 1, 0, 0]
    assert known.frame["item_id"].to_list() == [1, 2, 0, 0, 2, 1, 0, 3]
    assert known.item_counts().tolist() == [2, 2, 0, 0]
    assert np.array_equal(plain.train_count, known.train_count)
    assert plain.catalogue != known.catalogue
