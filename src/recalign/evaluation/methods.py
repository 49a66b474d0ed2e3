"""Evaluate methods: one folder a method and seed, kept until anything that it depends on changes."""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from recalign import artifacts
from recalign.data.events import data_root
from recalign.evaluation.baselines import ItemScores, Scores
from recalign.evaluation.comparison import EVALUATED, JUDGE_UNIT, TESTED, UNIT, USER_SPREAD
from recalign.evaluation.evaluated_runs import JUDGED
from recalign.evaluation.judges import data_of_judges, require_apart
from recalign.evaluation.reranking import RERANKING, Reranking
from recalign.evaluation.rows import READS_REWARD_MODEL, Row, row_of
from recalign.evaluation.validation_ranking import ValidationRanking
from recalign.evaluation.value import Scorers, evaluate, load_truth, mean_rewards
from recalign.files import digest, sha256, write_json, write_parquet
from recalign.recommender.checkpoint import Loaded, check_catalogue, load_net
from recalign.recommender.interpolation import ALL_RETAINED, Retention, alpha_within_budget
from recalign.recommender.module import CLONED
from recalign.recommender.policy import Policy
from recalign.reward import RewardData, RewardEnsemble
from recalign.reward.placebo import as_placebo

BASE_STAGES = ("recommender", "reward", "judge_select", "judge_report")
"""Stages that come before every method, in order."""
EXTRAS = ("recalign.evaluation.random_exposure.of_methods", "recalign.evaluation.examples.of_methods")
"""Functions that tell more of each method: from the `LoadedNetworks`, the policies and the frames of the test by
method, by method the figures for its summary and the contents of JSON files by name."""


@dataclass(frozen=True)
class BaseCheckpoints:
    """The checkpoints that all methods of a seed share: the cloned policy, the reward model and the judges."""

    start: Path
    reward: Path
    judge_select: Path
    judge_report: Path

    def digests(self) -> dict[str, str]:
        """SHA-256 of each."""
        return {name: sha256(path) for name, path in vars(self).items()}


@dataclass(frozen=True)
class MethodRun:
    """A method of one seed.

    Attributes:
        method: its name.
        checkpoint: of its policy, of the policy that it reranks, or of its own reward model; None where
            none was trained.
        cost: plain numbers that go with it (``cost/seconds``, ``cost/steps``, ``cost/events``), and what its run says
            of itself (``placebo/correlation``).
        strength: of reranking, 1 / lambda in 1 / standard deviation of the reward; of ``popularity_tilt``, of log
            counts. With `keep`, that at alpha 1 of the interpolation path.
        keep: share of the start's ``all/ndcg@10`` on validation that reranking must keep (`Retention.enough`); None:
            any, at `strength`.
    """

    method: str
    checkpoint: Path | None
    cost: Mapping[str, float] = field(compare=False)
    strength: float = 1.0
    keep: float | None = None

    @property
    def row(self) -> Row:
        """What its method is."""
        return row_of(self.method)

    def key(self, base: Mapping[str, str], data: RewardData, code: str) -> dict[str, Any]:
        """All that its figures depend on."""
        truth = _truth(data)  # which the log's digest does not know
        return {
            "method": self.method,
            "checkpoint": self.checkpoint and sha256(self.checkpoint),
            **base,
            "data": [data.fingerprint, data.max_length, data.know_request, data.sample],
            "truth": sha256(truth) if truth and truth.is_file() else None,
            "reranking": [self.strength, self.keep] if self.row.reranked else None,
            "code": code,
        }


