"""Methods evaluated: one folder a method and a seed, kept as long as nothing that it rests on changes."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch

import recalign
from recalign.evaluation import exposed
from recalign.evaluation.baselines import Rerank, RerankByMean, item_mean, popularity
from recalign.evaluation.judges import require_apart
from recalign.evaluation.value import Scorers, evaluate, load_truth
from recalign.events import data_root
from recalign.recommender.checkpoint import Loaded, check_catalogue, load_net
from recalign.recommender.interpolation import largest_interpolation, ndcg
from recalign.recommender.policy import Policy
from recalign.recommender.training import write_parquet
from recalign.reward import RewardData

BASE_STAGES = ("recommender", "reward", "judge_select", "judge_report")
"""Stages that every method rests on, in order."""

UNTRAINED = ("popularity", "popularity_high", "item_mean", "start", "rerank", "rerank_item_mean")
"""Methods that take no training of their own."""

TILTED = ("rerank", "rerank_item_mean")
"""Those of them that have a strength."""

SERVED = "_rerank"
"""Ends the name of a trained method whose policy is reranked at serving: ``asft_rerank``."""


def base_method(method: str) -> str | None:
    """The trained method whose policy a row reranks, ``asft`` of ``asft_rerank``; None for any other row."""
    return method.removesuffix(SERVED) if method.endswith(SERVED) else None


def is_trained(method: str) -> bool:
    """Whether a row has a training of its own."""
    return method not in UNTRAINED and base_method(method) is None


def has_strength(method: str) -> bool:
    """Whether a row is reranked."""
    return method in TILTED or base_method(method) is not None


@dataclass(frozen=True)
class BaseCheckpoints:
    """What the methods of one seed rest on.

    Attributes:
        start, reward, judge_select, judge_report: checkpoints of the cloned policy, the reward model and the judges.
    """

    start: Path
    reward: Path
    judge_select: Path
    judge_report: Path

    def digests(self) -> dict[str, str]:
        """Of the checkpoints, by name."""
        return {name: _digest(path) for name, path in vars(self).items()}


@dataclass(frozen=True)
class MethodRun:
    """A method of one seed.

    Attributes:
        method: its name.
        checkpoint: of its policy, or of the policy that it reranks; None where none was trained.
        cost: plain numbers that go with it (``cost/seconds``, ``cost/steps``, ``cost/events``).
        strength: of reranking, 1 / lambda in 1 / standard deviation of the reward.
        keep: share of the start's ``all/ndcg@10`` on validation that reranking keeps: it grows weaker until it does,
            and a trained policy that is reranked goes back towards the start with it; None: whatever is left. A trained
            policy that is not has been held to that in training.
    """

    method: str
    checkpoint: Path | None
    cost: Mapping[str, float]
    strength: float = 1.0
    keep: float | None = None

    def key(self, base: Mapping[str, str], data: RewardData) -> str:
        """Digest of all that its figures depend on: itself, the base's digests, the log, the truth, recalign."""
        own = self.checkpoint and _digest(self.checkpoint)
        parts: list[Any] = [self.method, own, base, data.fingerprint, data.max_length, data.know_request]
        truth = data.log_.truth and data_root(data.root) / data.log_.truth  # which the log's digest does not know of
        parts += [_digest(truth) if truth and truth.is_file() else None]
        parts += [(self.strength, self.keep) if has_strength(self.method) else None, recalign.__version__]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def evaluate_methods(
    folder: Path, seed: int, runs: list[MethodRun], base: BaseCheckpoints, data: RewardData
) -> list[str]:
    """Evaluate the methods of one seed that have not been, or that rest on something else than they did.

    Writes ``<folder>/<method>/seed-<n>/evaluation/{test,validation}.parquet`` and ``summary.json``; of a log with
    random exposure also ``offpolicy.json`` (`recalign.evaluation.exposed.measure`).

    Args:
        folder: of the chain.
        seed: of this repetition.
        runs: its methods.
        base: what they rest on.
        data: the log, users A.

    Returns:
        The methods that were evaluated.
    """
    digests = base.digests()
    keys = {c.method: c.key(digests, data) for c in runs}
    stale = [c for c in runs if _kept_key(_place(folder, c.method, seed)) != keys[c.method]]
    if not stale:
        return []
    rests_on = hashlib.sha256(json.dumps([data.fingerprint, digests], sort_keys=True).encode()).hexdigest()[:16]
    nets = LoadedNetworks(base, data)
    policies = {c.method: nets.policy(c) for c in stale}
    frames = {part: evaluate(policies, nets.scorers(), data, part) for part in ("validation", "test")}
    shown = exposed.measure(policies, nets.rewards["train_rm@10"], data) if exposed.is_exposed(data) else {}
    for run in stale:
        place, test = _place(folder, run.method, seed), frames["test"][run.method]
        for part, by_method in frames.items():
            write_parquet(by_method[run.method].drop("shown"), place / f"{part}.parquet")
        summary = {
            "method": run.method,
            "seed": seed,
            "log": data.log_.name,
            "key": keys[run.method],
            "base": rests_on,
            "cold_share": float(test["cold"].mean()),  # type: ignore[arg-type]
            "coverage@10": _coverage(test, data.num_items),
            **run.cost,
        }
        if has_strength(run.method):
            summary["policy/strength"] = nets.strength(run)
        if run.method in shown:
            write_json(place / exposed.FILE, shown[run.method])
            summary |= exposed.headlines(shown[run.method])
        write_json(place / "summary.json", summary)
    return [c.method for c in stale]


