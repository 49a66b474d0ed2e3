"""Check that a bundle answers as its policy does: repeat the evaluation on the exported graph.

Test events are asked for twice. First with evaluation's own windows: every list and log-probability must match the
policy's. Then as real requests, which have the newest events before each target. If the policy reads 200 events, an
evaluation window gives a target its newest 100 to 200, a request always 200.

Shape suffixes: T targets, V items, N = V + 1 items with the padding item at 0, K items shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import numpy as np
import polars as pl
import torch

from recalign.bootstrap import CrossedBootstrap
from recalign.data.sequences import Batch, EventDataModule
from recalign.data.sequences.user_sample import sample_users
from recalign.data.sequences.windows import Windows, evaluation_windows
from recalign.errors import InputError
from recalign.evaluation.value import TOP_K
from recalign.nn import ranks_from_scores, top_k_from_scores
from recalign.recommender import Policy
from recalign.recommender.policy import chunks, seen_within
from recalign.recommender.rank_metrics import gain_ndcg
from recalign.serve.server.bundle import Bundle
from recalign.serve.server.catalogue import MICRO, Encoded
from recalign.serve.server.request import MAX_HISTORY, Request

USERS = 10_000
"""Most users to verify; of more, a fixed sample is drawn."""


@dataclass
class Verified:
    """The result of comparing a bundle with its policy.

    Attributes:
        targets, users: numbers of test events, and of their users.
        lists: number of targets whose top 10 equals the policy's.
        tied: number whose top 10 differs only in items with log-probabilities within `tolerance`.
        other: number whose top 10 differs otherwise.
        difference: largest absolute difference of a log-probability.
        evaluation: NDCG@10 of the policy in evaluation's windows, with its 95 % interval over users.
        tolerance: difference up to which two log-probabilities count as equal (`BundleConfig.rounding`).
        request: NDCG@10 of the bundle for real requests, with its 95 % interval.
        repeated: targets already in the user's history. A request leaves such items out; evaluation ranks them.
    """

    targets: int = 0
    users: int = 0
    lists: int = 0
    tied: int = 0
    other: int = 0
    difference: float = 0.0
    tolerance: float = 0.0
    evaluation: list[float] = field(default_factory=list)
    request: list[float] = field(default_factory=list)
    repeated: int = 0

    def __str__(self) -> str:
        return (
            f"{self.lists:,} of {self.targets:,} lists of {TOP_K} are those of the policy, {self.tied:,} have ties in "
            f"another order, {self.other:,} differ; log-probabilities differ by {self.difference:.1e} at most\n"
            f"NDCG@10 of all {self.users:,} users (a chain's table has group A alone): {self.evaluation[0]:.4f} as the "
            "evaluation asks, {:.4f} [{:.4f}, {:.4f}] as requests do. Requests leave out items met before, here "
            f"{self.repeated:,} of the targets"
        ).format(*self.request)


@torch.no_grad()
def verify(policy: Policy, data: EventDataModule, bundle: Bundle) -> Verified:
    """Repeat the evaluation on a bundle.

    Raises:
        InputError: its answers differ from its policy's, or no test event has a history.
    """
    windows = windows_to_verify(data)
    found = Verified(tolerance=bundle.about.rounding)
    users, gains = [], []
    for batch in data.loader(windows):
        assert batch.seen_N is not None
        state, encoded = policy.encode(batch), list(_of_batch(batch, bundle.catalogue.strength(None)))
        for part in chunks(len(batch.target_T), policy.num_items):
            logp_TV, seen = policy.log_probs(state[part]), seen_within(batch.seen_N, part)
            _compare(logp_TV, top_k_from_scores(logp_TV, TOP_K, seen)[1] + 1, encoded[part], bundle, found)
            unranked = seen_within(batch.unranked_N, part)
            gains.append(gain_ndcg(ranks_from_scores(logp_TV, batch.target_T[part] - 1, unranked), TOP_K).numpy())
        users.append(batch.user_B[batch.row_T].numpy())
    user_T = np.concatenate(users)
    found.targets, found.users = len(user_T), len(np.unique(user_T))
    found.evaluation = _interval(np.concatenate(gains), user_T)
    if found.other or found.difference > found.tolerance:
        what = f"the answers of the bundle differ from those of its policy: {asdict(found)}"
        raise InputError(what, where=str(bundle.folder), remedy="report this as a bug; nothing was written")
    user_T = np.repeat(windows.user, np.diff(windows.offset))  # batches have another order
    gain_T, found.repeated = _as_requests(windows, user_T, data, bundle)
    found.request = _interval(gain_T, user_T)
    return found


def windows_to_verify(data: EventDataModule) -> Windows:
    """Windows of the test events: of all users or, if they are more than `USERS`, of a fixed sample."""
    sequences = data.sequences
    users = sample_users(sequences, np.ones(sequences.num_users, bool), USERS, "test")
    windows = evaluation_windows(sequences, users, "test", data.max_length, data.know_request)
    if not len(windows.target):
        remedy = "export with --verify false, or give another data.split"
        raise InputError("no test event has a history, so the bundle cannot be verified", where="verify", remedy=remedy)
    return windows


def _compare(
    logp_TV: torch.Tensor, shown_TK: torch.Tensor, encoded: list[Encoded], bundle: Bundle, found: Verified
) -> None:
    for group in bundle.groups(encoded):
        item_TK, _, logit_TN = bundle.run([encoded[place] for place in group], ["items", "scores", "logits"])
        own_TV = logp_TV[group]
        # -inf - -inf is nan: two probabilities of 0 do not differ.
        gap_TV = torch.from_numpy(logit_TN)[:, 1:].log_softmax(dim=1) - own_TV
        found.difference = max(found.difference, float(gap_TV.nan_to_num(nan=0.0).abs().max()))
        mine_TK = torch.from_numpy(item_TK[:, :TOP_K])
        theirs_TK = shown_TK[group][:, : mine_TK.shape[1]]
        gap_TK = own_TV.gather(1, (mine_TK - 1).clamp(min=0)) - own_TV.gather(1, (theirs_TK - 1).clamp(min=0))
        equal_T = (mine_TK == theirs_TK).all(dim=1)
        tied_T = ((mine_TK > 0) == (theirs_TK > 0)).all(dim=1) & (gap_TK.abs() <= found.tolerance).all(dim=1) & ~equal_T
        found.lists += int(equal_T.sum())
        found.tied += int(tied_T.sum())
        found.other += int((~equal_T & ~tied_T).sum())


def _of_batch(batch: Batch, strength: float) -> Iterator[Encoded]:
    """Each target of a batch as an encoded request, with exactly the events that the policy saw."""
    assert batch.seen_N is not None
    count_T = batch.seen_N[0].bincount(minlength=len(batch.target_T))
    seen = batch.seen_N[1][batch.seen_N[0].sort(stable=True).indices].split(count_T.tolist())
    histories = [x_BL.numpy() for x_BL in (batch.item_BL, batch.time_BL, batch.request_time_BL, batch.reward_BL)]
    for row, column, seen_S in zip(batch.row_T.tolist(), batch.column_T.tolist(), seen, strict=True):
        item_L, time_L, request_time_L, reward_L = (x_BL[row, : column + 1] for x_BL in histories)
        yield Encoded(item_L, time_L, request_time_L, reward_L, np.unique(seen_S.numpy()), strength)


def _as_requests(windows: Windows, user_T: np.ndarray, data: EventDataModule, bundle: Bundle) -> tuple[np.ndarray, int]:
    """Each target's gain when the bundle gets raw ids, and how many were in the history. Shape: (T,), int."""
    known, repeated, rank_T = [None, *data.sequences.items], 0, np.zeros(len(user_T), np.int64)
    for first in range(0, len(user_T), 1024):
        part = slice(first, first + 1024)
        asked = zip(user_T[part], windows.state[part], windows.target[part], windows.time[part], strict=True)
        made = [request_before(data, bundle, *one) for one in asked]
        rows = zip(made, bundle.recommend(made), windows.target[part], strict=True)
        for place, (request, answer, target) in enumerate(rows, first):
            shown = [one.item for one in answer.items]
            rank_T[place] = shown.index(known[target]) + 1 if target and known[target] in shown else 0
            repeated += bool(target) and known[target] in request.items
    return gain_ndcg(rank_T, TOP_K), repeated


