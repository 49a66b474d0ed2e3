"""Rows that rerank a policy at serving: which there are, how strongly, and how they are served again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from recalign.artifacts import Seal, check, recorded
from recalign.errors import InputError
from recalign.evaluation.baselines import ItemScores, Rerank, Scores, log_counts
from recalign.files import read_json, sha256
from recalign.recommender.checkpoint import load_net
from recalign.recommender.policy import Policy
from recalign.reward import RewardData, RewardEnsemble

SUFFIX = "_rerank"
"""Suffix of a trained method that is reranked at serving: ``<method>_rerank``."""
READS_REWARD_MODEL = "reads/reward_model"
"""Metric of a row: 1 where it follows the reward model, in training or at serving, else 0."""
RERANKING = "reranking"
"""Where a row's summary.json holds its `Reranking`, what it rests on and how it reads histories."""

RERANKED: dict[str, Callable[[RewardEnsemble, RewardData], tuple[Scores, float]]] = {
    "popularity_tilt": lambda reward, data: (ItemScores(log_counts(data.sequences)), 1.0),
    "rerank": lambda reward, data: (reward, data.moments()[1]),
    "rerank_item_mean": lambda reward, data: (
        ItemScores(torch.from_numpy(data.moments()[2])),
        data.moments()[1],
    ),
    "rerank_permuted": lambda reward, data: (reward, data.moments()[1]),
    "rerank_item_mean_permuted": lambda reward, data: (
        ItemScores(torch.from_numpy(data.as_placebo().moments()[2])),
        data.moments()[1],
    ),
}
"""Rows that rerank the starting policy, each with the scores that it does so by and their unit."""

OWN_REWARD = ("rerank_permuted",)
"""Rows of these whose reward model is their own, a training of the row."""
OF_PERMUTED = ("rerank_item_mean_permuted",)
"""Rows of these that read permuted rewards without any training."""


def scores_of(method: str, reward: RewardEnsemble, data: RewardData) -> tuple[Scores, float]:
    """The scores by which a row reranks, and their unit; a row with a `base_method` does so as ``rerank`` does."""
    return RERANKED.get(method, RERANKED["rerank"])(reward, data)


def base_method(method: str) -> str | None:
    """The trained method whose policy a row reranks, by the row's name; None for any other row."""
    return method.removesuffix(SUFFIX) if method.endswith(SUFFIX) else None


def is_reranked(method: str) -> bool:
    """Whether a row is reranked, and so has a strength."""
    return method in RERANKED or base_method(method) is not None


@dataclass(frozen=True)
class Reranking:
    """How a row reranks.

    Attributes:
        strength: 1 / lambda in 1 / standard deviation of the reward; of ``popularity_tilt``, of log counts.
        alpha: where the policy's weights lie on the interpolation path from the start through the trained ones.
    """

    strength: float
    alpha: float

    def policy(self, start: Policy, trained: Policy | None, scores: tuple[Scores, float]) -> Rerank:
        """The reranked policy; ``trained`` is that of `base_method`, if there is one, and ``scores`` as `RERANKED`."""
        policy = interpolate(start, trained, self.alpha) if trained else start
        return Rerank(policy, scores[0], self.strength / scores[1], scores[1])

    def record(self, data: RewardData) -> dict[str, Any]:
        """All that `served` needs, as plain values."""
        read = {"max_length": data.max_length, "know_request": data.know_request, "seed": data.seed}
        return {"how": asdict(self), "log": data.fingerprint, "read": read}


@torch.no_grad()
def interpolate(start: Policy, trained: Policy, alpha: float) -> Policy:
    """The policy whose weights are start + alpha (trained - start), as `KeepRanking` has them."""
    policy = copy.deepcopy(trained)
    for weight, first in zip(policy.parameters(), start.parameters(), strict=True):
        weight.copy_(torch.lerp(first.to(weight), weight, alpha))
    return policy


def served(folder: Path, checkpoints: Mapping[str, Path], data: RewardData) -> Policy:
    """The policy of a reranked row, as its chain evaluated it.

    Args:
        folder: of the row and seed, ``<chain>/<row>/seed-<n>``.
        checkpoints: of the ``recommender``, the ``reward`` model and, for a row that has one, its `base_method`.
        data: the log, users A; it is set to read histories as the evaluation did.

    Raises:
        InputError: the row is not evaluated, or its checkpoints or its log are not those of its evaluation.
    """
    method, place = folder.parent.name, folder / "evaluation"
    whole = check(place).whole
    seal = Seal.read(place) if whole else Seal()
    said = read_json(place / "summary.json").get(RERANKING) if seal.key else None
    remedy = "run the chain again: only what has changed is repeated"
    if not said:
        of = "one of an earlier version" if whole else "an altered one"
        raise InputError(f"this row has no evaluation, or {of}", where=str(folder), remedy=remedy)
    known = {"recommender": "start", "reward": "reward", str(base_method(method)): "checkpoint"}
    if any(seal.key.get(known[stage]) != (recorded(path) or sha256(path)) for stage, path in checkpoints.items()):
        what = "its evaluation rests on other checkpoints than those in the chain's folder"
        raise InputError(what, where=str(folder), remedy=remedy)
    if said["log"] != data.fingerprint:
        what = "the reward model's run reads another log, or another reward, than the evaluation did"
        raise InputError(what, where=str(folder), remedy="set data.log, data.reward and data.split for all stages")
    for name, value in said["read"].items():
        setattr(data, name, value)
    nets = {stage: load_net(path, "reward" if stage == "reward" else "policy") for stage, path in checkpoints.items()}
    for net in nets.values():
        net.check(data)
    own = nets.get(str(base_method(method)))
    scores = scores_of(method, nets["reward"].net, data)
    return Reranking(**said["how"]).policy(nets["recommender"].net, own.net if own else None, scores).eval()
