"""Exact ranking against sorting the whole matrix."""

from unittest.mock import patch

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recalign.nn import ranks
from recalign.nn.ranks import ranks_from_scores, target_ranks
from recalign.nn.topk import top_k, top_k_from_scores


@st.composite
def problems(draw):
    """Small whole numbers, so that products are exact and ties are many; some pairs seen; tiny chunks and blocks."""
    rows, items, seed = draw(st.integers(0, 7)), draw(st.integers(1, 12)), draw(st.integers(0, 10**6))
    torch.manual_seed(seed)
    query_TD, item_VD = torch.randint(-2, 3, (rows, 2)).float(), torch.randint(-2, 3, (items, 2)).float()
    pairs = draw(st.integers(0, 20)) if rows else 0
    seen = torch.randint(max(rows, 1), (pairs,)), torch.randint(items, (pairs,))  # in no order, with repeats
    return query_TD, item_VD, torch.randint(items, (rows,)), seen


def small_blocks():
    return patch.multiple(ranks, ROWS=3, ITEMS=4)


def plain_order(score_V, seen_items):
    """Unseen items, best first, of equal ones the lower first."""
    return sorted(set(range(len(score_V))) - seen_items, key=lambda item: (-score_V[item].item(), item))


def seen_by(seen, row):
    return {int(item) for owner, item in zip(*seen, strict=True) if owner == row}


@settings(deadline=None)
@given(problems(), st.integers(1, 14))
def test_top_k_equals_sorting(problem, k):
    query_TD, item_VD, _, seen = problem
    with small_blocks():
        score_TK, item_TK = top_k(query_TD, item_VD, k, seen)
        again = top_k_from_scores(query_TD @ item_VD.T, k, seen)
    assert score_TK.shape == item_TK.shape == (len(query_TD), k)
    assert torch.equal(again[0], score_TK)
    assert torch.equal(again[1], item_TK)
    for row, score_V in enumerate(query_TD @ item_VD.T):
        expected = plain_order(score_V, seen_by(seen, row))[:k]
        assert item_TK[row].tolist() == expected + [-1] * (k - len(expected))
        assert score_TK[row].tolist() == [score_V[item] for item in expected] + [-torch.inf] * (k - len(expected))


@settings(deadline=None)
@given(problems())
def test_ranks_count_unseen_items_that_are_not_worse(problem):
    query_TD, item_VD, target_T, seen = problem
    with small_blocks():
        rank_T = target_ranks(query_TD, item_VD, target_T, seen)
        assert torch.equal(ranks_from_scores(query_TD @ item_VD.T, target_T, seen), rank_T)
    for row, score_V in enumerate(query_TD @ item_VD.T):
        target = int(target_T[row])
        others = set(range(len(item_VD))) - seen_by(seen, row) - {target}
        assert rank_T[row] == 1 + sum(score_V[item].item() >= score_V[target].item() for item in others)


def test_nan_scores_rank_last_and_are_never_in_top_k():
    nan = torch.nan
    score_TV = torch.tensor([[nan, 1.0, 2.0, 0.5], [nan, nan, nan, nan], [3.0, nan, 1.0, 2.0]])
    before = score_TV.clone()
    assert ranks_from_scores(score_TV, torch.tensor([0, 2, 0])).tolist() == [4, 4, 2]
    assert top_k_from_scores(score_TV, 4)[1].tolist() == [[2, 1, 3, -1], [-1] * 4, [0, 3, 2, -1]]
    assert torch.equal(score_TV.nan_to_num(-9), before.nan_to_num(-9))  # the caller's scores stay as they are
    assert target_ranks(torch.tensor([[nan]]), torch.ones(4, 1), torch.tensor([1])).tolist() == [4]
    assert top_k(torch.tensor([[nan]]), torch.ones(4, 1), 2)[1].tolist() == [[-1, -1]]


@settings(deadline=None)
@given(problems(), st.integers(1, 14))
def test_top_k_leaves_out_nan_beside_ties(problem, k):
    query_TD, item_VD, _, seen = problem
    score_TV = query_TD @ item_VD.T
    score_TV[torch.rand_like(score_TV) < 0.2] = torch.nan
    with small_blocks():
        found = top_k_from_scores(score_TV, k, seen)
        expected = top_k_from_scores(score_TV.nan_to_num(nan=-torch.inf), k, seen)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    tied = torch.tensor([[torch.nan, 5.0, 5.0, 1.0], [1.0, 2.0, 3.0, 3.0]])
    assert top_k_from_scores(tied, 3)[1].tolist() == [[1, 2, 3], [2, 3, 1]]


def test_ranks_of_seen_targets_count_unseen_items_and_unknown_targets_miss():
    score_TV = torch.tensor([[3.0, 2.0, 1.0]] * 3)
    seen = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0])
    assert ranks_from_scores(score_TV, torch.tensor([1, 1, -1]), seen).tolist() == [1, 1, 0]


def test_ranks_and_top_k_ignore_autocast():
    torch.manual_seed(0)
    query_TD, item_VD, target_T = torch.randn(50, 16), torch.randn(4000, 16), torch.randint(4000, (50,))
    with torch.autocast("cpu", torch.bfloat16):
        blurred = ranks_from_scores((query_TD @ item_VD.T).float(), target_T)
        rank_T = target_ranks(query_TD, item_VD, target_T)
        item_TK = top_k(query_TD, item_VD, 30)[1]
    assert torch.equal(rank_T, target_ranks(query_TD, item_VD, target_T))
    assert torch.equal(item_TK, top_k(query_TD, item_VD, 30)[1])
    assert not torch.equal(rank_T, blurred)