class LoadedNetworks:
    """The networks of one seed, each loaded once."""

    def __init__(self, base: BaseCheckpoints, data: RewardData) -> None:
        self.data = data
        self._alphas: dict[tuple[Path | None, str, float, float | None], float] = {}
        self.start: Policy = self._load(base.start, "policy").net
        reward = self._load(base.reward, "reward")
        self.judges = {path: self._load(path, "reward") for path in (base.judge_select, base.judge_report)}
        require_apart(self.judges, {base.reward: reward}, data.sequences)
        nets = [reward, *self.judges.values()]
        names = ("train_rm@10", "select_judge@10", "judge@10")
        self.rewards = {name: loaded.net for name, loaded in zip(names, nets, strict=True)}

    def _load(self, path: Path, net: str) -> Loaded:
        loaded = load_net(path, net)
        check_catalogue(loaded.catalogue, self.data.sequences.catalogue, str(path))
        return loaded

    def scorers(self) -> Scorers:
        truth = self.data.log_.truth
        known = load_truth(data_root(self.data.root) / truth, self.data.sequences) if truth else None
        return Scorers(self.start, self.rewards, known)

    def policy(self, run: MethodRun) -> Policy:
        if has_strength(run.method):
            return self._on_the_way(run, self._alpha(run))
        if run.checkpoint is not None:
            return self._trained(run.checkpoint)
        _, scale, item_mean_V = self.data.moments()
        makers = {
            "start": lambda: self.start,
            "popularity": lambda: popularity(self.data.sequences),
            "popularity_high": lambda: popularity(self.data.sequences, high_only=True),
            "item_mean": lambda: item_mean(item_mean_V, scale),
        }
        return makers[run.method]()

    def _trained(self, checkpoint: Path) -> Policy:
        trained = self._load(checkpoint, "policy")
        require_apart(self.judges, {checkpoint: trained}, self.data.sequences)
        return trained.net

    def strength(self, run: MethodRun) -> float:
        """How strong reranking may be."""
        return self._alpha(run) * self._full_strength(run)

    def _full_strength(self, run: MethodRun) -> float:
        """Before it grows weaker: of a trained policy's reranking what the starting policy's may be."""
        return self.strength(MethodRun("rerank", None, {}, run.strength, run.keep)) if run.checkpoint else run.strength

    def _alpha(self, run: MethodRun) -> float:
        """How far a reranked policy may go from the start: 0 is the start itself, 1 all of it."""
        given = run.checkpoint, run.method, run.strength, run.keep
        if given not in self._alphas:
            alpha = 1.0
            if run.keep is not None and (base := self._start_ndcg):
                alpha, _ = largest_interpolation(
                    lambda share: self._ndcg(self._on_the_way(run, share)) / base, run.keep
                )
            self._alphas[given] = alpha
        return self._alphas[given]

    def _on_the_way(self, run: MethodRun, alpha: float) -> Policy:
        _, scale, item_mean_V = self.data.moments()
        strength = alpha * self._full_strength(run) / scale
        if run.method == "rerank_item_mean":
            return RerankByMean(self.start, torch.from_numpy(item_mean_V), strength)
        policy = interpolate(self.start, self._trained(run.checkpoint), alpha) if run.checkpoint else self.start
        return Rerank(policy, self.rewards["train_rm@10"], strength)

    @functools.cached_property
    def _start_ndcg(self) -> float:
        return self._ndcg(self.start)

    def _ndcg(self, policy: Policy) -> float:
        """On validation."""
        data = self.data
        return ndcg(policy.eval().to(data.device), data.loader(data.windows("validation", "A")), data.device)


@torch.no_grad()
def interpolate(start: Policy, trained: Policy, alpha: float) -> Policy:
    """The policy whose weights are start + alpha (trained - start), as `recalign.posttrain.KeepRanking` goes back."""
    policy = copy.deepcopy(trained)
    for weight, first in zip(policy.parameters(), trained.origin(start), strict=True):
        weight.copy_(torch.lerp(first.to(weight), weight, alpha))
    return policy


def _place(folder: Path, method: str, seed: int) -> Path:
    return folder / method / f"seed-{seed}" / "evaluation"


def _kept_key(place: Path) -> str | None:
    if not all((place / name).is_file() for name in ("test.parquet", "validation.parquet", "summary.json")):
        return None
    return json.loads((place / "summary.json").read_text())["key"]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _coverage(frame: pl.DataFrame, num_items: int) -> float:
    """Share of the catalogue that is shown to anybody."""
    shown = frame["shown"].explode().unique()
    return shown.filter(shown > 0).len() / num_items


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(partial, path)
