"""Rerank a policy at serving: how strongly, and how a row of a table is served again."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from recalign.artifacts import Seal, check, recorded
from recalign.errors import InputError
from recalign.evaluation.baselines import Rerank, Scores
from recalign.evaluation.rows import row_of
from recalign.files import read_json, sha256
from recalign.recommender.checkpoint import load_net
from recalign.recommender.policy import Policy
from recalign.reward import RewardData

RERANKING = "reranking"
"""Where a row's summary.json holds its `Reranking`, what it rests on and how it reads histories."""


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
        """The reranked policy; ``trained`` is that of `Row.base`, if there is one, and ``scores`` of `Row.scores`."""
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
        checkpoints: of the ``recommender``, the ``reward`` model and, for a row that has one, its `Row.base`.
        data: the log, users A; it is set to read histories as the evaluation did.

    Raises:
        InputError: the row is not evaluated, or its checkpoints or its log are not those of its evaluation.
    """
    row, place = row_of(folder.parent.name), folder / "evaluation"
    whole = check(place).whole
    seal = Seal.read(place) if whole else Seal()
    said = read_json(place / "summary.json").get(RERANKING) if seal.key else None
    remedy = "run the chain again: only what has changed is repeated"
    if not said:
        of = "one of an earlier version" if whole else "an altered one"
        raise InputError(f"this row has no evaluation, or {of}", where=str(folder), remedy=remedy)
    known = {"recommender": "start", "reward": "reward", str(row.base): "checkpoint"}
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
    own = nets.get(str(row.base))
    assert row.scores is not None
    scores = row.scores(nets["reward"].net, data)
    return Reranking(**said["how"]).policy(nets["recommender"].net, own.net if own else None, scores).eval()
