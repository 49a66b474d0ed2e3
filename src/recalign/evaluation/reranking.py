"""Rerank a policy at serving: the scores, the strength, and how to load a reranked row as it was evaluated.

Suffixes: T targets, V items, K members, S numbers of a reward model's state.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recalign.artifacts import recorded_digest
from recalign.data.sequences import Batch
from recalign.errors import InputError
from recalign.evaluation.counted_rows import TableRow
from recalign.evaluation.value import BatchEncodings
from recalign.files import read_json, sha256
from recalign.recommender.checkpoint import load_net
from recalign.recommender.policy import Policy
from recalign.reward import RewardData, RewardEnsemble
from recalign.seals import Seal, check

READS_REWARD_MODEL = "reads/reward_model"
"""Metric of a row: 1 where it follows the reward model, in training or at serving, else 0."""
RERANKING = "reranking"
"""Key in a row's summary.json: its `Reranking`, the log's fingerprint, and how it reads histories."""


class ItemScores(nn.Module):
    """One score an item for all users, in place of a reward model: mean rewards, log counts."""

    def __init__(self, score_V: Tensor) -> None:
        super().__init__()
        self.score_V = nn.Buffer(score_V.float())

    def states(self, batch: Batch) -> Tensor:
        return self.score_V.new_zeros(1, len(batch.target_T), 0)

    def predict(self, states: Tensor, item: Tensor | None = None) -> Tensor:
        return self.score_V.expand(states.shape[1], -1) if item is None else self.score_V[item - 1]


Scores = RewardEnsemble | ItemScores
"""What a policy can be reranked by."""


@dataclass(frozen=True)
class RerankState:
    """States of a policy and of a reward model, sliced together."""

    policy: Any
    reward_KTS: Tensor

    def __len__(self) -> int:
        return self.reward_KTS.shape[1]

    def __getitem__(self, part: slice) -> RerankState:
        return RerankState(self.policy[part], self.reward_KTS[:, part])


class Rerank(Policy):
    """A policy reranked at serving: log pi(v | s) + strength * r(s, v), up to a constant, r a reward or another score.

    The strength is 1 / lambda, in 1 / the score's unit. ``spread`` is the standard deviation of the rewards (1 for log
    counts): a request to the server may give another strength in 1 / ``spread``.
    """

    def __init__(self, policy: Policy, reward: Scores, strength: float, spread: float = 1.0) -> None:
        super().__init__()
        self.num_items = policy.num_items
        self.policy, self.reward, self.strength, self.spread = policy, reward, strength, spread

    def encode(self, batch: Batch) -> RerankState:
        return self.encode_shared(BatchEncodings(batch))

    def encode_shared(self, encodings: BatchEncodings) -> RerankState:
        """`encode` that shares states with other policies of the same networks (`value.Composed`)."""
        return RerankState(encodings.state(self.policy), encodings.reward_state(self.reward))

    def log_probs(self, state: RerankState, items: Tensor | None = None) -> Tensor:
        logp_TV = self.tilted(self.policy.log_probs(state.policy), self.reward.predict(state.reward_KTS))
        return logp_TV if items is None else logp_TV.gather(1, items - 1)

    def tilted(self, logp_TV: Tensor, score_TV: Tensor) -> Tensor:
        """Log-probabilities of this policy, from those of the policy that it reranks and the scores."""
        return (logp_TV + self.strength * score_TV).log_softmax(dim=1)


@dataclass(frozen=True)
class RerankedRow(TableRow):
    """A row that reranks a policy at serving.

    Attributes:
        scores: makes its scores and their unit, from the reward model that it reads and the log.
        base: the trained method whose policy it reranks; None: the start.
        permuted: whether it reads permuted rewards without any training.
        trained: whether a reward model is trained for it.
        strength: 1 / lambda in 1 / standard deviation of the reward; of ``popularity_tilt``, of log counts. With
            `keep`, that at alpha 1 of the interpolation path.
        keep: share of the start's ``all/ndcg@10`` on validation that it must keep (`Retention.enough`); None: no
            budget, at `strength`.
    """

    scores: Callable[[RewardEnsemble, RewardData], tuple[Scores, float]] = field(kw_only=True)
    base: str | None = None
    permuted: bool = False
    strength: float = 1.0
    keep: float | None = None


@dataclass(frozen=True)
class Reranking:
    """How a row reranks.

    Attributes:
        strength: 1 / lambda in 1 / standard deviation of the reward; of ``popularity_tilt``, of log counts.
        alpha: interpolation of the policy's weights: 0 the start's, 1 the trained ones, above 1 extrapolated.
    """

    strength: float
    alpha: float

    def policy(self, start: Policy, trained: Policy | None, scores: tuple[Scores, float]) -> Rerank:
        """The reranked policy; ``trained`` is that of `RerankedRow.base`, if there is one."""
        policy = interpolate(start, trained, self.alpha) if trained else start
        return Rerank(policy, scores[0], self.strength / scores[1], scores[1])

    def record(self, data: RewardData) -> dict[str, Any]:
        """All that `served` needs, as plain values."""
        read = {"max_length": data.max_length, "know_request": data.know_request, "seed": data.seed}
        return {"how": asdict(self), "log": data.fingerprint, "read": read}


@torch.no_grad()
def interpolate(start: Policy, trained: Policy, alpha: float) -> Policy:
    """The policy whose weights are start + alpha (trained - start), as in `KeepRanking`."""
    policy = copy.deepcopy(trained)
    for weight, first in zip(policy.parameters(), start.parameters(), strict=True):
        weight.copy_(torch.lerp(first.to(weight), weight, alpha))
    return policy


def served(row: RerankedRow, folder: Path, checkpoints: Mapping[str, Path], data: RewardData) -> Policy:
    """The policy of a reranked row, as its chain evaluated it.

    Args:
        row: the reranked row.
        folder: of the row and seed, ``<chain>/<row>/seed-<n>``.
        checkpoints: of the ``recommender``, the ``reward`` model and, for a row that has one, its `RerankedRow.base`.
        data: the log, users A; it is set to read histories as the evaluation did.

    Raises:
        InputError: the row is not evaluated, or its checkpoints or its log are not those of its evaluation.
    """
    place = folder / "evaluation"
    whole = check(place).whole
    seal = Seal.read(place) if whole else Seal()
    record = read_json(place / "summary.json").get(RERANKING) if seal.key else None
    remedy = "run the chain again: only what has changed is repeated"
    if not record:
        of = "made by an earlier version of recalign" if whole else "changed after it was written"
        raise InputError(f"this row's evaluation is missing, or was {of}", where=str(folder), remedy=remedy)
    keys = {"recommender": "start", "reward": "reward", str(row.base): "checkpoint"}
    if any(seal.key.get(keys[stage]) != (recorded_digest(path) or sha256(path)) for stage, path in checkpoints.items()):
        what = "it was evaluated with other checkpoints than those in the chain's folder"
        raise InputError(what, where=str(folder), remedy=remedy)
    if record["log"] != data.fingerprint:
        what = "the reward model's run reads another log, or another reward, than the evaluation did"
        raise InputError(what, where=str(folder), remedy="set data.log, data.reward and data.split for all stages")
    for name, value in record["read"].items():
        setattr(data, name, value)
    nets = {stage: load_net(path, "reward" if stage == "reward" else "policy") for stage, path in checkpoints.items()}
    for net in nets.values():
        net.check(data)
    trained = nets[row.base].net if row.base else None
    scores = row.scores(nets["reward"].net, data)
    return Reranking(**record["how"]).policy(nets["recommender"].net, trained, scores).eval()
