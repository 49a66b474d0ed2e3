from __future__ import annotations

import dataclasses
import shutil
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import small
import torch

from recalign.data.events import ItemTable, read_titles
from recalign.data.sequences import EventDataModule, LeaveLast
from recalign.data.sequences.audit import log_figures
from recalign.errors import InputError
from recalign.recommender.recommendations import recommendations


@pytest.fixture(scope="module")
def data(log_root):
    return small.data_of(EventDataModule, log_root, batch_tokens=128)


def test_training_windows_take_less_than_a_byte_an_event(tmp_path):
    users, events = 20, 10_000
    columns = {"user": np.repeat(np.arange(users), events), "item": np.arange(users * events) % 50}
    frame = pl.DataFrame(columns).with_columns(rating=pl.col("item") % 5, timestamp=pl.int_range(pl.len()))
    frame.write_csv(tmp_path / "long.csv")
    data = small.data_of(EventDataModule, tmp_path, "long", max_length=events, users="all", high=None)
    data.sequences  # noqa: B018 (reads the log)
    tracemalloc.start()
    loader = data.train_dataloader()
    made = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert int(loader.dataset.make.args[1].offset[-1]) > 0.9 * len(frame)
    assert made < len(frame)


def test_training_epoch_has_every_target_once(data):
    loader = data.train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) > 1
    events = np.concatenate([b.event_T.numpy() for b in batches])
    assert sorted(events) == sorted(data.training().in_memory().event)
    members = data.sequences.users_in("A")
    assert all(members[b.user_B.numpy()].all() for b in batches)
    assert batches[0].seen_N is None


def test_evaluation_batches_list_seen_items_and_serving_has_no_target(data):
    for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        assert all(batch.seen_N is not None for batch in loader)
    serving = list(data.predict_dataloader())
    assert sum(len(b.user_B) for b in serving) == data.sequences.num_users
    assert all((b.target_T == 0).all() for b in serving)
    assert all((b.length_B == 20).all() for b in serving)


def test_known_request_time_is_that_of_each_target(tmp_path):
    """Items that training never saw are in no history, so that several targets come after one event."""
    rows = [(u, i, t, t % 3) for u in range(6) for t, i in enumerate([1, 2, 3, 4, 1, 90 + u, 80 + u, 2, 3])]
    pl.DataFrame(rows, schema=["user", "item", "timestamp", "rating"], orient="row").write_csv(tmp_path / "log.csv")
    split = LeaveLast(test=4, validation=1)
    for known, cuts in (("known", 2), ("last_event", 0)):
        data = small.data_of(EventDataModule, tmp_path, "log", split=split, request_time=known, high=None, users="all")
        batch, time = small.batch_of(data, "test"), data.sequences.frame["timestamp"].to_numpy()
        asked_T = batch.request_time_BL[batch.row_T, batch.column_T].numpy()
        own_T = time[batch.event_T.numpy()]
        assert len(own_T) == 24
        assert (asked_T == own_T).all() if known == "known" else (asked_T <= own_T).all()
        assert len(batch.user_B) == 6 * (1 + cuts)


def test_log_that_changed_while_being_read_is_not_cached(tmp_path, log_root, monkeypatch):
    data = small.data_of(EventDataModule, log_root, cache=str(tmp_path))
    data.fingerprint  # noqa: B018
    monkeypatch.setattr(data.preparation, "fingerprint", lambda: "of other bytes")
    with pytest.raises(InputError, match="changed while they were read"):
        data.sequences  # noqa: B018 (reads the log)
    assert not data.preparation.entry.path.exists()
    again = small.data_of(EventDataModule, log_root, cache=str(tmp_path))
    again.sequences  # noqa: B018
    assert again.preparation.entry.path.exists()


def test_windows_can_be_of_another_user_group(data):
    of_judges = data.windows("test", "B1").user
    assert set(of_judges) == set(np.flatnonzero(data.sequences.users_in("B1")))
    assert not set(of_judges) & set(data.windows("test").user)


def test_recommendations_have_titles(log_root, tmp_path):
    shutil.copy(log_root / "small.csv", tmp_path)
    plain = small.data_of(EventDataModule, tmp_path)
    (tmp_path / "names.csv").write_text("item,title\n" + "".join(f"{i},film {i}\n" for i in plain.sequences.items[1:]))
    data = small.data_of(EventDataModule, tmp_path)
    data.log_ = dataclasses.replace(data.log_, items=ItemTable("names.csv"))
    first, *others = data.sequences.items
    assert read_titles(data.log_, tmp_path, data.sequences.items)[0].to_list() == [
        str(first),
        *(f"film {item}" for item in others),
    ]
    assert log_figures(data)["titles"]["items without one, shown by their id"] == 1
    shown = recommendations(torch.tensor([0]), torch.tensor([[2.0, 1.0]]), torch.tensor([[2, 1]]), data)
    assert shown["title"].to_list() == [f"film {others[0]}", str(first)]
    assert "title" not in recommendations(torch.tensor([0]), torch.tensor([[2.0]]), torch.tensor([[2]]), plain).columns
    assert data.fingerprint == plain.fingerprint


def test_unreadable_titles_stop_a_run_before_training(log_root):
    data = small.data_of(EventDataModule, log_root)
    data.log_ = dataclasses.replace(data.log_, items=ItemTable("names.csv"))
    with pytest.raises(InputError, match=r"no file 'names\.csv'"):
        data.sequences  # noqa: B018


def test_batch_smaller_than_the_number_of_processes_is_refused(log_root: Path):
    data = small.data_of(EventDataModule, log_root, max_length=32, batch_tokens=64)
    data.trainer = SimpleNamespace(lightning_module=None, world_size=2, limit_val_batches=0)
    data.setup("fit")
    data.trainer = SimpleNamespace(lightning_module=None, world_size=3, limit_val_batches=0)
    with pytest.raises(InputError, match=r"data\.batch_tokens: a batch of 2 histories of 32 .* 3 processes\n.*96"):
        data.setup("fit")


def test_process_without_windows_gets_a_batch_without_targets(log_root: Path):
    data = small.data_of(EventDataModule, log_root, batch_tokens=64)
    dataset = data.loader(data.windows("validation")).dataset
    batch = dataset[32, []]
    assert (len(batch.target_T), batch.seen_N, batch.item_BL.shape) == (0, None, (1, 32))
