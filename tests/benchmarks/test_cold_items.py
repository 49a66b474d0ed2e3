"""The items that are held out, what is told of them, the policies beside ours, and the figures made of ranks."""

from types import SimpleNamespace

import featured
import numpy as np
import polars as pl
import pytest
import small
import torch

from benchmarks.items.logs import HeldOut, held_out, title_vectors, with_codes, with_text
from benchmarks.items.policies import FeaturesAlone, Sum, UniSRec, over_catalogue
from benchmarks.items.ranks import crossed, said, table
from recalign.data.events import Feature, ItemValues
from recalign.recommender import SequencePolicy
from recalign.recommender.checkpoint import load_net


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


def test_figures_by_hand():
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


def test_codes_are_those_of_the_features_also_of_items_held_out():
    vector = np.repeat(np.eye(3), [10, 10, 11], axis=0).tolist()
    ids, values = pl.Series(range(31)), pl.DataFrame({"vector": [*vector[:-1], None]})
    known = ItemValues(ids, {"vector": "vector"}, values, {"vector": Feature("vector")})
    held = HeldOut(SimpleNamespace(items=ids), known, None, np.array([0, 10]), np.array([20]))
    codes = with_codes(held).values["code"].to_list()
    assert len(codes[0]) == 3
    assert [codes[0], codes[10], codes[20]] == [codes[5], codes[15], codes[25]]
    assert len({tuple(code) for code in codes[:30]}) == 3
    assert codes[30] is None


def test_a_policy_of_features_alone_has_no_ids_also_when_it_is_opened_again(tmp_path):
    data = featured.data_of(featured.write(tmp_path))
    torch.manual_seed(0)
    module = FeaturesAlone(data.num_items, small.encoder(), temperature=0.1, lr=5e-3)
    small.fit(module, data, tmp_path / "run", epochs=1)
    policy = load_net(small.saved(module, tmp_path / "policy.ckpt"), "policy").net
    torch.testing.assert_close(policy.item_table()[1:], policy.features.summed())
    assert policy.features.summed().std() > 0.01


def test_unisrec_knows_items_by_their_numbers_alone_also_when_it_is_opened_again(tmp_path):
    data = featured.data_of(featured.write(tmp_path), {"size": Feature("size", bins=None)})
    torch.manual_seed(0)
    module = UniSRec(data.num_items, small.encoder(), temperature=0.1, lr=5e-3)
    small.fit(module, data, tmp_path / "run", epochs=2)
    policy = load_net(small.saved(module, tmp_path / "policy.ckpt"), "policy").net.eval()
    own, table_WD = policy.features, policy.item_table()
    gate_VK = (own.number_VW @ own.gate_WK).softmax(dim=1)
    each_VKD = torch.stack([(own.number_VW - b) @ w for b, w in zip(own.bias_KW, own.expert_KWD, strict=True)], dim=1)
    torch.testing.assert_close(table_WD[1:], (gate_VK[:, :, None] * each_VKD).sum(dim=1))
    torch.testing.assert_close(table_WD, module.policy.eval().item_table())
    assert own.gate_WK.abs().max() > 0.001  # it was trained
    assert not policy.item_embedding.weight.any()
    assert len(table_WD) == 1 + featured.WARM + featured.COLD


def test_text_is_the_title_and_the_categories_and_no_number():
    titles = pl.Series(["Alien (1979)", "Alien (1992)", "Alien (1979)", "Heat", "Speed", "Titanic"])
    genres = [["horror"], ["horror"], ["comedy", "war"], ["crime"], None, ["drama"]]
    values = pl.DataFrame({"genre": genres, "year": [1979.0, 1992, 1979, 1995, 1994, 1997]})
    kinds = {"genre": "category", "year": "number"}
    ids = pl.Series(range(6))
    known = ItemValues(ids, kinds, values, {name: Feature(name) for name in kinds})
    held = HeldOut(SimpleNamespace(items=ids), known, titles, np.array([5]), np.array([4]))
    found = with_text(held)
    vectors = np.array(found.values["text"].to_list())
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert np.linalg.norm(vectors[0] - vectors[2]) > 0.1
    assert found.kinds == {"text": "vector"}


def test_a_sum_adds_log_probabilities_and_ids_say_nothing_of_cold_items():
    torch.manual_seed(0)
    ids, other = (SequencePolicy(small.encoder(), number, temperature=0.1).eval() for number in (3, 4))
    count_V = torch.tensor([8, 2, 2, 0])
    ids.set_counts(count_V[:3])
    ids.prior_strength = 0.5
    whole = over_catalogue(ids, 4, count_V)
    both, state = Sum(whole, other), torch.randn(5, 2 * small.encoder().dim)
    own, known = whole.log_probs(state[:, : state.shape[1] // 2]), other.log_probs(state[:, state.shape[1] // 2 :])
    torch.testing.assert_close(own[:, :3].log_softmax(1), ids.log_probs(state[:, : state.shape[1] // 2]))
    expected = (own + known).log_softmax(dim=1)
    torch.testing.assert_close(both.log_probs(state), expected)
    torch.testing.assert_close(both.log_probs(state, torch.tensor([[4, 1]] * 5)), expected[:, [3, 0]])
    cold = own[:, 3] - own[:, 0] + ids.log_probs(state[:, : state.shape[1] // 2])[:, 0]
    logit = ids.log_probs(state[:, : state.shape[1] // 2])  # item 4's: cosine 0, and the prior of a count of 4
    cosine_T = torch.nn.functional.cosine_similarity(state[:, : state.shape[1] // 2], ids.item_embedding.weight[1])
    zero = logit[:, 0] - cosine_T / 0.1 - 0.5 * (torch.tensor(8.5).log() - torch.tensor(4.5).log())
    torch.testing.assert_close(cold, zero, atol=1e-5, rtol=1e-5)
