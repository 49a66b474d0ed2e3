"""Item vectors: their sources, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import small
import torch

from recalign.data.sequences import EventDataModule
from recalign.errors import InputError
from recalign.recommender import RecommenderData
from recalign.recommender.checkpoint import load_net, recipe
from recalign.recommender.semantic_ids import Cooccurrence, ParquetVectors, RecommenderVectors
from recalign.recommender.semantic_ids.vectors import matrix, vector_table

VECTORS = np.arange(120, dtype=np.float64).reshape(40, 3)


@pytest.fixture(scope="module")
def data(log_root) -> EventDataModule:
    return small.data_of(EventDataModule, log_root, users="all")


def own(folder: Path, **columns: object) -> Path:
    """A Parquet file with an array of three numbers for each of 40 items."""
    frame = pl.DataFrame({"item": range(1, 41), "vector": VECTORS.tolist()}).with_columns(
        pl.Series(name, column, strict=False) for name, column in columns.items()
    )
    frame.write_parquet(path := folder / "vectors.parquet")
    return path


def test_cooccurrence_vectors_of_the_same_users_are_near(data: EventDataModule):
    table = Cooccurrence(dimensions=4).table(data)
    x_ND = matrix(table, data.sequences.items, "here")
    odd_N = data.sequences.items.to_numpy() % 2 == 1  # each user likes the items of one parity
    means = x_ND[odd_N].mean(axis=0), x_ND[~odd_N].mean(axis=0)
    side_N = (x_ND @ (means[0] - means[1])) > 0
    assert (side_N == odd_N).mean() > 0.9


def test_parquet_vectors_accept_lists_and_arrays(data: EventDataModule, tmp_path: Path):
    frames = {
        "lists": pl.DataFrame({"item": range(1, 41), "vector": VECTORS.tolist(), "year": 1999}),
        "arrays": pl.DataFrame({"item": range(1, 41), "vector": pl.Series(VECTORS)}),
        "text": pl.DataFrame({"item": [str(n) for n in range(1, 41)], "vector": VECTORS.tolist()}),
    }
    for name, frame in frames.items():
        frame.write_parquet(path := tmp_path / f"{name}.parquet")
        table = ParquetVectors(path).table(data)
        assert table["item"].to_list() == list(range(1, 41))
        np.testing.assert_array_equal(table["vector"].to_numpy(), VECTORS)
    with pytest.raises(InputError, match=r"vectors.column: there is no column 'text' .*\n.*vector"):
        ParquetVectors(tmp_path / "lists.parquet", column="text").table(data)


def test_matrix_is_centred_with_unit_lengths():
    items = pl.Series([1, 2, 3])
    table = vector_table(items, np.array([[3.0, 4.0], [0.0, 0.0], [0.0, 2.0]]))
    unit_ND = np.array([[0.6, 0.8], [0, 0], [0, 1]])
    np.testing.assert_allclose(matrix(table, items, "here"), unit_ND - unit_ND.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(matrix(table, items[1:], "here"), [[0, -0.5], [0, 0.5]])


@pytest.mark.parametrize("value", [np.nan, np.inf, None])
def test_matrix_refuses_nan(data: EventDataModule, tmp_path: Path, value: float | None):
    vectors = VECTORS.tolist()
    vectors[6][1] = value
    table = ParquetVectors(own(tmp_path, vector=vectors)).table(data)
    with pytest.raises(InputError, match="the vector of the item 7 has a NaN or infinite value"):
        matrix(table, data.sequences.items, "here")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"item": [3, *range(2, 41)]}, "the item 3 appears twice"),
        ({"item": [None, *range(2, 41)]}, "the item None is not of this log's id type"),
        ({"vector": [[1.0], *VECTORS.tolist()[1:]]}, "all of one length"),
        ({"vector": [None, *VECTORS.tolist()[1:]]}, "all of one length"),
        ({"item": ["001", *map(str, range(2, 41))]}, "the item '001' is not of this log's id type"),
        ({"vector": [[]] * 40}, "all of one length"),
        ({"vector": [["a", "b"]] * 40}, "lists of numbers"),
        ({"vector": ["a"] * 40}, "lists of numbers"),
    ],
)
def test_parquet_vectors_refuse_wrong_columns(data: EventDataModule, tmp_path: Path, columns: dict, message: str):
    with pytest.raises(InputError, match=message):
        ParquetVectors(own(tmp_path, **columns)).table(data)


@pytest.mark.parametrize("content", [None, b"no Parquet"])
def test_a_missing_or_broken_file_is_named(data: EventDataModule, tmp_path: Path, content: bytes | None):
    path = tmp_path / "vectors.parquet"
    if content:
        path.write_bytes(content)
    with pytest.raises(InputError) as error:
        ParquetVectors(path).table(data)
    assert error.value.where == str(path)


def test_recommender_vectors_are_those_of_its_catalogue(cloned: Path, log_root, tmp_path: Path):
    data = small.data_of(RecommenderData, log_root, "tastes", users="all")
    table = RecommenderVectors(str(cloned)).table(data)
    assert table["item"].to_list() == data.sequences.items.to_list()
    weight_VD = load_net(cloned, "policy").net.item_embedding.weight
    np.testing.assert_array_equal(table["vector"].to_numpy(), weight_VD[1:].detach().numpy())
    with pytest.raises(InputError, match="another catalogue"):
        RecommenderVectors(str(cloned)).table(small.data_of(RecommenderData, log_root, "small", users="all"))
    policy, path = small.coded(data.num_items), tmp_path / "policy.ckpt"
    weights = {f"policy.{name}": value for name, value in policy.state_dict().items()}
    torch.save({"state_dict": weights, "recipes": {"policy": recipe(policy)}}, path)
    with pytest.raises(InputError, match="is not over item ids"):
        RecommenderVectors(str(path)).table(data)