@dataclass(frozen=True)
class SeedEvaluation:
    """The methods of one seed to evaluate (`recalign.artifacts.Kept`), each kept until what it depends on changes.

    Publishes ``<folder>/<method>/seed-<n>/evaluation/``: ``{test,validation}.parquet``, ``summary.json``,
    ``examples.json``; of a log with random exposure also ``offpolicy.json`` (`random_exposure.measure`).

    Attributes:
        folder: of the chain.
        runs: the methods.
        base: the checkpoints that they share.
        data: the log, users A.
        code: digest of the code that evaluates, which goes into every key.
    """

    folder: Path
    seed: int
    runs: Sequence[MethodRun]
    base: BaseCheckpoints
    data: RewardData
    device: torch.device
    code: str

    @property
    def name(self) -> str:
        return f"the evaluation of seed {self.seed}"

    @functools.cached_property
    def _digests(self) -> dict[str, str]:
        return self.base.digests()

    @functools.cached_property
    def _keys(self) -> dict[str, dict[str, Any]]:
        titles = {"titles": self.data.titles_digest}
        return {run.method: run.key(self._digests, self.data, self.code) | titles for run in self.runs}

    @functools.cached_property
    def _states(self) -> dict[str, artifacts.State]:
        return {run.method: artifacts.check(self._place(run.method), self._keys[run.method]) for run in self.runs}

    def _place(self, method: str) -> Path:
        return self.folder / method / f"seed-{self.seed}" / "evaluation"

    def state(self) -> artifacts.State:
        """Whether all methods have been evaluated, and what was altered or has changed of any since."""
        found = self._states
        altered = [f"{method}/{name}" for method, state in found.items() for name in state.altered]
        changed = dict.fromkeys(name for state in found.values() for name in state.changed)
        return artifacts.State(all(state.sealed for state in found.values()), altered, list(changed))

    def load(self) -> list[str]:
        """The methods that this call has evaluated: none."""
        return []

    def make(self) -> list[str]:
        """Evaluate the methods whose evaluation is missing or out of date. Returns these."""
        stale = [run for run in self.runs if not self._states[run.method].fresh]
        if not stale:
            return []
        nets = LoadedNetworks(self.base, self.data, self.device)
        policies = {run.method: nets.policy(run) for run in stale}
        of = functools.partial(evaluate, policies, nets.scorers, self.data, device=self.device)
        frames = {"validation": of("validation"), "test": of("test")}
        extras = [pkgutil.resolve_name(path)(nets, policies, frames["test"]) for path in EXTRAS]
        spread = _spread(self.data, nets.judges[-1] if "judge@10" in nets.scorers.own_data else None)
        base = digest(self.data.fingerprint, self._digests)[:16]
        for run in stale:
            test = frames["test"][run.method]
            items = test["shown"].explode().unique()
            summary = {"base": base, "method": run.method, "seed": self.seed, "log": self.data.log_.name}
            summary |= {"cold_targets": test["cold"].cast(float).mean()}
            summary |= {"coverage@10": items.filter(items > 0).len() / self.data.num_items, **run.cost, **spread}
            summary |= {EVALUATED: test["user"].n_unique()}
            if self.data.sample is not None:
                summary |= {TESTED: self.data.users_tested("A")}
            if not run.row.policy:  # counted rows have no interpolation path, and so no NDCG budget
                summary |= nets.retained(run, policies[run.method])
            if run.row.reranked:
                summary |= nets.reranking(run)
            files: dict[str, Any] = {}
            for extra in extras:
                figures, own = extra.get(run.method, ({}, {}))
                summary, files = summary | figures, files | own
            place, key = self._place(run.method), self._keys[run.method]
            paths = vars(self.base) | ({"checkpoint": run.checkpoint} if run.checkpoint else {})
            made_of = {artifacts.named(path, place, self.folder): key[name] for name, path in paths.items()}
            with artifacts.publish(place, key, made_of) as part:
                for name, by_method in frames.items():
                    write_parquet(by_method[run.method].drop("shown"), part / f"{name}.parquet")
                for name, content in (files | {"summary.json": summary}).items():
                    write_json(part / name, content)
        return [run.method for run in stale]


