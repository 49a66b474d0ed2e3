"""Methods evaluated: one folder a method and a seed, kept as long as nothing that it rests on changes."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch

from recalign.evaluation import examples, exposed
from recalign.evaluation.baselines import ItemMeans, Rerank, SameForAll, popularity
from recalign.evaluation.judges import require_apart
from recalign.evaluation.value import Scorers, evaluate, load_truth
from recalign.events import data_root
from recalign.files import digest, read_json, sha256, write_json
from recalign.recommender.checkpoint import Loaded, check_catalogue, load_net
from recalign.recommender.interpolation import largest_interpolation, ndcg
from recalign.recommender.policy import Policy
from recalign.recommender.training import write_parquet
from recalign.reward import RewardData, RewardEnsemble

BASE_STAGES = ("recommender", "reward", "judge_select", "judge_report")
"""Stages that every method rests on, in order."""

SUFFIX = "_rerank"
"""Ends the name of a trained method whose policy is reranked at serving: ``<method>_rerank``."""


def base_method(method: str) -> str | None:
    """The trained method whose policy a row reranks, by the row's name; None for any other row."""
    return method.removesuffix(SUFFIX) if method.endswith(SUFFIX) else None


def is_trained(method: str) -> bool:
    """Whether a row has a training of its own."""
    return method not in UNTRAINED and base_method(method) is None


def is_reranked(method: str) -> bool:
    """Whether a row is reranked, and so has a strength."""
    return method in RERANKED or base_method(method) is not None


@dataclass(frozen=True)
class BaseCheckpoints:
    """What the methods of one seed rest on: the checkpoints of the cloned policy, the reward model and the judges."""

    start: Path
    reward: Path
    judge_select: Path
    judge_report: Path

    def digests(self) -> dict[str, str]:
        """Of the checkpoints, by name."""
        return {name: sha256(path) for name, path in vars(self).items()}


@dataclass(frozen=True)
class MethodRun:
    """A method of one seed.

    Attributes:
        method: its name.
        checkpoint: of its policy, or of the policy that it reranks; None where none was trained.
        cost: plain numbers that go with it (``cost/seconds``, ``cost/steps``, ``cost/events``).
        strength: of reranking, 1 / lambda in 1 / standard deviation of the reward.
        keep: share of the start's ``all/ndcg@10`` on validation that reranking must keep; None: any.
    """

    method: str
    checkpoint: Path | None
    cost: Mapping[str, float]
    strength: float = 1.0
    keep: float | None = None

    def key(self, base: Mapping[str, str], data: RewardData, code: str) -> str:
        """Digest of all that its figures depend on, from the digests of the base's checkpoints and of the code."""
        own = self.checkpoint and sha256(self.checkpoint)
        truth = _truth(data)  # the log's digest knows neither its truth nor its titles
        extra = sha256(truth) if truth and truth.is_file() else None, repr(data.log_.titles)
        reranking = (self.strength, self.keep) if is_reranked(self.method) else None
        read = data.fingerprint, data.max_length, data.know_request
        return digest(self.method, own, base, read, extra, reranking, code)[:16]


def evaluate_methods(
    folder: Path,
    seed: int,
    runs: list[MethodRun],
    base: BaseCheckpoints,
    data: RewardData,
    *,
    device: torch.device,
    code: str,
) -> list[str]:
    """Evaluate the methods of one seed that have not been, or that rest on something else than they did.

    Writes ``<folder>/<method>/seed-<n>/evaluation/{test,validation}.parquet``, ``summary.json`` and ``examples.json``;
    of a log with random exposure also ``offpolicy.json`` (`recalign.evaluation.exposed.measure`).

    Args:
        folder: of the chain.
        seed: of this repetition.
        runs: its methods.
        base: what they rest on.
        data: the log, users A.
        device: where to work.
        code: digest of the code that evaluates, which goes into every key.

    Returns:
        The methods that were evaluated.
    """
    digests = base.digests()
    keys = {run.method: run.key(digests, data, code) for run in runs}
    places = {run.method: folder / run.method / f"seed-{seed}" / "evaluation" for run in runs}
    stale = [run for run in runs if _kept_key(places[run.method]) != keys[run.method]]
    if not stale:
        return []
    nets = LoadedNetworks(base, data, device)
    policies = {run.method: nets.policy(run) for run in stale}
    frames = {part: evaluate(policies, nets.scorers(), data, part, device) for part in ("validation", "test")}
    shown = exposed.measure(policies, nets.reward, data, device) if exposed.is_exposed(data) else {}
    for run in stale:
        place, test = places[run.method], frames["test"][run.method]
        for part, by_method in frames.items():
            write_parquet(by_method[run.method].drop("shown"), place / f"{part}.parquet")
        write_json(place / examples.FILE, examples.examples(test, data))
        shares = {"cold_targets": test["cold"].cast(float).mean(), "coverage@10": _coverage(test, data.num_items)}
        summary = {"method": run.method, "seed": seed, "log": data.log_.name, "key": keys[run.method]}
        summary |= {"base": digest(data.fingerprint, digests)[:16], **shares, **run.cost}
        if is_reranked(run.method):
            summary["policy/strength"] = nets.reranked(run)[1]
        if run.method in shown:
            write_json(place / exposed.FILE, shown[run.method])
            summary |= exposed.headlines(shown[run.method])
        write_json(place / "summary.json", summary)
    return [run.method for run in stale]


