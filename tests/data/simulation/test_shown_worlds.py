"""Worlds in which several items are shown and one is chosen."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from recalign.data.simulation.world import World, simulate
from recalign.errors import InputError

SETTINGS = {"users": 60, "items": 100, "events": 1500}


@pytest.fixture(scope="module")
def events() -> pl.DataFrame:
    return simulate(World(**SETTINGS, shown=8)).events


def test_each_request_shows_s_items_and_one_is_chosen(events: pl.DataFrame) -> None:
    by_request = events.group_by("user", "timestamp").agg(
        pl.len(), items=pl.col("item").n_unique(), chosen=pl.col("chosen").sum()
    )
    assert by_request.select("len", "items", "chosen").unique().rows() == [(8, 8, 1)]
    assert len(by_request) == 1500
    assert events.filter(~pl.col("chosen"))["reward"].null_count() == 1500 * 7
    assert events.filter("chosen")["reward"].null_count() < 300


def test_chosen_items_are_not_shown_again(events: pl.DataFrame) -> None:
    ordered = events.sort("user", "timestamp")
    chosen_before = (pl.col("chosen").cum_sum() - pl.col("chosen")).over("user", "item")
    assert ordered.select(chosen_before.sum()).item() == 0


def test_fashion_decides_what_is_shown_and_taste_what_is_chosen() -> None:
    made = simulate(World(**SETTINGS, shown=8, habit=0, confounding=0, drift=0))
    taste = made.people.satisfaction_UI[made.events["user"].to_numpy() - 1, made.events["item"].to_numpy() - 1]
    fashion = made.people.fashion_TI[0, made.events["item"].to_numpy() - 1]
    chosen = made.events["chosen"].to_numpy()
    assert taste[chosen].mean() > taste[~chosen].mean() + 0.3
    assert fashion[~chosen].mean() > fashion.mean() - 0.1 > made.people.fashion_TI[0].mean() + 0.3
    assert abs(fashion[chosen].mean() - fashion[~chosen].mean()) < 0.1


def test_every_shown_row_has_a_true_reward(events: pl.DataFrame) -> None:
    made = simulate(World(**SETTINGS, shown=8))
    own = made.truth_UI[made.events["user"].to_numpy() - 1, made.events["item"].to_numpy() - 1]
    assert np.allclose(made.events["true_reward"].to_numpy(), own)
    assert made.events.equals(events)


def test_random_with_shown_is_refused() -> None:
    with pytest.raises(InputError, match="shown: shown and random exclude each other"):
        World(**SETTINGS, shown=8, random=0.1)


def test_one_shown_item_per_request_is_refused() -> None:
    with pytest.raises(InputError, match=r"shown: .*every row would be chosen\n.*give 0, or 2 to 50"):
        World(**SETTINGS, shown=1)
    assert World(**SETTINGS, shown=2).shown == 2
