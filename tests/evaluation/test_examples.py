"""What a few users are shown, by hand."""

import polars as pl
import pytest
import small
import torch

from recalign.evaluation.counted_rows import SameForAll
from recalign.evaluation.examples import examples
from recalign.evaluation.value import Scorers, evaluate_policies
from recalign.recommender import RecommenderData


@pytest.fixture
def data(log_root):
    return small.data_of(RecommenderData, log_root, "small")


def of_popular(data):
    start = SameForAll(-torch.arange(float(data.num_items)))
    return evaluate_policies({"start": start}, Scorers(start), data, "test", torch.device("cpu"))["start"]


def test_the_first_users_are_shown_with_their_last_events(data):
    found = examples(of_popular(data), data)
    sequences = data.sequences
    in_a = [user for user in range(sequences.num_users) if sequences.group[user] == "A"]
    assert [one["user"] for one in found] == [str(sequences.users[user]) for user in in_a[:5]]
    for user, one in zip(in_a, found, strict=False):
        past = sequences.frame.filter(pl.col("user") == user, pl.col("split") != 2, pl.col("item_id") > 0).tail(5)
        titles = [str(sequences.items[item - 1]) for item in past["item_id"]]
        assert [event["title"] for event in one["history"]] == titles
        assert [event["reward"] for event in one["history"]] == past["reward"].to_list()
        seen = {str(sequences.items[item - 1]) for item in sequences.frame.filter(user=user, split=0)["item_id"]}
        assert len(one["shown"]) == 5
        assert not seen & set(one["shown"])
