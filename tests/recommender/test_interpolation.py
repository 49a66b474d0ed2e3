"""How far a policy may go so that enough of its ranking is kept."""

from __future__ import annotations

import itertools

import pytest
import small
import torch
from hypothesis import given
from hypothesis import strategies as st

from recalign.errors import InputError
from recalign.metrics.rank import gain_ndcg
from recalign.recommender import RecommenderData
from recalign.recommender.checkpoint import load_net
from recalign.recommender.interpolation import HALVINGS, REACHES, ndcg, reach_at_price, require_share


@given(lost=st.floats(0.0, 1.0), power=st.floats(0.5, 4.0), enough=st.floats(0.5, 1.0))
def test_enough_is_kept_and_a_little_further_it_is_not(lost, power, enough):
    def kept(reach):
        return 1 - lost * reach**power

    reach, share = reach_at_price(kept, enough)
    assert share >= enough
    assert share == (kept(reach) if reach else 1.0)
    if reach < REACHES[-1]:
        gap = next(b - a for a, b in zip((0.0, *REACHES), REACHES, strict=False) if b > reach)
        assert kept(reach + gap / 2**HALVINGS) < enough
    else:
        assert kept(REACHES[-1]) >= enough


@given(st.lists(st.floats(0.9, 1.05), min_size=len(REACHES), max_size=len(REACHES)))
def test_nothing_behind_the_first_fall_is_taken(shares):
    """Whatever a ray keeps further out, and however it wavers."""
    by_reach, asked = dict(zip(REACHES, shares, strict=True)), []

    def kept(reach):
        asked.append(reach)
        return by_reach.get(reach, 0.0)

    reach, share = reach_at_price(kept, 0.97)
    falls = [at for at in REACHES if by_reach[at] < 0.97]
    before = [at for at in REACHES if not falls or at < falls[0]]
    assert reach == (before[-1] if before else 0.0)
    assert share == by_reach.get(reach, 1.0)
    assert max(asked) == (falls[0] if falls else REACHES[-1])
    assert len(asked) <= len(REACHES) + HALVINGS


def test_a_small_step_goes_beyond_its_end():
    assert reach_at_price(lambda reach: 1 - 0.02 * reach, 0.97)[0] == 1.5
    assert reach_at_price(lambda reach: 1 - 0.001 * reach, 0.97) == (4.0, 0.996)


def test_what_is_no_number_is_too_far():
    assert reach_at_price(lambda reach: float("nan") if reach > 1 else 1.0, 0.97)[0] == 1.0
    assert reach_at_price(lambda _: float("nan"), 0.97) == (0.0, 1.0)


def test_the_ranking_is_that_of_all_targets(log_root, cloned):
    data = small.data_of(RecommenderData, log_root, "tastes", batch_tokens=64)
    policy = load_net(cloned, "policy").net.eval()
    batch = small.batch_of(data, "validation")
    with torch.no_grad():
        rank_T = policy.ranks(policy.encode(batch), batch.target_T, batch.seen_N)
    found = ndcg(policy, data.loader(data.windows("validation")), torch.device("cpu"))
    assert abs(found - gain_ndcg(rank_T, 10).mean().item()) < 1e-6
    assert found > 0


def test_reaches_rise_and_never_more_than_double():
    assert list(REACHES) == sorted(set(REACHES))
    assert REACHES[0] > 0
    assert 1.0 in REACHES  # the trained weights themselves
    assert all(after <= 2 * before for before, after in itertools.pairwise(REACHES))
    assert len(REACHES) + HALVINGS + 1 == 15  # the passes that KeepRanking promises, one of them for the start


def test_what_is_just_enough_is_enough():
    assert reach_at_price(lambda reach: 0.97 if reach <= 1.4 else 0.5, 0.97) == (1.390625, 0.97)
    assert reach_at_price(lambda reach: 0.97, 0.97) == (4.0, 0.97)


def test_the_share_to_keep_is_above_0_and_at_most_1():
    for share in (None, 0.01, 0.97, 1.0):
        require_share(share, "model.keep")
    for share in (0.0, -0.5, 1.01, 97, float("nan")):
        with pytest.raises(InputError, match=r"model\.keep: .* is no share"):
            require_share(share, "model.keep")