def request_before(data: EventDataModule, bundle: Bundle, user: int, state: int, target: int, time: int) -> Request:
    """The request that a user would have sent before an event: the newest known events up to index ``state``.

    Other items of the target's tie group are blocked, as evaluation does not rank them.
    """
    sequences = data.sequences
    own_set = sequences.item[state + 1 : int(sequences.tie_group_end(np.array(state + 1)))] if target else np.array([])
    others = sequences.items.gather(own_set[own_set != target].astype(np.int64) - 1).to_list()
    own = np.arange(max(sequences.offset[user], state + 1 - MAX_HISTORY), state + 1)
    own = own[np.argsort(sequences.time[own], kind="stable")]  # a split need not follow time; requests must
    items = sequences.items.gather(sequences.item[own] - 1).to_list()
    times = [MICRO * second for second in sequences.time[own].tolist()]
    rewards = [None if math.isnan(one) else one for one in sequences.reward[own].tolist()]
    asked = MICRO * max(int(time), int(sequences.time[own[-1]]))
    return bundle.catalogue.request(items, times, rewards, asked, k=min(TOP_K, len(bundle.catalogue)), block=others)


def _interval(gain_T: np.ndarray, user_T: np.ndarray) -> list[float]:
    by_user = pl.DataFrame({"user": user_T, "gain": gain_T.astype(float)}).group_by("user", maintain_order=True)
    sums = by_user.agg(pl.col("gain").sum(), count=pl.len())
    mean = CrossedBootstrap(len(sums)).mean(sums["gain"].to_numpy()[None], sums["count"].to_numpy()[None].astype(float))
    return [mean.value, *mean.interval()]
