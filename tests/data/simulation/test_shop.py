"""A made-up shop's files: what the tutorial says of them."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from recalign.data.simulation import shop, world
from recalign.data.simulation.simulate_command import simulate
from recalign.errors import InputError


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The events and the products of the shop, as its files hold them."""
    file = tmp_path_factory.mktemp("shop") / "shop.csv"
    simulate(shop=file)
    return pl.read_csv(file), pl.read_csv(file.with_name("shop-products.csv"))


def test_every_event_has_a_product_with_a_unique_title(written: tuple[pl.DataFrame, pl.DataFrame]):
    events, products = written
    assert len(events) == 12_000
    assert events["customer"].n_unique() == 400
    assert set(events["product"]) <= set(products["product"])
    assert products["title"].n_unique() == len(products) == 200
    assert set(products["category"]) == set(shop.SOLD)
    assert set(events["stars"].drop_nulls()) == {1, 2, 3, 4, 5}
    assert events["time"].str.to_datetime("%Y-%m-%dT%H:%M:%S%z").is_sorted()


def test_stars_of_a_customer_depend_on_the_category(written: tuple[pl.DataFrame, pl.DataFrame]):
    """Stars that a customer's own mean of a category leaves are fewer than those that the category's mean leaves."""
    events, products = written
    rated = events.drop_nulls().join(products, on="product")
    rated = rated.with_columns(pl.col("stars") - pl.col("stars").mean().over("customer"))
    rated = rated.with_columns(pl.col("stars") - pl.col("stars").mean().over("product"))
    halves = rated.with_columns(half=pl.int_range(pl.len()).over("customer", "category") % 2)
    means = halves.group_by("customer", "category", "half").agg(pl.col("stars").mean())
    wide = means.pivot(on="half", index=["customer", "category"], values="stars").drop_nulls()
    assert wide.select(pl.corr("0", "1")).item() > 0.15


def test_another_seed_makes_another_shop():
    assert not shop.tables(world.simulate(shop.shop(1)))[0].equals(shop.tables(world.simulate(shop.shop()))[0])


@pytest.mark.parametrize(
    ("file", "settings"), [("shop.parquet", {}), ("shop.csv", {"noise": 2.0}), ("shop.csv", {"out": Path("a")})]
)
def test_simulate_shop_takes_only_a_csv_file_and_a_seed(tmp_path: Path, file: str, settings: dict[str, float]):
    with pytest.raises(InputError, match="shop"):
        simulate(shop=tmp_path / file, **settings)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("file", ["shop.csv", "shop-products.csv"])
def test_simulate_shop_overwrites_only_files_of_a_shop(tmp_path: Path, file: str):
    simulated = world.simulate(world.World(users=20, items=20, events=200))
    for _ in range(2):
        shop.write(simulated, tmp_path / "shop.csv")
    (tmp_path / file).write_text("user,item,time\n1,2,3\n")
    with pytest.raises(InputError, match="not written by --shop"):
        shop.write(simulated, tmp_path / "shop.csv")
    assert (tmp_path / file).read_text() == "user,item,time\n1,2,3\n"
