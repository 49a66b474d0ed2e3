"""The items that are held out, what is known of them, and the figures made of ranks."""

import numpy as np
import polars as pl
import pytest

from benchmarks.items.logs import held_out, title_vectors
from benchmarks.items.ranks import crossed, said, table


def test_other_items_are_held_out_by_each_seed_of_every_popularity():
    count_V = np.random.default_rng(0).permutation(np.append(np.arange(1, 401), np.zeros(50, np.int64)))
    sets = [part for seed in range(6) for part in held_out(count_V, seed)]
    assert [len(part) for part in sets] == [20, 40] * 6
    assert len(np.unique(np.concatenate(sets))) == 360  # no item twice
    for part in sets:
        blocks = (count_V[part] - 1) // 20
        assert (np.bincount(blocks) == len(part) // 20).all()  # as many of each popularity, none without events


def ranks() -> pl.DataFrame:
    """Two cold targets, of which features find one among fifty, and two warm ones; ids miss the cold ones."""
    own = {
        "event": [0, 1, 2, 3],
        "user": [0, 1, 0, 1],
        "item": ["c", "d", "w", "w"],
        "cold": [True, True, False, False],
    }
    own |= {"known": [True, False, True, True], "cold_history": [False] * 4, "left": [100] * 4, "seed": [0] * 4}
    own["left_cold"] = [20] * 4
    rows = {
        "ids": ([0, 0, 1, 3], [0] * 4, [0.0] * 4),
        "start": ([20, 60, 3, 3], [1, 11, 0, 0], [0.1, 0.3, 0.1, 0.3]),
        "asft": ([20, 50, 3, 1], [1, 9, 0, 0], [0.2, 0.4, 0.2, 0.4]),
    }
    return pl.concat(
        pl.DataFrame(own | {"rank": rank, "among": among, "shown": shown, "row": [row] * 4})
        for row, (rank, among, shown) in rows.items()
    )


def test_cold_item_figures_match_hand_values():
    found = table(ranks(), "small", [0])
    mean = {(row["row"], row["metric"]): row["mean"] for row in found.iter_rows(named=True)}
    assert mean["start", "cold/hr@10"] == 0
    assert mean["start", "cold/hr@50"] == mean["start", "cold/hr@50/items"] == 0.5
    assert mean["start", "cold/hr@200"] == 1
    assert mean["start", "cold/known_users/hr@50"] == 1
    assert mean["start", "cold/new_users/hr@50"] == 0
    assert mean["start", "cold/among/hr@10"] == 0.5
    assert mean["ids", "cold/hr@200"] == 0
    assert mean["start", "chance/hr@50"] == 0.5
    assert mean["ids", "chance/hr@50"] == 0  # no cold item is in its catalogue
    assert mean["start", "shown"] == pytest.approx(0.2)
    assert mean["start", "chance/shown"] == pytest.approx(0.2)
    assert mean["asft", "shown/minus_start"] == pytest.approx(0.1)
    assert mean["asft", "cold/hr@50/minus_start"] == 0.5
    assert mean["asft", "warm/ndcg@10/minus_start"] == pytest.approx(0.25)
    assert mean["start", "warm/known_users/ndcg@10"] == 0.5
    assert ("start", "warm/new_users/ndcg@10") not in mean
    assert mean["start", "warm/ndcg@10/minus_ids"] == pytest.approx(-0.25)  # one of rank 1 is now third: 1 -> 1 / 2
    assert mean["start", "all/ndcg@10/minus_ids"] == pytest.approx(-0.125)
    assert ("start", "cold/cold_histories/hr@50") not in mean
    assert "nothing is to be concluded" in said(ranks())


def test_an_interval_holds_the_mean_and_is_wider_where_items_differ():
    random = np.random.default_rng(0)
    user, item = random.integers(50, size=2000), random.integers(40, size=2000)
    noise = pl.DataFrame({"user": user, "item": item, "value": random.random(2000), "weight": 1.0})
    by_item = noise.with_columns(value=pl.Series((item % 2).astype(float)))
    low, high = crossed(noise)
    assert low < noise["value"].mean() < high
    wide = crossed(by_item)
    assert wide[1] - wide[0] > 3 * (high - low)


def test_titles_that_share_words_are_near_and_the_year_says_nothing():
    titles = ["Alien (1979)", "Aliens (1986)", "Alien (1992)", "Toy Story (1995)", "Toy Story 2 (1999)", "Casablanca"]
    vector = title_vectors(pl.Series(titles), np.array([True] * 5 + [False]))
    unit = vector / np.linalg.norm(vector, axis=1, keepdims=True).clip(1e-9)
    cosine = unit @ unit.T
    np.testing.assert_allclose(vector[0], vector[2], atol=1e-6)
    assert cosine[0, 1] > 0.5 > cosine[0, 3] + 0.3
    assert cosine[3, 4] > 0.5
    assert np.linalg.norm(vector[5]) < 0.5  # what no title in training shares has no place in their SVD
