"""How far a policy may go so that enough of its ranking is kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
import small
import torch
from hypothesis import given
from hypothesis import strategies as st

from recalign.errors import InputError
from recalign.recommender import RecommenderData
from recalign.recommender.checkpoint import load_net
from recalign.recommender.interpolation import (
    ALL_RETAINED,
    ALPHAS,
    HALVINGS,
    MARGIN,
    Z_95,
    Retention,
    alpha_within_budget,
    budget_batches,
    ndcg_by_user,
    require_share,
)
from recalign.recommender.rank_metrics import gain_ndcg

CPU = torch.device("cpu")


def exactly(share):
    """What is kept, known without an error."""
    return Retention(share, 0.0)


@given(lost=st.floats(0.0, 1.0), power=st.floats(0.5, 4.0), enough=st.floats(0.5, 1.0))
def test_alpha_within_budget_is_the_last_that_keeps_enough(lost, power, enough):
    def kept(alpha):
        return exactly(1 - lost * alpha**power)

    alpha, found = alpha_within_budget(kept, enough)
    assert found.share >= enough
    assert found == (kept(alpha) if alpha else ALL_RETAINED)
    if alpha < ALPHAS[-1]:
        gap = next(b - a for a, b in zip((0.0, *ALPHAS), ALPHAS, strict=False) if b > alpha)
        assert kept(alpha + gap / 2**HALVINGS).share < enough
    else:
        assert kept(ALPHAS[-1]).share >= enough


retentions = st.builds(Retention, st.floats(0.9, 1.05), st.one_of(st.floats(0, 0.05), st.just(math.nan)))


@given(st.lists(retentions, min_size=len(ALPHAS), max_size=len(ALPHAS)), retentions)
def test_alpha_within_budget_stops_at_the_first_loss(at_reaches, between):
    """Whatever a path keeps further out, and however it wavers; what is taken is enough."""
    by_alpha, asked = dict(zip(ALPHAS, at_reaches, strict=True)), []

    def kept(alpha):
        asked.append(alpha)
        return by_alpha.get(alpha, between)

    alpha, found = alpha_within_budget(kept, 0.97)
    falls = [at for at in ALPHAS if not by_alpha[at].enough(0.97)]
    before = [0.0, *(at for at in ALPHAS if not falls or at < falls[0])]
    assert found.share >= 0.97
    assert found.share - Z_95 * found.error >= 0.97 - MARGIN
    assert found is (kept(alpha) if alpha else ALL_RETAINED)
    assert before[-1] <= alpha < (falls[0] if falls else math.inf)
    assert alpha == before[-1] or between.enough(0.97)
    assert max(asked) == (falls[0] if falls else ALPHAS[-1])
    assert len(asked) <= len(ALPHAS) + HALVINGS + 1


def test_alpha_within_budget_treats_nan_as_too_far():
    assert alpha_within_budget(lambda alpha: exactly(math.nan if alpha > 1 else 1.0), 0.97)[0] == 1.0
    assert alpha_within_budget(lambda _: exactly(math.nan), 0.97) == (0.0, ALL_RETAINED)
    assert alpha_within_budget(lambda _: Retention(1.0, math.nan), 0.97) == (0.0, ALL_RETAINED)


def test_retention_standard_error():
    found = Retention.measure(np.array([1.0, 0.0, 2.0]), np.array([1.0, 1.0, 2.0]))
    assert found.share == 0.75  # residuals .25, -.75, .5
    assert found.error == pytest.approx(math.sqrt(3 / 2 * (0.0625 + 0.5625 + 0.25)) / 4)


def test_retention_of_one_user_and_of_a_start_without_ndcg():
    alone = Retention.measure(np.ones(1), np.ones(1))
    assert (alone.share, alone.enough(0.5)) == (1.0, False)
    for users in (0, 1, 5):
        assert Retention.measure(np.zeros(users), np.zeros(users)) == ALL_RETAINED


def test_ndcg_by_user_covers_all_targets(log_root, cloned):
    data = small.data_of(RecommenderData, log_root, "tastes", batch_tokens=64)
    policy = load_net(cloned, "policy").net.eval()
    batch = small.batch_of(data, "validation")
    with torch.no_grad():
        rank_T = policy.ranks(policy.encode(batch), batch.target_T, batch.seen_N)
    gain_T, user_T = gain_ndcg(rank_T, 10), batch.user_B[batch.row_T]
    found_U = ndcg_by_user(policy, data.loader(data.windows("validation")), CPU)
    assert found_U == pytest.approx([gain_T[user_T == user].sum().item() for user in user_T.unique()], abs=1e-6)
    assert found_U.sum() > 0


def test_budget_batches_cover_all_users_up_to_the_limit(log_root):
    data = small.data_of(RecommenderData, log_root, "tastes", batch_tokens=64)
    everybody = [batch.user_B for batch in budget_batches(data)]
    assert data.users == "A"
    assert set(torch.cat(everybody).tolist()) == set(range(data.sequences.num_users))
    data.sample = 3  # as evaluation may have it, which measures less and serves the same
    assert len(list(budget_batches(data))) == len(everybody)
    for limit, batches in ((1.0, len(everybody)), (0.5, len(everybody) // 2), (2, 2), (10**6, len(everybody))):
        assert len(list(budget_batches(data, limit))) == batches
    assert ndcg_by_user(None, [], CPU).shape == (0,)


def test_require_share_refuses_values_outside_0_to_1():
    for share in (None, 0.01, 0.97, 1.0):
        require_share(share, "model.keep")
    for share in (0.0, -0.5, 1.01, 97, float("nan")):
        with pytest.raises(InputError, match=r"model\.keep: .* is not a share"):
            require_share(share, "model.keep")