class LoadedNetworks:
    """The networks of one seed, each loaded once."""

    def __init__(self, base: BaseCheckpoints, data: RewardData, device: torch.device) -> None:
        self.data, self.device = data, device
        self.start: Policy = self._load(base.start, "policy").net
        reward, *self.judges = (
            self._load(path, "reward") for path in (base.reward, base.judge_select, base.judge_report)
        )
        reward.check(data)
        require_apart(self.judges, reward, data.sequences)
        self.reward: RewardEnsemble = reward.net
        select, report = (judge.net for judge in self.judges)
        rewards = {"reward_model@10": reward.net, "select_judge@10": select, "judge@10": report}
        truth = _truth(data)
        read = zip(("select_judge@10", "judge@10"), data_of_judges(self.judges, data), strict=True)
        own_data = {figure: own for figure, own in read if own is not data}
        self.scorers = Scorers(self.start, rewards, load_truth(truth, data.sequences) if truth else None, own_data)
        self._ranking = ValidationRanking(self.start, data, device)
        self.reranked = functools.cache(self._reranked)
        self._trained = functools.cache(self._load_trained)

    def _load(self, path: Path, net: str) -> Loaded:
        loaded = load_net(path, net)
        check_catalogue(loaded.catalogue, self.data.sequences.catalogue, str(path))
        return loaded

    def policy(self, run: MethodRun) -> Policy:
        """The policy of a row."""
        if run.row.reranked:
            return self.reranked(run).policy(self.start, self._reranks(run), self.scores(run))
        if run.checkpoint is not None:
            return self._trained(run.checkpoint).net
        return run.row.policy(self.data) if run.row.policy else self.start

    def _reranks(self, run: MethodRun) -> Policy | None:
        """The trained policy that a row reranks; None: the start."""
        return self._trained(run.checkpoint).net if run.checkpoint and run.row.base else None

    def scores(self, run: MethodRun) -> tuple[Scores, float]:
        """The scores by which a row reranks, and their unit."""
        assert run.row.scores is not None
        own = run.checkpoint if run.row.trained else None
        return run.row.scores(self._trained(own, "reward").net if own else self.reward, self.data)

    def _load_trained(self, checkpoint: Path, net: str = "policy") -> Loaded:
        trained = self._load(checkpoint, net)
        if not trained.facts.get(CLONED):  # as the start
            require_apart(self.judges, trained, self.data.sequences)
        return trained

    def retained(self, run: MethodRun, policy: Policy) -> dict[str, float]:
        """NDCG retained, its standard error, and alpha, where that was searched."""
        kept = ALL_RETAINED if policy is self.start else self._retention(policy)
        found = {"policy/ndcg_retained": kept.share, "policy/ndcg_retained_se": kept.error}
        if run.row.reranked:
            alpha = None if run.keep is None else self.reranked(run).alpha
        else:
            alpha = self._trained(run.checkpoint).facts.get("reach") if run.checkpoint else None
        return found if alpha is None else found | {"policy/alpha": alpha}

    def reranking(self, run: MethodRun) -> dict[str, Any]:
        """How a row reranks: its strength, by what, and whether that is the reward model."""
        found, reads = self.reranked(run), not isinstance(self.scores(run)[0], ItemScores)
        figures = {READS_REWARD_MODEL: max(float(reads), run.cost.get(READS_REWARD_MODEL, 0.0))}
        if run.row.permuted:
            figures |= as_placebo(self.data).facts()
        return figures | {"policy/strength": found.strength, RERANKING: found.record(self.data)}

    def _retention(self, policy: Policy) -> Retention:
        return Retention.measure(self._ranking.ndcg_by_user(policy), self.start_U)

    def _reranked(self, run: MethodRun) -> Reranking:
        """How a row reranks, at the NDCG budget where one is asked for.

        A trained policy is reranked as strongly as the start may be; its weights and the strength share one path.
        """
        full, trained, scores = run.strength, self._reranks(run), self.scores(run)
        if trained:
            full = self.reranked(replace(run, method="rerank", checkpoint=None)).strength

        def at(alpha: float) -> Reranking:
            return Reranking(alpha * full, alpha)

        def kept(alpha: float) -> Retention:
            return self._retention(at(alpha).policy(self.start, trained, scores))

        return at(alpha_within_budget(kept, run.keep)[0] if run.keep is not None and self.start_U.any() else 1.0)

    @functools.cached_property
    def start_U(self) -> np.ndarray:
        """NDCG@10 of the start by user, which an NDCG budget is a share of. Shape: float64 (U,)."""
        return self._ranking.ndcg_by_user(self.start)


def _truth(data: RewardData) -> Path | None:
    return data_root(data.root) / data.log_.truth if data.log_.truth else None


def _spread(data: RewardData, apart: Loaded | None) -> dict[str, Any]:
    """Standard deviations of the training rewards of users A, and of their mean rewards in the test.

    ``apart``, a judge with a reward of its own, has that of its training rewards, and says what it predicts.
    """
    if apart is not None:
        unit = float(apart.net.nets[0].scale)
        return {UNIT: data.moments()[1], JUDGE_UNIT: unit, JUDGED: apart.facts["reward"]}
    means = mean_rewards(data.sequences, "test")["reward"].drop_nulls()
    return {UNIT: data.moments()[1], USER_SPREAD: float(means.cast(pl.Float64).std() or 0.0)}  # type: ignore[arg-type]
