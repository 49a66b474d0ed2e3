"""The item table that `recalign init` describes: what it proposes can be read, and what it leaves out it names."""

from __future__ import annotations

import polars as pl
import yaml

from recalign.data.events import ItemTable
from recalign.data.events.init_items import describe_items
from recalign.data.events.items import table_values

ITEMS = pl.Series("item", range(60))


def described(root, columns):
    pl.DataFrame({"item": ITEMS} | columns).write_parquet(root / "items.parquet")
    text = describe_items(str(root / "items.parquet"), root, ITEMS, "item")
    return yaml.safe_load("\n".join(text))["items"], [line for line in text if "# left out: " in line]


def test_what_check_would_refuse_is_left_out_and_named(tmp_path):
    columns = {
        "brand": ["a", "b"] * 30,
        "attributes": [{"a": 1}, {"a": 2}] * 30,
        "json": ['["a", "b"]', "[]"] * 30,
        "ragged": [[0.5], [0.5, 1.0]] * 30,
        "holes": [[0.5, float("nan")], [0.5, 1.0]] * 30,
        "price": [float("nan"), 1.0] * 30,
        "raw": [b"a", b"\xff"] * 30,
        "when\x07\n": [float("inf"), 2.0] * 30,
        "nothing": pl.Series([None] * 60, dtype=pl.String),
        "none": pl.Series([[]] * 60, dtype=pl.List(pl.Float32)),
    }
    found, left = described(tmp_path, columns)
    assert found["features"] == {"brand": "brand"}
    table = ItemTable(**found)
    assert table_values(str(tmp_path / table.file), table, ITEMS, ITEMS).kinds == {"brand": "category"}
    for name in ("attributes", "json", "ragged", "holes", "price", "raw", "when"):
        assert sum(name in line for line in left) == 1, name
    assert len(left) == 7


def test_several_categories_that_items_share_are_proposed(tmp_path):
    """Though hardly two items have the same ones."""
    tags = ["|".join(f"t{(n + k * (1 + n // 40)) % 40}" for k in range(3)) for n in range(60)]
    found, left = described(tmp_path, {"tags": tags, "author": [f"a{n}" for n in range(60)], "same": ["x"] * 60})
    assert len(set(tags)) > 50
    assert found["features"] == {"tags": {"value": "tags", "separator": "|"}}
    assert left == []


def test_the_number_of_a_row_is_no_feature_and_the_title_is_that_of_the_item(tmp_path):
    columns = {"Unnamed: 0": range(60), "brand_name": ["a", "b"] * 30, "product_name": [f"p{n}" for n in range(60)]}
    pl.DataFrame({"sku": [f"x{n}" for n in range(60)]} | columns).write_parquet(tmp_path / "items.parquet")
    ids = pl.Series("item", [f"x{n}" for n in range(60)])
    found = yaml.safe_load("\n".join(describe_items(str(tmp_path / "items.parquet"), tmp_path, ids, "item")))["items"]
    assert (found["id"], found["title"], found["features"]) == ("sku", "product_name", {"brand_name": "brand_name"})
