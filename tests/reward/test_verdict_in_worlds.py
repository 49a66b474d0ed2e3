"""The verdict follows the truth: in simulated worlds of rising noise it falls, as what the model really knows does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import small
import torch

from recalign.data.events import LogMapping
from recalign.data.sequences import High, TimeSplit
from recalign.data.simulation import World, simulate, write
from recalign.nn import Pooled
from recalign.reward import RewardData, RewardModel

pytestmark = pytest.mark.slow

PLAIN = {"generosity": 0.0, "circumstance": 0.0, "missing": 0.0}
WORLDS = {
    "silent": World(users=400, items=100, events=18_000, noise=0.0, **PLAIN),
    "noisy": World(users=400, items=100, events=18_000, noise=1.05),
    "loud": World(users=400, items=100, events=18_000, noise=4.0),
    "deaf": World(users=400, items=100, events=18_000, noise=1.05, signal=0.0),
}
SCALE = ("no_signal", "weak", "moderate", "strong")


def knowledge(module: RewardModel, data: RewardData, truth: Path) -> float:
    """How far the model really knows what users of A like: its correlation with the truth, within a user."""
    with np.load(truth) as file:
        truth_UV = torch.from_numpy(file["reward"])[:, torch.tensor(data.sequences.items.to_list()) - 1]
    batch = small.batch_of(data, "validation")
    last = torch.unique(batch.user_B[batch.row_T], return_inverse=True)[1].flip(0)
    with torch.no_grad():
        r_TV = module.reward.eval().predict(module.reward.states(batch))
    first = len(last) - 1 - torch.stack([torch.nonzero(last == u)[0, 0] for u in range(int(last.max()) + 1)])
    true_TV = truth_UV[data.sequences.users.to_numpy()[batch.user_B[batch.row_T[first]].numpy()] - 1]
    centred = [x - x.mean(dim=1, keepdim=True) for x in (r_TV[first], true_TV)]
    return float((centred[0] * centred[1]).sum() / (centred[0].norm() * centred[1].norm()))


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """By world: what trust.json says, and what the model knows."""
    found = {}
    for name, world in WORLDS.items():
        root = tmp_path_factory.mktemp(name)
        write(simulate(world), root)
        data = RewardData(
            log=LogMapping(name="simulated", files=["simulated/events.parquet"]),
            root=str(root),
            reward="reward",
            high=High("high"),
            split=TimeSplit((0.8, 0.9)),
            users="A",
            max_length=64,
            batch_tokens=2048,
        )
        torch.manual_seed(0)
        module = RewardModel(
            data.num_items, encoder=Pooled(dim=16, max_length=64), members=3, lr=1e-2, weight_decay=0.1
        )
        small.fit(module, data, root, epochs=3)
        said = json.loads((root / "trust.json").read_text())
        found[name] = said | {"knowledge": knowledge(module, data, root / "simulated/truth.npz")}
    return found


@pytest.mark.long
def test_verdict_falls_as_noise_rises(judged):
    verdicts = [judged[name]["verdict"] for name in WORLDS]
    levels = [SCALE.index(said) for said in verdicts]
    assert levels == sorted(levels, reverse=True)
    assert verdicts[0] == "strong"
    assert verdicts[-1] == "no_signal"
    assert verdicts[1] in ("weak", "moderate")


def test_verdict_follows_the_models_true_quality(judged):
    known = [judged[name]["knowledge"] for name in WORLDS]
    assert known == sorted(known, reverse=True)
    assert known[0] > 0.8
    assert abs(known[-1]) < 0.2


def test_noise_estimate_is_not_too_small(judged):
    """Nobody has an item twice here, so the floor must be an upper limit of the noise put in."""
    for name, world in WORLDS.items():
        assert judged[name]["noise"]["source"] == "floor"
        assert judged[name]["noise"]["sd"] > 0.9 * 0.72 * world.noise


def test_trust_json_is_plain_json(judged):
    """Every figure has an interval around it, and the report says what it rests on."""
    said = judged["noisy"]
    assert (said["users"]["group"], said["users"]["share_a"]) == ("A", 0.7)
    part = said["validation"]
    for row in (*part["table"].values(), *part["differences"].values()):
        for value, low, high in row.values():
            assert value is None or low <= value <= high
    assert {"model", "global", "user", "item", "user_item", "ridge", "factors"} == set(part["table"])
    assert pl.DataFrame(part["calibration"]["bins"])["observed"].is_finite().all()
