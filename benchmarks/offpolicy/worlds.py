"""One simulated world of `offpolicy.py`: policies from blunt to sharp, estimated on 300 users, true value known.

Suffixes: U users, V items, T targets, K members, S what a state holds.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from recalign.data.events import LogMapping
from recalign.data.sequences import Batch, High, TimeSplit
from recalign.data.simulation import Simulated, World, simulate, write
from recalign.data.simulation.world import SD
from recalign.evaluation.baselines import SameForAll
from recalign.evaluation.exposed import exposures
from recalign.evaluation.offpolicy import ESTIMATORS, estimate
from recalign.recommender.policy import Policy
from recalign.reward import RewardData, RewardEnsemble

CPU = torch.device("cpu")
USERS, SHARE = 4000, 0.075  # the estimates see 300 of the users; the truth is about all of them
SHARPNESS = (0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0)
BINS = (5, 10, 20, 30, 50, 75)
DRAWS = 1000


class Known(nn.Module):
    """A reward model by heart: a table of every user's reward of every item."""

    def __init__(self, reward_UV: Tensor) -> None:
        super().__init__()
        self.reward_UV = reward_UV

    def states(self, batch: Batch) -> Tensor:
        """The user. Shape: (1, T, 1)."""
        return batch.user_B[batch.row_T].view(1, -1, 1)

    def predict(self, states: Tensor, item: Tensor | None = None) -> Tensor:
        reward_TV = self.reward_UV[states[0, :, 0]]
        return reward_TV if item is None else reward_TV.gather(1, item - 1)


class Personal(SameForAll):
    """Scores of (user, item) pairs; pi = softmax(scores)."""

    def __init__(self, score_UV: Tensor) -> None:
        super().__init__(score_UV[0])
        self.score_UV = score_UV

    def encode(self, batch: Batch) -> Tensor:
        return batch.user_B[batch.row_T][:, None]

    def log_probs(self, state: Tensor, items: Tensor | None = None) -> Tensor:
        logp_TV = self.score_UV[state[:, 0]].log_softmax(dim=1)
        return logp_TV if items is None else logp_TV.gather(1, items - 1)


def world(seed: int) -> pl.DataFrame:
    """Estimates and truth of every policy in one world: seed, family, sharpness, ess, true, and each estimate."""
    made = simulate(World(users=USERS, items=100, events=20 * USERS, random=0.5, seed=seed))
    with tempfile.TemporaryDirectory() as root:
        write(made, Path(root))
        log = LogMapping("simulated", ["simulated/events.parquet"], is_random="is_random", propensity="propensity")
        settings: dict[str, Any] = {"split": TimeSplit((0.7, 0.75)), "high": High("high"), "max_length": 100}
        settings |= {"users": "A", "share_a": SHARE, "cache": False}
        data = RewardData(log=log, reward="reward", root=root, **settings)
        data.sequences  # noqa: B018 (read while the files are there)
    truth = expected(made, data)
    *_, item_mean_V = data.moments()
    policies = make(truth.reward_UV, torch.from_numpy(item_mean_V), seed)
    model = Known(torch.from_numpy(item_mean_V).expand(len(truth.reward_UV), -1))
    shown = exposures(policies, cast(RewardEnsemble, model), data, CPU)
    everybody = exposures(policies, cast(RewardEnsemble, truth), data, CPU, users="all")
    rows = []
    for name, one in shown.items():
        family, sharpness = name.split(", ")
        found = estimate(one, least_ess=0, draws=DRAWS)
        direct_N = everybody[name].direct_N
        assert direct_N is not None
        row = {"seed": seed, "family": family, "sharpness": float(sharpness), "ess": found.ess, "true": direct_N.mean()}
        for which in ESTIMATORS:
            low, high = found.estimates[which].interval()
            row |= {which: found.estimates[which].value, f"{which}_low": low, f"{which}_high": high}
        rows.append(row)
    return pl.DataFrame(rows)


def expected(made: Simulated, data: RewardData) -> Known:
    """The truth, with the rater's generosity, for that is in the rewards that are observed."""
    generous_U1 = SD * made.world.generosity * made.people.generosity_U[:, None]
    user, item = (ids.to_numpy() - 1 for ids in (data.sequences.users, data.sequences.items))
    return Known(torch.from_numpy((made.truth_UI + generous_U1)[np.ix_(user, item)].astype(np.float32)))


def make(truth_UV: Tensor, item_mean_V: Tensor, seed: int) -> dict[str, Policy]:
    """Policies that follow the items' mean rewards, or know half of what each user thinks, more and more sharply."""
    noise_UV = torch.randn(truth_UV.shape, generator=torch.Generator().manual_seed(seed))
    own_UV = truth_UV - truth_UV.mean(dim=1, keepdim=True)
    personal_UV = (own_UV / own_UV.std() + noise_UV) / 2**0.5
    common_V = (item_mean_V - item_mean_V.mean()) / item_mean_V.std()
    policies: dict[str, Policy] = {"uniform, 0": SameForAll(0 * common_V)}
    for sharpness in SHARPNESS:
        policies[f"item mean, {sharpness}"] = SameForAll(sharpness * common_V)
        policies[f"personal, {sharpness}"] = Personal(sharpness * personal_UV)
    return policies
