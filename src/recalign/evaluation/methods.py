"""Evaluate the methods of one seed: load the networks that they share, and run each policy."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from recalign.data.sequences import Sequences
from recalign.data.sequences.store import SplitName
from recalign.errors import InputError
from recalign.evaluation.counted_rows import TableRow
from recalign.evaluation.value import Scorers, evaluate_policies, ranks_of_others, user_mean_rewards
from recalign.recommender.checkpoint import Loaded, check_catalogue, load_net
from recalign.recommender.cloning import CLONED
from recalign.recommender.policy import Policy
from recalign.reward import RewardData, RewardEnsemble

BASE_STAGES = ("recommender", "reward", "judge_select", "judge_report")
"""Stages that come before every method, in order."""
UNIT = "reward/sd"
"""Standard deviation of the training rewards of users A."""
USER_SPREAD = "reward/user_sd"
"""Standard deviation, over users A, of each user's mean reward in the test."""
EVALUATION_SPLITS: tuple[SplitName, ...] = ("test", "validation")
EVALUATED = "users/evaluated"
JUDGED = "judged"
"""Key in a summary: the judges' reward, if it is not the chain's."""


@dataclass(frozen=True)
class BaseCheckpoints:
    """The checkpoints that all methods of a seed share: the cloned policy, the reward model and the judges."""

    start: Path
    reward: Path
    judge_select: Path
    judge_report: Path


@dataclass(frozen=True)
class MethodRun:
    """A method of one seed.

    Attributes:
        method: its name.
        checkpoint: of its policy, of the policy that it reranks, or of its own reward model; None if nothing was
            trained.
        cost: plain numbers of its training (``cost/seconds``, ``cost/steps``, ``cost/events``), and what its run
            reports (``placebo/correlation``).
        row: how it gets its policy.
    """

    method: str
    checkpoint: Path | None
    cost: Mapping[str, float] = field(compare=False)
    row: TableRow


@dataclass(frozen=True)
class Evaluation:
    """What was measured of a method.

    Attributes:
        events: a row per event (`value.evaluate_policies`), by split of the log.
        summary: plain values by name, metrics among them.
        files: contents of further JSON files, by file name.
    """

    events: dict[str, pl.DataFrame]
    summary: dict[str, Any]
    files: dict[str, Any] = field(default_factory=dict)


class Networks:
    """The networks of one seed, each loaded once.

    Raises:
        InputError: a checkpoint cannot be read or is of another log, or judges are not independent.
    """

    def __init__(self, base: BaseCheckpoints, data: RewardData, device: torch.device) -> None:
        self.data, self.device = data, device
        self.start: Policy = self._load(base.start, "policy").net
        reward, *self.judges = (
            self._load(path, "reward") for path in (base.reward, base.judge_select, base.judge_report)
        )
        reward.check(data)
        require_independent(self.judges, reward, data.sequences)
        self.reward: RewardEnsemble = reward.net
        select, report = (judge.net for judge in self.judges)
        rewards = {"reward_model@10": reward.net, "select_judge@10": select, "judge@10": report}
        self.scorers = Scorers(self.start, rewards)
        self.trained = functools.cache(self._load_trained)

    def _load(self, path: Path, net: str) -> Loaded:
        loaded = load_net(path, net)
        check_catalogue(loaded.catalogue, self.data.sequences.catalogue, str(path))
        return loaded

    def _load_trained(self, checkpoint: Path, net: str = "policy") -> Loaded:
        trained = self._load(checkpoint, net)
        if not trained.facts.get(CLONED):  # cloned policies are exempt, as the start is
            require_independent(self.judges, trained, self.data.sequences)
        return trained

    def policy(self, run: MethodRun) -> Policy:
        """The policy of a row."""
        if run.checkpoint is not None:
            return self.trained(run.checkpoint).net
        return run.row.counted(self.data) if run.row.counted else self.start

    def evaluated(self, policies: Mapping[str, Policy], split: SplitName) -> dict[str, pl.DataFrame]:
        """The events of a split under each policy (`evaluate_policies`)."""
        return evaluate_policies(policies, self.scorers, self.data, split, self.device)

    def reward_sds(self) -> dict[str, Any]:
        """Standard deviations of rewards: the units in which differences in value are read."""
        means = user_mean_rewards(self.data.sequences, "test")["reward"].drop_nulls()
        return {UNIT: self.data.reward_moments().sd, USER_SPREAD: float(means.cast(pl.Float64).std() or 0.0)}  # type: ignore[arg-type]


