"""Items that were never trained on: they get codes, and the policy can recommend them."""

from __future__ import annotations

import polars as pl
import pytest
import small
import torch

from recalign.errors import InputError
from recalign.nn import HSTU, LazyDecoder
from recalign.recommender import CodePolicy, RecommenderData, SequencePolicy
from recalign.recommender.new_items import appended, with_new_items
from recalign.recommender.onerec import random_codes
from recalign.recommender.semantic_ids.codes import CodesTable
from recalign.recommender.serving import recommend

SIZES, NEW = (5, 4, 6), 6


@pytest.fixture(scope="module")
def data(log_root, tmp_path_factory: pytest.TempPathFactory) -> RecommenderData:
    """A log in which each user's last event is of an item that nobody chose before."""
    root = tmp_path_factory.mktemp("cold")
    log = pl.read_csv(log_root / "small.csv")
    last = pl.DataFrame({"user": range(1, 31), "item": [101 + user % NEW for user in range(30)]})
    cold = last.with_columns(rating=pl.lit(5), timestamp=pl.lit(10**6)).cast(log.schema)
    pl.concat([log, cold]).write_csv(root / "cold.csv")
    return small.data_of(RecommenderData, root, "cold")


@pytest.fixture(scope="module")
def codes_XS(data) -> torch.Tensor:
    return random_codes(data.num_items + NEW, list(SIZES))


@pytest.fixture(scope="module")
def codes(data, codes_XS, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of the catalogue, to which new items were appended."""
    first = CodesTable.empty(data.sequences.items, SIZES).appended(
        data.sequences.items, codes_XS[: data.num_items].numpy()
    )
    new = pl.Series("item", range(101, 101 + NEW)).cast(data.sequences.items.dtype)
    path = tmp_path_factory.mktemp("codes") / "codes.parquet"
    first.appended(new, codes_XS[data.num_items :].numpy()).write(path)
    return str(path)


@pytest.fixture(params=[None, 0.3], ids=["products", "cosines"])
def policy(request, data, codes_XS) -> CodePolicy:
    torch.manual_seed(0)
    decoder = LazyDecoder(16, layers=1, max_length=32)
    made = CodePolicy(decoder, data.num_items, list(SIZES), temperature=request.param)
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    made.set_codes(codes_XS[: data.num_items])
    made.set_counts(torch.ones(data.num_items))
    made.prior_strength = 0.5
    return made.eval()


def test_new_items_are_recommended_to_those_who_have_not_met_them(policy, data, codes):
    cold = data.sequences.frame.filter((pl.col("item_id") == 0) & (pl.col("split") == 2))
    shown = recommend(policy, data, k=1000, codes=codes)
    before = recommend(policy, data, k=1000)
    new = set(range(101, 101 + NEW))
    assert len(cold) == 30
    assert not set(before["item"].cast(pl.Int64)) & new
    for (user,), own in shown.group_by("user"):
        assert set(own["item"].cast(pl.Int64)) & new == new - {101 + (int(user) - 1) % NEW}  # whom it met last
        assert own["item"].n_unique() == len(own)


@torch.no_grad()
def test_old_items_keep_what_they_have_and_new_ones_have_their_relatives_mean(policy, data, codes_XS):
    policy.set_counts(torch.arange(data.num_items).float())
    grown, items = appended(policy, codes_XS), data.num_items
    assert grown.item_embedding.weight[: items + 1].equal(policy.item_embedding.weight)
    assert grown.count_V[:items].equal(policy.count_V)
    for item in range(items, items + NEW):
        for depth in (2, 1, 0):
            alike = (codes_XS[:items, :depth] == codes_XS[item, :depth]).all(dim=1)
            if alike.any():
                break
        expected_D = policy.item_embedding.weight[1:][alike].mean(dim=0)
        torch.testing.assert_close(grown.item_embedding.weight[item + 1], expected_D)
        torch.testing.assert_close(grown.count_V[item], policy.count_V[alike].mean())


@torch.no_grad()
def test_shares_of_old_items_among_their_siblings_stay(policy, data, codes_XS):
    batch, items = small.batch_of(data, rows=6), data.num_items
    policy.set_counts(torch.arange(items).float())
    grown = appended(policy, codes_XS)
    before_TV, after_TX = (each.log_probs(each.encode(batch)) for each in (policy, grown))
    assert (after_TX.exp().sum(dim=1) - 1).abs().max() < 1e-5
    prefix_V = codes_XS[:items, 0] * SIZES[1] + codes_XS[:items, 1]
    for prefix in prefix_V.unique():  # the odds of two items of a prefix are as before
        own = prefix_V == prefix
        odds = [x[:, own] - x[:, own][:, :1] for x in (before_TV, after_TX[:, :items])]
        torch.testing.assert_close(*odds, atol=1e-4, rtol=0)
    assert (after_TX[:, items:].exp() > 0).all()


@torch.no_grad()
def test_a_new_node_points_where_its_relatives_do(policy, data, codes_XS):
    """The length of a relative's vector counts only where it counts for the logits."""
    grown, items = appended(policy, codes_XS), data.num_items
    policy.head.vectors[2].data[:items:2] *= 3
    other, vectors = appended(policy, codes_XS), []
    for each in (grown, other):
        leaf_X = each.trie.node_VS[items:, 2]
        vectors.append(torch.nn.functional.normalize(each.head.vectors[2][leaf_X], dim=-1))
    assert torch.allclose(*vectors, atol=1e-5) == (policy.head.temperature is not None)


def test_a_new_item_whose_id_is_of_another_type_is_refused(policy, data, codes, tmp_path):
    table, path = CodesTable.read(codes), tmp_path / "codes.parquet"
    CodesTable(table.items.cast(pl.String).replace("101", "a film"), table.codes_NL, table.version_N, SIZES).write(path)
    with pytest.raises(InputError, match="the new item 'a film' cannot be an id of this log"):
        with_new_items(policy, path, data.sequences.items)


def test_codes_that_are_not_the_policys_are_refused(policy, data, codes, codes_XS, tmp_path):
    other = policy.trie.codes_VS.flip(0)
    policy.set_codes(other)
    with pytest.raises(InputError, match="trained with other codes"):
        with_new_items(policy, codes, data.sequences.items)
    over_items = SequencePolicy(HSTU(16, layers=1), data.num_items)
    with pytest.raises(InputError, match="SequencePolicy has no codes"):
        with_new_items(over_items, codes, data.sequences.items)
