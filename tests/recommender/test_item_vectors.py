"""The item table of a checkpoint as vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import small
import torch

from recalign.errors import InputError
from recalign.recommender import RecommenderData, RecommenderVectors
from recalign.recommender.checkpoint import load_net, recipe


@pytest.fixture(scope="module")
def data(log_root) -> RecommenderData:
    return small.data_of(RecommenderData, log_root, "tastes", users="all")


def test_a_row_for_each_item_of_the_catalogue(data: RecommenderData, cloned: Path):
    table = RecommenderVectors(str(cloned)).table(data)
    assert table["item"].to_list() == data.sequences.items.to_list()
    weight_VD = load_net(cloned, "policy").net.item_embedding.weight
    np.testing.assert_array_equal(table["vector"].to_numpy(), weight_VD[1:].detach().numpy())


def test_another_catalogue_is_refused(cloned: Path, log_root):
    other = small.data_of(RecommenderData, log_root, "small", users="all")
    with pytest.raises(InputError, match="another catalogue"):
        RecommenderVectors(str(cloned)).table(other)


def test_a_policy_over_codes_is_refused(data: RecommenderData, tmp_path: Path):
    policy, path = small.coded(data.num_items), tmp_path / "policy.ckpt"
    weights = {f"policy.{name}": value for name, value in policy.state_dict().items()}
    torch.save({"state_dict": weights, "recipes": {"policy": recipe(policy)}}, path)
    with pytest.raises(InputError, match="its policy, CodePolicy, is not over item ids"):
        RecommenderVectors(str(path)).table(data)