def require_independent(judges: Iterable[Loaded], other: Loaded, sequences: Sequences) -> None:
    """Refuse judges that share users with the table (users A), with one another, or with another network.

    Args:
        other: the training reward model or a post-trained policy. Not the cloned policy: it read everybody's choices,
            and rewards of users A at most.

    Raises:
        InputError: they share users, or a checkpoint does not say who its users were.
    """
    trained_on = [("the comparison (users A)", sequences.users_in("A")), (other.where, _users(other, sequences))]
    for judge in judges:
        judge_U = _users(judge, sequences)
        for name, users_U in trained_on:
            if shared := int((judge_U & users_U).sum()):
                text = f"this judge shares {shared:,} training users with {name}"
                remedy = "train one judge on users B1, the other on B2 (data.users), with the same data.share_a"
                raise InputError(text, where=judge.where, remedy=remedy)
        trained_on.append((judge.where, judge_U))


def _users(loaded: Loaded, sequences: Sequences) -> np.ndarray:
    if loaded.users is None:
        text = "this checkpoint does not record which users it was trained on"
        raise InputError(text, where=loaded.where, remedy="train it again with this version of recalign")
    return loaded.users.mask(sequences, loaded.where)


Measured = Mapping[str, tuple[dict[str, Any], dict[str, Any]]]
"""For each method: further metrics by name, and contents of JSON files by name."""
Measure = Callable[[Any, Mapping[MethodRun, Policy], Mapping[str, pl.DataFrame]], Measured]
"""Computes further metrics from the networks, the policies, and each method's test events."""


def coverage(shown: pl.Series, items: int) -> float:
    """Share of ``items`` that are in one of the lists; 0 in a list is a place without an item."""
    distinct = shown.explode().unique()
    return distinct.filter(distinct > 0).len() / items


def evaluate_methods(runs: Sequence[MethodRun], nets: Networks, measures: Iterable[Measure] = ()) -> list[Evaluation]:
    """Evaluate methods on the validation and test events of users A, and apply ``measures``.

    Test events also cover users B (``in_a`` is false), with ranks only; not if only a sample of users A is evaluated.

    Returns:
        An evaluation for each run.
    """
    policies = {run: nets.policy(run) for run in runs}
    named = {run.method: policy for run, policy in policies.items()}
    events = {split: nets.evaluated(named, split) for split in EVALUATION_SPLITS}
    others = {} if nets.data.sample else ranks_of_others(named, nets.data, "test", nets.device)
    measurements = [measure(nets, policies, events["test"]) for measure in measures]
    sds, evaluations = nets.reward_sds(), []
    for run in runs:
        test = events["test"][run.method]
        summary = {"log": nets.data.log_.name, "cold_targets": test["not_in_catalogue"].cast(float).mean()}
        summary |= {"coverage@10": coverage(test["shown"], nets.data.num_items), **run.cost, **sds}
        summary |= {EVALUATED: test["user"].n_unique()}
        frames: dict[str, pl.DataFrame] = {
            split: by_method[run.method].drop("shown").with_columns(in_a=True) for split, by_method in events.items()
        }
        if run.method in others:
            of_others = others[run.method].with_columns(in_a=False)
            frames["test"] = pl.concat([frames["test"], of_others], how="diagonal").sort("event")
        evaluation = Evaluation(frames, summary)
        for measured in measurements:
            metrics, files = measured.get(run.method, ({}, {}))
            evaluation.summary.update(metrics)
            evaluation.files.update(files)
        evaluations.append(evaluation)
    return evaluations
