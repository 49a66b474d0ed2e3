"""The networks of every kind of row: NDCG budgets, reranking, known true rewards, judges with another reward."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recalign.data.events import data_root
from recalign.data.sequences import Batch, EventDataModule, Sequences
from recalign.data.sequences.preparation import with_reward_settings
from recalign.data.sequences.relative import RelativeTo
from recalign.data.sequences.store import SplitName
from recalign.data.sequences.user_sample import with_events
from recalign.errors import InputError
from recalign.evaluation.methods import JUDGED, UNIT, BaseCheckpoints, MethodRun, Networks
from recalign.evaluation.reranking import (
    READS_REWARD_MODEL,
    RERANKING,
    ItemScores,
    Rerank,
    RerankedRow,
    Reranking,
    Scores,
)
from recalign.evaluation.roles import WITHOUT_MEMORY
from recalign.nn import ranks_from_scores
from recalign.recommender.checkpoint import Loaded
from recalign.recommender.interpolation import (
    ALL_RETAINED,
    Retention,
    alpha_within_budget,
    budget_batches,
    ndcg_by_user,
    sums_by_user,
)
from recalign.recommender.policy import Policy, chunks, seen_within
from recalign.recommender.shown_ranking import ScoreShown, rank_shown
from recalign.reward import RewardData
from recalign.reward.placebo import as_placebo

JUDGE_UNIT = "judge/sd"
"""Standard deviation of the training rewards of judges with a reward of their own; `USER_SPREAD` is then unknown."""
TESTED = "users/tested"  # all users with test events; where a sample was evaluated
MAX_SCORES = 2**28  # events x items that are cached; with more, nothing is cached


class LoadedNetworks(Networks):
    """The networks of one seed for every kind of row, reranked rows and NDCG budgets among them."""

    def __init__(self, base: BaseCheckpoints, data: RewardData, device: torch.device) -> None:
        super().__init__(base, data, device)
        self.base = base
        truth = true_rewards_path(data)
        read = zip(("select_judge@10", "judge@10"), data_of_judges(self.judges, data), strict=True)
        self.scorers = replace(
            self.scorers,
            truth_UV=load_truth(truth, data.sequences) if truth else None,
            own_data={figure: own for figure, own in read if own is not data},
        )
        self._ranking = ValidationRanking(data, device)
        self.reranked, self.retained_at = functools.cache(self._reranked), functools.cache(self._retained_at)
        self._parts = functools.cache(self._parts_of)

    def policy(self, run: MethodRun) -> Policy:
        if isinstance(run.row, RerankedRow):
            return self.reranked(run.row, run.checkpoint).policy(self.start, *self._parts(run.row, run.checkpoint))
        return self.without_memory if run.method == WITHOUT_MEMORY else super().policy(run)

    @functools.cached_property
    def without_memory(self) -> Policy:
        """The start without its memory, with the item prior's strength that calibration found best without it."""
        if self.start.memory is None:
            return self.start
        loaded = self._load(self.base.start, "policy")
        loaded.net.remember(None)
        found = loaded.facts.get("prior", {})  # what was trained from a cloned policy has none
        loaded.net.prior_strength = found.get("strength_without_memory", loaded.net.prior_strength)
        return loaded.net

    def _parts_of(self, row: RerankedRow, checkpoint: Path | None) -> tuple[Policy | None, tuple[Scores, float]]:
        """The trained policy that a row reranks, None for the start; its scores, and their unit."""
        trained = self.trained(checkpoint).net if checkpoint and row.base else None
        own = self.trained(checkpoint, "reward").net if checkpoint and row.trained else None
        return trained, row.scores(own or self.reward, self.data)

    def _reranked(self, row: RerankedRow, checkpoint: Path | None) -> Reranking:
        """How a row reranks: if it has an NDCG budget, as strongly as that allows.

        A trained policy at alpha 1 is reranked as strongly as the start; alpha scales its weights and the strength.
        """
        if row.keep is None or not self.start_U.any():
            return self._at(row, checkpoint, 1.0)
        kept = functools.partial(self.retained_at, row, checkpoint)
        return self._at(row, checkpoint, alpha_within_budget(kept, row.keep)[0])

    def _at(self, row: RerankedRow, checkpoint: Path | None, alpha: float) -> Reranking:
        trained = self._parts(row, checkpoint)[0]
        full = self.reranked(replace(row, base=None), None).strength if trained else row.strength
        return Reranking(alpha * full, alpha)

    def _retained_at(self, row: RerankedRow, checkpoint: Path | None, alpha: float) -> Retention:
        policy = self._at(row, checkpoint, alpha).policy(self.start, *self._parts(row, checkpoint))
        return self.retention(policy)

    def retention(self, policy: Policy) -> Retention:
        """How much of the start's NDCG a policy keeps."""
        if policy is self.start:
            return ALL_RETAINED
        return Retention.measure(self._ranking.ndcg_by_user(policy), self.start_U)

    @functools.cached_property
    def start_U(self) -> np.ndarray:
        """NDCG@10 of the start by user, the reference of NDCG budgets. Shape: float64 (U,)."""
        return self._ranking.ndcg_by_user(self.start)

    def evaluated(self, policies: Mapping[str, Policy], split: SplitName) -> dict[str, pl.DataFrame]:
        """Adds how each policy ranks a request's items (`rank_shown`), at its first choice."""
        frames = super().evaluated(policies, split)
        if self.data.sequences.skipped is None:
            return frames

        def scores(policy: Policy) -> ScoreShown:
            return lambda batch, item_TC: policy.log_probs(policy.encode(batch), item_TC)

        found = rank_shown({name: scores(policy) for name, policy in policies.items()}, self.data, split, "A")
        on = {"on": "event", "how": "left", "maintain_order": "left"}
        return {name: frame.join(found[name], **on) for name, frame in frames.items()}  # type: ignore[arg-type]

    def reward_sds(self) -> dict[str, Any]:
        if "judge@10" not in self.scorers.own_data:
            return super().reward_sds()
        judge = self.judges[-1]
        return {
            UNIT: self.data.reward_moments().sd,
            JUDGE_UNIT: float(judge.net.nets[0].scale),
            JUDGED: judge.facts["reward"],
        }

    def retained(self, run: MethodRun, policy: Policy) -> dict[str, float]:
        """NDCG retained, its standard error, and alpha if that was searched."""
        if not isinstance(run.row, RerankedRow):
            kept = self.retention(policy)
            alpha = self.trained(run.checkpoint).facts.get("reach") if run.checkpoint else None
        else:  # at the alpha that was found
            found = self.reranked(run.row, run.checkpoint).alpha
            kept = self.retained_at(run.row, run.checkpoint, found)
            alpha = found if run.row.keep is not None else None
        figures = {"policy/ndcg_retained": kept.share, "policy/ndcg_retained_se": kept.error}
        return figures if alpha is None else figures | {"policy/alpha": alpha}

    def reranking(self, row: RerankedRow, run: MethodRun) -> dict[str, Any]:
        """How a row reranks: its strength, what serving needs, and whether it reads the reward model."""
        how, scores = self.reranked(row, run.checkpoint), self._parts(row, run.checkpoint)[1][0]
        reads = max(float(not isinstance(scores, ItemScores)), run.cost.get(READS_REWARD_MODEL, 0.0))
        figures = {READS_REWARD_MODEL: reads} | (as_placebo(self.data).facts() if row.permuted else {})
        return figures | {"policy/strength": how.strength, RERANKING: how.record(self.data)}


