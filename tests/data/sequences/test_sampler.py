from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recalign.data.sequences.sampler import LengthBatches, bucket_of

lengths = st.lists(st.integers(1, 200), min_size=1, max_size=80).map(np.array)


@given(lengths)
def test_bucket_of_returns_few_sizes_that_fit(length):
    bucket = bucket_of(length, 200)
    assert (bucket >= length).all()
    assert (bucket <= 200).all()
    assert len(np.unique(bucket_of(np.arange(1, 201), 200))) <= 10


@given(lengths, st.integers(0, 5), st.integers(0, 5), st.integers(1, 1000))
def test_epoch_takes_every_window_once_within_the_token_budget(length, seed, epoch, tokens):
    sampler = LengthBatches(length, 200, tokens, shuffle=True, seed=seed)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert sorted(i for _, chosen in batches for i in chosen) == list(range(len(length)))
    assert all(size * len(chosen) <= tokens or len(chosen) == 1 for size, chosen in batches)
    assert len(batches) == len(sampler)


@given(lengths, st.integers(0, 3), st.integers(1, 10))
def test_resumed_epoch_gets_the_remaining_batches(length, epoch, stop):
    whole = LengthBatches(length, 200, 300, shuffle=True, seed=1)
    whole.set_epoch(epoch)
    expected = list(whole)
    broken = LengthBatches(length, 200, 300, shuffle=True, seed=1)
    broken.set_epoch(epoch)
    iterator = iter(broken)
    taken = [batch for _, batch in zip(range(stop), iterator, strict=False)]
    resumed = LengthBatches(length, 200, 300, shuffle=True, seed=1)
    if len(taken) < len(expected):
        resumed.load_state_dict(broken.state_dict())
        resumed.set_epoch(epoch)
        assert taken + list(resumed) == expected
    assert [list(x) for _, x in taken] == [list(x) for _, x in expected[: len(taken)]]


@given(lengths)
def test_interrupted_iteration_starts_from_the_beginning(length):
    sampler = LengthBatches(length, 200, 300, shuffle=False)
    next(iter(sampler))
    assert list(sampler) == sampler.batches()


@given(lengths, st.integers(1, 5))
def test_processes_divide_each_batch(length, processes):
    whole = LengthBatches(length, 200, 500, shuffle=True, seed=1)
    shares = [
        list(LengthBatches(length, 200, 500, shuffle=True, seed=1, processes=processes, rank=rank))
        for rank in range(processes)
    ]
    assert [len(share) for share in shares] == [len(whole)] * processes
    for batch, *parts in zip(whole.batches(), *shares, strict=True):
        assert {size for size, _ in parts} == {batch[0]}
        assert [index for _, part in parts for index in part] == batch[1]
        sizes = [len(part) for _, part in parts]
        assert max(sizes) - min(sizes) <= 1
