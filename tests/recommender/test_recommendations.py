"""Whom a policy recommends to: raw ids as the log has them."""

from __future__ import annotations

import polars as pl
import pytest
import small

from recalign.data.sequences import Where
from recalign.data.sequences.serving import by_time
from recalign.errors import InputError
from recalign.recommender import RecommenderData, SequencePolicy
from recalign.recommender.recommendations import recommend, require_users

TEXT = pl.Series(["anna", "0104257", "8"])
NUMBERS = pl.Series([8, 10, 104257], dtype=pl.UInt32)


@pytest.mark.parametrize(
    ("asked", "known", "found"),
    [
        (["0104257", "anna"], TEXT, ["0104257", "anna"]),
        (["0104257", "10"], NUMBERS, [104257, 10]),
        ([10, 8], NUMBERS, [10, 8]),
        ([8], TEXT, ["8"]),
    ],
)
def test_recommend_reads_user_ids_as_the_log_does(asked: list, known: pl.Series, found: list):
    assert require_users(asked, known).to_list() == found


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["104257"], "the log has no user '104257'\n  -> did you mean '0104257'?"),
        (["nobody at all"], "there is: anna"),
        ([], "is not a list of users"),
        ("anna", "is not a list of users"),
    ],
)
def test_recommend_refuses_unknown_users(asked: list, said: str):
    with pytest.raises(InputError) as refused:
        require_users(asked, TEXT)
    assert str(refused.value).startswith("users: ")
    assert said in str(refused.value)


def test_recommend_gives_users_without_known_items_nothing(log_root, tmp_path):
    log = pl.read_csv(log_root / "small.csv")
    rare = pl.DataFrame({"user": [999], "item": [999], "rating": [5], "timestamp": [10**6]}).cast(log.schema)
    pl.concat([log, rare]).write_csv(tmp_path / "rare.csv")
    data = small.data_of(RecommenderData, tmp_path, "rare", min_events=2)
    policy = SequencePolicy(small.encoder(), data.num_items).eval()
    nothing = {"user": 999, "rank": None, "item": None, "score": None}
    assert recommend(policy, data, [999], 3).to_dicts() == [nothing]
    first, *others = recommend(policy, data, [999, 1], 3).to_dicts()
    assert first == nothing
    assert [(row["user"], row["rank"]) for row in others] == [(1, 1), (1, 2), (1, 3)]


def test_recommend_reads_histories_in_the_order_of_time(log_root):
    """Test events that lie between others come last in the log's order of parts."""
    given = {"split": Where("rating > 4", 0.2), "users": "all", "max_length": 4}
    data = small.data_of(RecommenderData, log_root, "tastes", **given)
    known = data.sequences.frame.filter(pl.col("item_id") > 0)
    newest = dict(known.group_by("user").agg(pl.col("timestamp").max()).iter_rows())
    assert by_time(data.sequences) is not data.sequences
    for batch in data.predict_dataloader():
        assert (batch.time_BL.diff(dim=1) >= 0).all()  # padding repeats the last
        assert batch.time_BL[:, -1].tolist() == [newest[user] for user in batch.user_B.tolist()]
