"""Evaluate policies on the events of users A: ranks of their items, and what judges expect of the items shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import polars as pl
import polars.selectors as cs
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from recalign.data.sequences import Batch, EventDataModule, Sequences
from recalign.data.sequences.store import SPLITS, Group, SplitName
from recalign.errors import InputError
from recalign.nn import ranks_from_scores
from recalign.recommender.policy import Policy, State, chunks, seen_within
from recalign.reward import RewardEnsemble

TOP_K = 10  # items that a policy shows
JUDGE_GROUPS: tuple[Group, ...] = ("B1", "B2")  # users of judges, on whom no values are measured


class BatchEncodings:
    """States of one batch by network: policies that share a network share its state."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self._state_of: dict[int, Any] = {}  # by id of the network

    def state(self, policy: Policy) -> State:
        """A policy's state of the batch."""
        return policy.encode_shared(self) if isinstance(policy, Composed) else self._once(policy, policy.encode)

    def reward_state(self, reward: Any) -> Tensor:
        """The states of a `RewardEnsemble`, or of other scores with this method, for the batch."""
        return self._once(reward, reward.states)

    def _once(self, network: nn.Module, encode: Callable[[Batch], Any]) -> Any:
        if id(network) not in self._state_of:
            self._state_of[id(network)] = encode(self.batch)
        return self._state_of[id(network)]


@runtime_checkable
class Composed(Protocol):
    """A policy made of networks that other policies may share, such as a reranked one."""

    def encode_shared(self, encodings: BatchEncodings) -> State: ...


@dataclass(frozen=True)
class Scorers:
    """The models that score the items a policy shows."""

    start: Policy  # from which the KL is measured
    rewards: Mapping[str, RewardEnsemble] = field(default_factory=dict)  # by metric: judge@10, reward_model@10, ...
    truth_UV: Tensor | None = None  # true expected rewards by user index and item - 1, where they are known
    own_data: Mapping[str, EventDataModule] = field(default_factory=dict)  # by metric, of judges with their own reward


@torch.no_grad()
def evaluate_policies(
    policies: Mapping[str, Policy], scorers: Scorers, data: EventDataModule, split: SplitName, device: torch.device
) -> dict[str, pl.DataFrame]:
    """Run policies over the targets of users A; all networks are moved to the device.

    Returns:
        A frame for each method, with a row for each target event. Columns: ``user, event, rank`` (0: a miss, the item
        is not in the catalogue), ``not_in_catalogue, high, high_user`` and the metrics of the policy at that history:
        the scorers' mean over the ten unseen items shown; where the truth is known, ``true@10`` and ``true`` (expected
        true reward under the policy over unseen items); ``kl`` (to the start), ``entropy``, ``popularity@10`` (mean
        popularity percentile of the items shown), ``changed@10`` (share of the ten items that the start shows which are
        not shown); and ``shown``, the ten items. Metrics of items shown are null where the user had met every item.

    Raises:
        InputError: users A have nothing to evaluate on in this split.
    """
    windows = data.windows(split, "A")
    if not len(windows):
        remedy = "choose another split, a larger data.share_a, or a log with more users"
        raise InputError(f"no user of A has a {split} event with history before it", where="data.split", remedy=remedy)
    count_V = data.sequences.item_counts()
    count_W = torch.from_numpy(np.append(0, count_V))  # by item, 0 for one that training never saw
    percentile_V = np.searchsorted(np.sort(count_V), count_V) / len(count_V)  # share of items with fewer events
    percentile_W = torch.from_numpy(np.append(0, percentile_V)).float()
    networks: list[nn.Module] = [*policies.values(), scorers.start, *scorers.rewards.values()]
    for network in networks:
        network.eval().to(device)
    own_data = {metric: own for metric, own in scorers.own_data.items() if metric in scorers.rewards}
    own_batches = {metric: iter(own.loader(windows, seen=False)) for metric, own in own_data.items()}
    collected: dict[str, list[pl.DataFrame]] = {name: [] for name in policies}
    loader, console = data.loader(windows), Console(stderr=True)
    batches = track(loader, f"evaluating {split}", console=console, transient=True, disable=not console.is_terminal)
    for cpu_batch in batches:
        batch = cpu_batch.to(device)
        encodings = BatchEncodings(batch)
        states = {name: encodings.state(policy) for name, policy in policies.items()}
        start_state = encodings.state(scorers.start)
        own = {name: BatchEncodings(next(batches).to(device)) for name, batches in own_batches.items()}
        reward_states = {name: own.get(name, encodings).reward_state(net) for name, net in scorers.rewards.items()}
        events = {"user": batch.user_B[batch.row_T], "event": batch.event_T, "high": batch.high_T}
        events |= {"not_in_catalogue": batch.target_T == 0, "count": count_W[cpu_batch.target_T]}
        for part in chunks(len(batch.target_T), data.num_items):  # events x items may not fit into memory
            start_TV = scorers.start.log_probs(start_state[part])
            start_TK = scorers.start.lists.top_k_from_scores(start_TV, TOP_K, seen_within(batch.seen_N, part))[1] + 1
            for name, policy in policies.items():
                row = {column: value[part] for column, value in events.items()}
                row |= _of_policy(policy, states[name][part], batch, part, start_TV, scorers.truth_UV)
                shown_TK = row["shown"]
                for metric, net in scorers.rewards.items():
                    value_TK = net.predict(reward_states[metric][:, part], shown_TK.clamp(min=1))
                    row[metric] = mean_shown(value_TK, shown_TK)
                dropped_TK = (start_TK[:, :, None] != shown_TK[:, None]).all(dim=2)
                row["changed@10"] = mean_shown(dropped_TK, start_TK)
                row["popularity@10"] = mean_shown(percentile_W.to(shown_TK.device)[shown_TK], shown_TK)
                collected[name].append(pl.DataFrame({column: value.cpu().numpy() for column, value in row.items()}))
    means = user_mean_rewards(data.sequences, split)
    frames = {name: _frame(pl.concat(frames), means) for name, frames in collected.items()}
    if idle := max((frame["popularity@10"].null_count() for frame in frames.values()), default=0):
        rank_zero_warn(f"before {idle:,} {split} events the user had met every item: no list is shown or valued")
    return frames


