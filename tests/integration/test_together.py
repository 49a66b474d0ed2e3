"""Events that came together (`data.ties`): what one of a set was, and how good, changes no figure of the others."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import small
import torch

from recalign.data.sequences import Batch
from recalign.nn import HSTU, SASRec
from recalign.posttrain.pairs_data import PairData
from recalign.recommender.item_knn import ItemKNN, transitions
from recalign.recommender.sequence_policy import SequencePolicy
from recalign.reward import RewardData
from recalign.reward.net import RewardEnsemble

ENCODERS: dict[str, Callable[[], Any]] = {
    "hstu": lambda: HSTU(dim=16, layers=2, max_length=32, dropout=0.0),
    "sasrec": lambda: SASRec(dim=16, layers=2, max_length=32, dropout=0.0),
    "pooled": small.pooled,
}


def policy(name: str, **settings: Any) -> Callable[[RewardData], Any]:
    return lambda data: SequencePolicy(ENCODERS[name](), data.num_items, **settings)


def rewards(name: str, share: Any = "trunk") -> Callable[[RewardData], Any]:
    def made(data: RewardData) -> RewardEnsemble:
        net = RewardEnsemble(ENCODERS[name](), data.num_items, members=2, share=share)
        for own in net.nets:
            own.item_factors.weight.data.normal_()
        return net

    return made


READERS: dict[str, Callable[[RewardData], Any]] = {
    **{name: policy(name) for name in ENCODERS},
    "past rewards": policy("hstu", feedback=True),
    "memory": lambda data: small.with_memory(policy("hstu")(data)),
    "codes": lambda data: small.coded(data.num_items),
    "reward model": rewards("hstu"),
    "judge": rewards("pooled", "nothing"),
    "item_knn": lambda data: ItemKNN.of(data.sequences),
    "transitions": lambda data: transitions(data.sequences),
}


@pytest.fixture(scope="module")
def root(log_root, tmp_path_factory):
    """The small log in baskets of about four."""
    folder = tmp_path_factory.mktemp("baskets")
    (pl.read_csv(log_root / "small.csv").with_columns(pl.col("timestamp") // 240)).write_csv(folder / "small.csv")
    return folder


def scored(reader: Any, batch: Batch) -> dict[int, torch.Tensor]:
    """What a reader says of all items before each target, by the target's event."""
    with torch.no_grad():
        rewarding = isinstance(reader, RewardEnsemble)
        found = reader.predict(reader.states(batch)) if rewarding else reader.log_probs(reader.encode(batch))
    return dict(zip(batch.event_T.tolist(), found, strict=True))


def changed(data: RewardData, at: int) -> RewardData:
    """The same log where one event was of another item, with another reward."""
    made, sequences = copy.copy(data), data.sequences
    item, reward = sequences.item.copy(), sequences.reward.copy()
    item[at], reward[at] = item[at] % sequences.num_items + 1, 9.0
    made.sequences = replace(sequences, item=item, reward=reward)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("known", ["known", "last_event"])
@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("name", READERS)
def test_a_member_of_a_set_changes_nothing_of_the_others(root, name, part, known):
    torch.manual_seed(0)
    found = {}
    for ties in ("together", "order"):
        data = small.data_of(RewardData, root, cache=False, ties=ties, users="all", request_time=known)
        sequences, reader = data.sequences, READERS[name](data)
        if hasattr(reader, "eval"):
            reader.eval()
        before = scored(reader, small.batch_of(data, part))
        pairs = zip(sequences.event, sequences.event[1:], np.diff(sequences.time) == 0, strict=False)
        at = next(at for at, (*both, same) in enumerate(pairs) if same and {*both} <= before.keys())
        user, time = np.searchsorted(sequences.offset, at, side="right") - 1, sequences.time[at]
        rows = sequences.frame.filter(user=user, timestamp=time)["event"].to_list()
        after = scored(reader, small.batch_of(changed(data, at), part))
        assert after.keys() == before.keys()
        moved = {event for event in before if not torch.allclose(before[event], after[event], atol=1e-6)}
        found[ties] = moved & {*rows}
        assert all(sequences.frame["user"][event] == user for event in moved)
    assert not found["together"]
    assert found["order"]  # where the file's order counts, the next one sees it


def test_pairs_are_of_one_history_and_new_to_it(root):
    data = small.data_of(PairData, root, cache=False, ties="together", users="all")
    windows, sequences = data.training(), data.sequences
    user = np.repeat(windows.user, np.diff(windows.offset))
    paired = np.flatnonzero((windows.rejected > 0).all(axis=1))
    assert len(paired) > 50
    for t in paired:
        history = sequences.item[sequences.offset[user[t]] : windows.state[t] + 1]
        assert not {int(windows.target[t]), *windows.rejected[t].tolist()} & {*history.tolist()}
