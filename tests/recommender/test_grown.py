"""Stages go on from an earlier run: known items keep their weights; another log, reward or network is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import small
import torch

from recalign.data.sequences.earlier import remember
from recalign.errors import InputError
from recalign.recommender import Recommender, RecommenderData
from recalign.recommender.checkpoint import load_net
from recalign.recommender.grown import grow
from recalign.reward import RewardData


@pytest.fixture(scope="module")
def grown(log_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Where the grown log of ``tastes.csv`` lies: further events of old users, new users, and items 41 and 42."""
    root = tmp_path_factory.mktemp("grown")
    data = small.data_of(RewardData, log_root, "tastes")
    remember(data, root / "ids")
    before = pl.read_csv(log_root / "tastes.csv")
    chosen = (41, 42, 1, 2, 3, 4, 5, 6, 7, 8)
    later = [(user, item, 4, 10**6 + at) for user in range(100, 140) for at, item in enumerate(chosen)]
    pl.concat([before, pl.DataFrame(later, schema=before.schema, orient="row")]).write_csv(root / "tastes.csv")
    return {"root": root, "grows_from": str(root / "ids")}


def of(kind: type, grown: dict[str, Any], **given: Any) -> Any:
    return small.data_of(kind, grown["root"], "tastes", grows_from=grown["grows_from"], **given)


@pytest.fixture(scope="module")
def started(grown, cloned, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recommender, Path]:
    """The recommender after no step at all (its learning rate is 0), and its checkpoint."""
    folder = tmp_path_factory.mktemp("started")
    data = of(RecommenderData, grown, users="all")
    module = Recommender(data.num_items, small.encoder(), temperature=0.1, lr=0.0, prior=False, grows_from=str(cloned))
    small.fit(module, data, folder)
    return module, small.saved(module, folder / "policy.ckpt")


def test_grow_copies_known_items_and_leaves_new_ones_initialised(started, cloned):
    module, _ = started
    old, new = load_net(cloned, "policy").net, module.policy
    assert new.num_items == old.num_items + 2
    rows = new.item_embedding.weight
    torch.testing.assert_close(rows[: old.num_items + 1], old.item_embedding.weight, rtol=0, atol=0)
    assert rows[old.num_items + 1 :].abs().max() <= 2.0
    assert (rows[old.num_items + 1 :].std(dim=1) > 0.005).all()
    for name, weight in old.encoder.state_dict().items():
        torch.testing.assert_close(new.encoder.state_dict()[name], weight, rtol=0, atol=0)
    assert len(new.prior.log_count_V) == new.num_items  # counted anew
    log_count_V = (torch.from_numpy(module.datamodule.sequences.item_counts("all")) + 0.5).log()
    torch.testing.assert_close(new.prior.log_count_V, (log_count_V - log_count_V.max()).float())


def test_grows_from_needs_an_earlier_log(cloned, grown, tmp_path: Path):
    data = small.data_of(RecommenderData, grown["root"], "tastes", users="all")
    module = Recommender(data.num_items, small.encoder(), grows_from=str(cloned))
    with pytest.raises(InputError, match=r"no earlier log is named[\s\S]*--data.grows_from"):
        small.fit(module, data, tmp_path)


def test_grow_refuses_a_checkpoint_of_another_log(started, grown, tmp_path: Path):
    data = of(RecommenderData, grown, users="all")
    module = Recommender(data.num_items, small.encoder(), grows_from=str(started[1]))
    with pytest.raises(InputError, match="this checkpoint was not trained on the log whose ids are in"):
        small.fit(module, data, tmp_path)


def test_grow_refuses_other_networks(cloned, started):
    old, new = load_net(cloned, "policy").net, started[0].policy
    wide = Recommender(new.num_items, small.HSTU(dim=16, layers=2, max_length=32)).policy
    with pytest.raises(InputError, match="the weights differ: encoder"):
        grow(wide, old, "old.ckpt")
    longer = Recommender(new.num_items, small.HSTU(dim=16, layers=1, max_length=34)).policy
    with pytest.raises(InputError, match="in the checkpoint"):
        grow(longer, old, "old.ckpt")
    with pytest.raises(InputError, match=r"item_embedding\.weight: .* in the checkpoint, .* here"):
        grow(load_net(cloned, "policy").net, new, "new.ckpt")  # items do not go
    with pytest.raises(InputError, match="a CodePolicy cannot grow with the log"):
        grow(small.coded(9), old, "old.ckpt")