@torch.no_grad()
def ranks_of_others(
    policies: Mapping[str, Policy], data: EventDataModule, split: SplitName, device: torch.device
) -> dict[str, pl.DataFrame]:
    """Run policies over the targets of users B, whose rewards train judges: NDCG retained is measured on all users.

    Returns:
        A frame for each method: ``user, event, rank``, as in `evaluate_policies`.
    """
    collected: dict[str, list[pl.DataFrame]] = {name: [] for name in policies}
    for group in JUDGE_GROUPS:
        for cpu_batch in data.loader(data.windows(split, group)):
            batch = cpu_batch.to(device)
            encodings = BatchEncodings(batch)
            events = {"user": cpu_batch.user_B[cpu_batch.row_T].numpy(), "event": cpu_batch.event_T.numpy()}
            for name, policy in policies.items():
                rank_T = policy.ranks(encodings.state(policy), batch.target_T, batch.unranked_N)
                collected[name].append(pl.DataFrame(events | {"rank": rank_T.cpu().numpy()}))
    empty = pl.DataFrame(schema=dict.fromkeys(("user", "event", "rank"), pl.UInt32))
    return {name: pl.concat([empty, *(part.cast(empty.schema) for part in parts)]) for name, parts in collected.items()}


def _of_policy(
    policy: Policy, state: State, batch: Batch, rows: slice, start_TV: Tensor, truth_UV: Tensor | None
) -> dict[str, Tensor]:
    """Metrics of a policy for a slice of states: KL, entropy, the target's rank, items shown, their true rewards."""
    assert batch.seen_N is not None
    logp_TV, seen = policy.log_probs(state), seen_within(batch.seen_N, rows)
    p_TV = logp_TV.exp()
    row = {"kl": (p_TV * (logp_TV - start_TV)).sum(dim=1), "entropy": -(p_TV * logp_TV).sum(dim=1)}
    row["rank"] = ranks_from_scores(logp_TV, batch.target_T[rows] - 1, seen_within(batch.unranked_N, rows))
    row["shown"] = policy.lists.top_k_from_scores(logp_TV, TOP_K, seen)[1] + 1
    if truth_UV is not None:
        truth_TV = truth_UV[batch.user_B[batch.row_T[rows]].cpu()].to(logp_TV.device)
        row["true"] = (over_unseen(logp_TV, batch.seen_N, rows) * truth_TV).sum(dim=1)
        row["true@10"] = mean_shown(truth_TV.gather(1, (row["shown"] - 1).clamp(min=0)), row["shown"])
    return row


def over_unseen(logp_TV: Tensor, seen_N: Tensor, rows: slice) -> Tensor:
    """Probabilities for a slice of states, renormalised over the items that a user had not met; 0 for all others.

    Shape: (T, V), int64 (2, N) pairs (state, item) that were met, of all states -> (T, V).
    """
    unseen_TV = logp_TV.clone()
    unseen_TV[seen_within(seen_N, rows)] = -torch.inf
    return unseen_TV.softmax(dim=1).masked_fill(unseen_TV.isneginf().all(dim=1, keepdim=True), 0.0)


def mean_shown(value_TK: Tensor, shown_TK: Tensor) -> Tensor:
    """Mean over the items shown, 0 if there are none; item 0 is padding."""
    real_TK = shown_TK > 0
    return (value_TK * real_TK).sum(dim=1) / real_TK.sum(dim=1).clamp(min=1)


def user_mean_rewards(sequences: Sequences, split: SplitName) -> pl.DataFrame:
    """Users of A with an event in the split, and their mean ``reward`` in it; null if none has a reward."""
    chosen = pl.Series(sequences.users_in("A")).gather(sequences.frame["user"])
    events = sequences.frame.filter(chosen & (pl.col("split") == SPLITS[split]))
    return events.group_by("user", maintain_order=True).agg(pl.col("reward").mean())


def _frame(events: pl.DataFrame, means: pl.DataFrame) -> pl.DataFrame:
    """A method's events in their order, with the tail, and with the users whose mean reward is above the median."""
    frame = events.cast({cs.integer(): pl.UInt32, cs.float(): pl.Float64, "shown": pl.Array(pl.UInt32, TOP_K)})
    of_shown = cs.float() - cs.by_name("kl", "entropy")
    frame = frame.with_columns(pl.when(pl.col("shown").arr.max() > 0).then(of_shown))
    frame = frame.with_columns(tail=pl.col("count") < pl.col("count").median()).drop("count")
    above = (pl.col("reward") > pl.col("reward").median()).fill_null(False)
    users = means.select(pl.col("user").cast(pl.UInt32), high_user=above)
    return frame.join(users, on="user", how="left", maintain_order="left").sort("event")