class LoadedNetworks:
    """The networks of one seed, each loaded once."""

    def __init__(self, base: BaseCheckpoints, data: RewardData, device: torch.device) -> None:
        self.data, self.device = data, device
        self.start: Policy = self._load(base.start, "policy").net
        reward, *self.judges = (
            self._load(path, "reward") for path in (base.reward, base.judge_select, base.judge_report)
        )
        require_apart(self.judges, reward, data.sequences)
        self.reward: RewardEnsemble = reward.net
        select, report = (judge.net for judge in self.judges)
        self.rewards = {"train_rm@10": reward.net, "select_judge@10": select, "judge@10": report}
        self._reranked: dict[tuple[Any, ...], tuple[Policy, float]] = {}

    def _load(self, path: Path, net: str) -> Loaded:
        loaded = load_net(path, net)
        check_catalogue(loaded.catalogue, self.data.sequences.catalogue, str(path))
        return loaded

    def scorers(self) -> Scorers:
        truth = _truth(self.data)
        return Scorers(self.start, self.rewards, load_truth(truth, self.data.sequences) if truth else None)

    def policy(self, run: MethodRun) -> Policy:
        """The policy of a row."""
        if is_reranked(run.method):
            return self.reranked(run)[0]
        if run.checkpoint is not None:
            return self._trained(run.checkpoint)
        return self.start if run.method == "start" else SAME_FOR_ALL[run.method](self.data)

    def _trained(self, checkpoint: Path) -> Policy:
        trained = self._load(checkpoint, "policy")
        require_apart(self.judges, trained, self.data.sequences)
        return trained.net

    def reranked(self, run: MethodRun) -> tuple[Policy, float]:
        """A reranked policy and its strength, weakened until enough of the ranking is kept.

        A trained policy is reranked as strongly as the start may be, and goes back towards the start with it.
        """
        key = run.method, run.checkpoint, run.strength, run.keep
        if key not in self._reranked:
            start, full, alpha = self.start, run.strength, 1.0
            trained = self._trained(run.checkpoint) if run.checkpoint else None
            if trained:
                full = self.reranked(MethodRun("rerank", None, {}, run.strength, run.keep))[1]
            reward, scale = RERANKED.get(run.method, RERANKED["rerank"])(self), self.data.moments()[1]

            def policy(alpha: float) -> Policy:
                return Rerank(interpolate(start, trained, alpha) if trained else start, reward, alpha * full / scale)

            if run.keep is not None and (base := self._start_ndcg):
                alpha, _ = largest_interpolation(lambda alpha: self._ndcg(policy(alpha)) / base, run.keep)
            self._reranked[key] = policy(alpha), alpha * full
        return self._reranked[key]

    @functools.cached_property
    def _start_ndcg(self) -> float:
        return self._ndcg(self.start)

    def _ndcg(self, policy: Policy) -> float:
        """On validation."""
        loader = self.data.loader(self.data.windows("validation", "A"))
        return ndcg(policy.eval().to(self.device), loader, self.device)


SAME_FOR_ALL: dict[str, Callable[[RewardData], Policy]] = {
    "popularity": lambda data: popularity(data.sequences),
    "popularity_high": lambda data: popularity(data.sequences, high_only=True),
    "item_mean": lambda data: SameForAll(torch.from_numpy(data.moments()[2]) / data.moments()[1]),
}
"""Rows that rank items in the same order for everybody; `item_mean` by shrunk means, in standard deviations."""

RERANKED: dict[str, Callable[[LoadedNetworks], RewardEnsemble | ItemMeans]] = {
    "rerank": lambda nets: nets.reward,
    "rerank_item_mean": lambda nets: ItemMeans(torch.from_numpy(nets.data.moments()[2])),
}
"""Rows that rerank the starting policy, each with the rewards that it does so by."""

UNTRAINED = (*SAME_FOR_ALL, "start", *RERANKED)
"""Rows that take no training of their own."""


@torch.no_grad()
def interpolate(start: Policy, trained: Policy, alpha: float) -> Policy:
    """The policy whose weights are start + alpha (trained - start), as `recalign.posttrain.KeepRanking` goes back."""
    policy = copy.deepcopy(trained)
    for weight, first in zip(policy.parameters(), trained.origin(start), strict=True):
        weight.copy_(torch.lerp(first.to(weight), weight, alpha))
    return policy


def _truth(data: RewardData) -> Path | None:
    return data_root(data.root) / data.log_.truth if data.log_.truth else None


def _kept_key(place: Path) -> str | None:
    """The key of what is there, if all of it is."""
    kept = all((place / name).is_file() for name in ("test.parquet", "validation.parquet", examples.FILE))
    return read_json(place / "summary.json").get("key") if kept else None


def _coverage(frame: pl.DataFrame, num_items: int) -> float:
    """Share of the catalogue that is shown to anybody."""
    shown = frame["shown"].explode().unique()
    return shown.filter(shown > 0).len() / num_items
