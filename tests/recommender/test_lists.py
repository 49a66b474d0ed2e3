"""Lists: each item is the best that is left once those before it have happened."""

from __future__ import annotations

import dataclasses

import pytest
import small
import torch

from recalign.data.sequences import Batch
from recalign.nn import HSTU, LazyDecoder
from recalign.recommender import CodePolicy, Policy, RecommenderData, SequencePolicy
from recalign.recommender.lists import generate_list

LENGTH, COUNT = 32, 4


@pytest.fixture(scope="module")
def data(log_root):
    return small.data_of(RecommenderData, log_root)


@pytest.fixture(scope="module")
def batch(data) -> Batch:
    return small.batch_of(data, rows=6)


@pytest.fixture(params=["items", "codes"])
def policy(request, data) -> Policy:
    torch.manual_seed(0)
    if request.param == "items":
        made: Policy = SequencePolicy(HSTU(16, layers=1, max_length=LENGTH), data.num_items, temperature=0.3)
    else:
        made = CodePolicy(LazyDecoder(16, layers=1, max_length=LENGTH), data.num_items, [7, 9], beam=data.num_items)
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return made.eval()


def alone(batch: Batch, t: int, more: list[int], length: int = LENGTH) -> Batch:
    """Target t of a batch, after some more events at the time of its request; its newest ``length`` events."""
    row, column = int(batch.row_T[t]), int(batch.column_T[t])
    now = batch.request_time_BL[row, column]
    parts = {}
    for name, value in (("item_BL", None), ("time_BL", now), ("request_time_BL", now), ("reward_BL", torch.nan)):
        past = getattr(batch, name)[row, : column + 1]
        added = torch.tensor(more) if value is None else torch.full((len(more),), value)
        parts[name] = torch.cat([past, added.to(past)])[None, -length:]
    count = torch.tensor([parts["item_BL"].shape[1]])
    one = batch.keep(torch.arange(len(batch.row_T)) == t)
    return dataclasses.replace(
        one, user_B=batch.user_B[[row]], length_B=count, row_T=torch.tensor([0]), column_T=count - 1, **parts
    )


@pytest.mark.parametrize("length", [LENGTH, 18], ids=["short histories", "full windows"])
def test_each_item_is_the_best_left_after_those_before_it(policy, batch, length):
    kept = batch.column_T < length
    by_event = ("item_BL", "time_BL", "request_time_BL", "reward_BL")
    cut = dataclasses.replace(batch.keep(kept), **{name: getattr(batch, name)[:, :length] for name in by_event})
    targets = torch.arange(len(batch.row_T))[kept]
    old = {int(t): set(batch.seen_N[1, batch.seen_N[0] == t].tolist()) for t in targets}
    place = torch.full_like(batch.row_T, -1)
    place[kept] = torch.arange(len(targets))
    own = kept[batch.seen_N[0]]
    cut = dataclasses.replace(cut, seen_N=torch.stack([place[batch.seen_N[0, own]], batch.seen_N[1, own]]))
    score_TN, item_TN = generate_list(policy, cut, COUNT, length)
    assert len(item_TN) > 5
    for n, t in enumerate(targets.tolist()):
        chosen: list[int] = []
        for item, score in zip(item_TN[n].tolist(), score_TN[n], strict=True):
            one = alone(batch, t, chosen, length)
            seen = torch.tensor([[0, v] for v in sorted(old[t] | set(chosen))]).T
            best, expected = policy.top_k(policy.encode(one), 1, seen)[::-1]
            assert item == best.item()
            torch.testing.assert_close(score, expected[0, 0], atol=1e-5, rtol=1e-5)
            chosen.append(item)
        assert len(set(chosen)) == COUNT
        assert not set(chosen) & old[t]


def test_what_was_generated_changes_what_follows(policy, batch):
    with torch.no_grad():
        plain_TN = policy.top_k(policy.encode(batch), COUNT, batch.seen_N)[1]
    item_TN = generate_list(policy, batch, COUNT, LENGTH)[1]
    assert item_TN[:, 0].equal(plain_TN[:, 0])
    assert not item_TN.equal(plain_TN)


def test_a_user_who_has_met_nearly_everything_gets_what_is_left(policy, batch, data):
    last = torch.tensor([data.num_items - 1, data.num_items])
    everything = torch.cartesian_prod(torch.arange(len(batch.row_T)), torch.arange(1, data.num_items - 1)).T
    item_TN = generate_list(policy, dataclasses.replace(batch, seen_N=everything), COUNT, LENGTH)[1]
    assert item_TN[:, :2].sort(dim=1).values.equal(last.expand(len(item_TN), -1))
    assert (item_TN[:, 2:] == 0).all()