class ValidationRanking:
    """NDCG@10 of policies by user, on the events that an NDCG budget is measured on (`budget_batches`).

    A reranked policy adds scores, times a strength, to log-probabilities. Neither depends on the strength, so both are
    computed once for all strengths that are tried, where they fit into `MAX_SCORES`.
    """

    def __init__(self, data: EventDataModule, device: torch.device) -> None:
        self.data, self.device = data, device
        of_all = functools.lru_cache(2)  # usually the start and the scores that rerank it
        self._scores = of_all(lambda net: [over_items(net, batch, parts) for batch, parts in self._batches])

    @torch.no_grad()
    def ndcg_by_user(self, policy: Policy) -> np.ndarray:
        """NDCG@10 of a policy, summed over each user's events. Shape: float64 (U,), users with an event."""
        policy.eval().to(self.device)
        if not isinstance(policy, Rerank) or not self._batches:
            return ndcg_by_user(policy, budget_batches(self.data), self.device)
        known = zip(self._batches, self._scores(policy.policy), self._scores(policy.reward), strict=True)
        return sums_by_user((batch, ranks(policy, batch, parts, *scores)) for (batch, parts), *scores in known)

    @functools.cached_property
    def _batches(self) -> list[tuple[Batch, list[slice]]]:
        """All batches, with the slices in which they are scored; empty if the scores do not fit."""
        found, scores = list[tuple[Batch, list[slice]]](), 0
        for batch in budget_batches(self.data):
            scores += len(batch.target_T) * self.data.num_items
            if scores > MAX_SCORES:
                return []
            found.append((batch.to(self.device), chunks(len(batch.target_T), self.data.num_items)))
        return found


def ranks(policy: Rerank, batch: Batch, parts: Iterable[slice], logp_TV: Tensor, score_TV: Tensor) -> Tensor:
    """Rank of each target, from the tensors of `over_items`. Shape: (T, V), (T, V) -> int64 (T,)."""
    found = []
    for part in parts:
        seen = seen_within(batch.unranked_N, part)
        tilted_TV = policy.tilted(logp_TV[part], score_TV[part])
        found.append(ranks_from_scores(tilted_TV, batch.target_T[part] - 1, seen))
    return torch.cat(found)


def over_items(net: Policy | Scores, batch: Batch, parts: Iterable[slice]) -> Tensor:
    """Log-probabilities or scores of all items before each target of a batch. Shape: -> (T, V)."""
    if isinstance(net, Policy):
        state = net.encode(batch)
        return torch.cat([net.log_probs(state[part]) for part in parts])
    states_KTS = net.states(batch)
    return torch.cat([net.predict(states_KTS[:, part]) for part in parts])


def of_methods(nets: LoadedNetworks, policies: Mapping[MethodRun, Policy], events: Any) -> dict[str, Any]:
    """NDCG retained, reranking, and the users that were sampled from, by method (`methods.Measure`)."""
    found, log = dict[str, Any](), nets.data.sequences
    tested = {TESTED: int((log.users_in("A") & with_events(log)).sum())} if nets.data.sample is not None else {}
    for run, policy in policies.items():
        figures: dict[str, Any] = dict(tested)
        figures |= {} if run.row.counted else nets.retained(run, policy)  # counted rows have no NDCG budget
        figures |= nets.reranking(run.row, run) if isinstance(run.row, RerankedRow) else {}
        found[run.method] = figures, {}
    return found


def data_of_judges(judges: Iterable[Loaded], data: EventDataModule) -> list[EventDataModule]:
    """The data as each judge reads it: with its own reward in histories if it has one, else ``data`` itself.

    Raises:
        InputError: the rewards are not those that a judge was trained on.
    """
    known = {data.sequences.rewards_digest: data}  # several judges mostly have the same
    found = []
    for judge in judges:
        rewards = judge.facts.get("rewards", data.sequences.rewards_digest)
        if rewards not in known:
            relative = judge.facts.get("relative_to")
            own = with_reward_settings(data, judge.facts["reward"], RelativeTo(**relative) if relative else None)
            if own.sequences.rewards_digest != rewards:
                what = f"reward {judge.facts['reward']!r}, computed from this log, is not what the judge was trained on"
                remedy = "train the judges on this log, by this version of recalign"
                raise InputError(what, where=judge.where, remedy=remedy)
            known[rewards] = own
        found.append(known[rewards])
    return found


def true_rewards_path(data: RewardData) -> Path | None:
    """The file of a simulated log's true rewards."""
    return data_root(data.root) / data.log_.truth if data.log_.truth else None


def load_truth(path: Path, sequences: Sequences) -> Tensor:
    """True expected rewards by user index and item - 1, from the ``truth.npz`` of a simulated log (`simulation.write`).

    Raises:
        InputError: the file is missing, or lacks a user or an item.
    """
    if not path.is_file():
        raise InputError("the true rewards are missing", where=str(path), remedy="make the log: recalign simulate")
    with np.load(path) as file:
        reward, users, items = file["reward"], file["users"].tolist(), file["items"].tolist()
    row, column = {u: i for i, u in enumerate(users)}, {v: i for i, v in enumerate(items)}
    try:
        rows = [row[u] for u in sequences.users.to_list()]
        columns = [column[v] for v in sequences.items.to_list()]
    except KeyError as error:
        raise InputError(f"it has no user or item {error}", where=str(path), remedy="make the log again") from error
    return torch.from_numpy(reward[np.ix_(rows, columns)])
