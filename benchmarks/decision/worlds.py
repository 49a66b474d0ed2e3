"""Worlds for the benchmark of the report's sentence: logs of many kinds, and what is true of their rows.

A world is drawn longer than its log. The log is the first events of each user, divided as `recalign init` divides it.
The next ones of the users whom the log tests, up to ten for each test event, tell what a policy keeps of the ranking
and what it is worth, without the noise of a small test. Each user counts alike, as in the test, and no event of the
test counts.

Shape legend: U users, I items, Q nodes of a quadrature.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from recalign.data.events import EventTable
from recalign.data.events.division import divide
from recalign.data.sequences.splits import TEST, VALIDATION, Split
from recalign.data.simulation import World, simulate
from recalign.data.simulation.people import Floats
from recalign.data.simulation.world import MEAN, SD, Simulated
from recalign.evaluation.networks import load_truth
from recalign.evaluation.reranking import RERANKING, RerankedRow, Reranking
from recalign.evaluation.roles import UNTRAINED_RANKINGS, Roles
from recalign.evaluation.rows import row_of
from recalign.evaluation.value import TOP_K, mean_shown
from recalign.files import atomic_write, read_json
from recalign.recommender.checkpoint import load_net
from recalign.recommender.policy import Policy
from recalign.recommender.rank_metrics import gain_ndcg
from recalign.reward import RewardData
from recalign.run.chain import Chain, Plan
from recalign.run.chain.experiment import PLACEBOS
from recalign.run.chain.plan import train

FRESH = 10  # so many events of a user after the log at most, for each of the user's test events
HISTORIES = (3, 5, 10, 20, 40, 80, 160)  # mean events of a user in the log
EVENTS = (10_000, 40_000)  # of the log, about
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(40)
CANDIDATES = ["rerank", "rerank_item_mean", "reward_weighted", "asft", "asft_rerank"]
CONTROLS = ["popularity", "popularity_high", "item_mean", *UNTRAINED_RANKINGS, "start", "popularity_tilt", "bc"]
ROLES = Roles("asft", PLACEBOS)
CUT = 3.6  # stars from which an event is a click


@dataclass(frozen=True)
class Kind:
    """A kind of world.

    Attributes:
        world: what differs from the default world.
        observed: the reward that is logged, of the stars that a user would give.
        settings: of the chain and its stages.
    """

    world: dict[str, Any] = field(default_factory=dict)
    observed: Callable[[np.ndarray], np.ndarray] = np.asarray
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)


def _clicked(stars: np.ndarray) -> np.ndarray:
    return (stars > CUT).astype(float)


def _watched(stars: np.ndarray) -> np.ndarray:
    return np.minimum(np.exp(stars - MEAN), 6.0)


SHORT_CLONING = {"recommender": {"trainer": {"max_epochs": 2}}}
NO_PRIOR = {"recommender": {"model": {"prior": False}}}
GREEDY = {"asft": {"model": {"lr": 3e-4, "temperature": 0.1}}, "reward_weighted": {"model": {"lr": 1e-3}}}
KINDS = {
    "stars": Kind(),
    "clicks": Kind(observed=_clicked),
    "watch time": Kind(observed=_watched),
    "quiet": Kind({"noise": 0.5, "habit": 3.0}),
    "noisy": Kind({"noise": 3.0}),
    "useless reward": Kind({"signal": 0.0}),
    "confounded": Kind({"circumstance": 1.5, "confounding": 3.0, "signal": 0.3}),
    "popularity": Kind({"fashion": 7.5}),
    "broken start": Kind(settings=SHORT_CLONING),
    "a placebo gains": Kind({"generosity": 2.0}, settings=NO_PRIOR),
    "a method harms": Kind(settings=GREEDY),
}
MIX = (*KINDS, *2 * ("useless reward", "confounded"))
"""The kinds of the worlds from `MIXED` on, in turn. Without a true gain, two kinds come three times as often: that is
where what is shipped is wrong though it does no harm."""
MIXED = 8000


class Marked(Split):
    """The split that a column ``part`` holds."""

    def assign(self, table: EventTable) -> pl.Series:
        return table.frame["part"].cast(pl.UInt8)


def kind_of(seed: int) -> str:
    """The kind of the world of a seed: before `MIXED` every kind in turn."""
    kinds = MIX if seed >= MIXED else list(KINDS)
    return kinds[seed % len(kinds)]


def make(seed: int, root: Path) -> dict[str, Any]:
    """Write a world's log under a data root, and the longer log under ``<root>/fresh``.

    Returns:
        ``data.split`` of the log.
    """
    kind, rng = KINDS[kind_of(seed)], np.random.default_rng([seed, 7])
    history = int(rng.choice(HISTORIES))
    users = max(40, int(rng.uniform(*EVENTS)) // history)
    test = min(10, max(1, history // 10))
    total = history + FRESH * test
    items = max(200, 3 * total)
    drawn = simulate(World(users=users, items=items, events=users * total, seed=seed, **kind.world))
    stars = drawn.events["reward"]
    logged = pl.Series(kind.observed(stars.fill_null(0.0).to_numpy())).set(stars.is_null(), None)
    events = drawn.events.with_columns(reward=logged).sort("user", "timestamp", maintain_order=True)
    count, place = pl.len().over("user"), pl.int_range(pl.len()).over("user")
    in_log = place < (count * history / total).ceil().clip(2, None)
    log, later = events.filter(in_log), events.filter(~in_log)
    split = divide(log["user"], log["reward"]).settings["split"]
    sizes = split["init_args"]
    aside, from_end = sizes["test"] + sizes["validation"], count - place
    part = (from_end <= aside).cast(pl.UInt8) + (from_end <= sizes["test"]).cast(pl.UInt8)
    log = log.with_columns(part=pl.when(count > aside).then(part).otherwise(0).cast(pl.UInt8))  # as LeaveLast does
    truth_UI = _expected(drawn, kind.observed)
    _write(log, truth_UI, drawn, root)
    _write(with_fresh(log, later, sizes["test"]), truth_UI, drawn, root / "fresh")
    return split


def with_fresh(log: pl.DataFrame, later: pl.DataFrame, test: int) -> pl.DataFrame:
    """A log whose test are later events: the next `FRESH` for each test event of the users whom the log tests.

    Its own test events stay in histories alone, for the decision was made on them.

    Args:
        log, later: events in the order of users and time; of the log with their ``part``.
        test: the log's test events of a user.
    """
    tested = log.filter(part=TEST)["user"].unique()
    fresh = (
        later.filter(pl.col("user").is_in(tested.implode())).group_by("user", maintain_order=True).head(FRESH * test)
    )
    fresh = fresh.select(later.columns).with_columns(part=pl.lit(TEST, pl.UInt8))
    return pl.concat([log.with_columns(pl.col("part").clip(upper_bound=VALIDATION)), fresh])


def _expected(drawn: Simulated, observed: Callable[[np.ndarray], np.ndarray]) -> Floats:
    """Expected reward of every pair, over circumstance and noise, with the user's own generosity. Shape: (U, I)."""
    world = drawn.world
    stars_UI = MEAN + world.signal * (drawn.truth_UI - MEAN)
    stars_UI += SD * world.generosity * drawn.people.generosity_U[:, None]
    spread = SD * np.hypot(world.circumstance, world.noise)
    parts = [weight * observed(stars_UI + spread * node) for node, weight in zip(NODES, WEIGHTS, strict=True)]
    return (np.sum(parts, axis=0) / WEIGHTS.sum()).astype(np.float32)


def _write(events: pl.DataFrame, truth_UI: Floats, drawn: Simulated, root: Path) -> None:
    folder = root / "simulated"
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "events.parquet") as path:
        events.sort("timestamp", "user", maintain_order=True).write_parquet(path)
    with atomic_write(folder / "truth.npz") as path, path.open("wb") as file:
        np.savez(file, reward=truth_UI, users=drawn.users, items=drawn.items)


def plan_of(seed: int, runs: Path, keep: float) -> Plan:
    """The default chain on a world's log, with every control; makes the log where it is missing."""
    kind, root = KINDS[kind_of(seed)], runs / f"world-{seed}"
    split = make(seed, root)
    data = {"root": str(root), "split": split, "cache": False}
    chain = Chain(
        "simulated",
        [*CONTROLS, *CANDIDATES, *PLACEBOS],
        name=f"verdict-{seed}",
        seeds=[seed],
        highlight="asft",
        root=str(runs),
        keep=keep,
        data=data,
        stages=kind.settings,
        threads=1,
    )
    return Plan(chain, Path(__file__).parents[2] / "conf/chains/simulated.yaml", {})


@torch.no_grad()
def truth_of(plan: Plan, seed: int) -> pl.DataFrame:
    """What is true of the baselines and candidates: NDCG@10 and expected reward of the ten shown, over fresh events.

    Means over users of their events' means.

    Returns:
        ``method``, ``ndcg`` and ``value``, the latter in standard deviations of the training rewards of users A.
    """
    data = plan.data(seed)
    root = Path(str(data.root)) / "fresh"
    own = RewardData(
        log=data.log_,
        reward=data.reward,
        high=data.high,
        split=Marked(),
        root=str(root),
        users="A",
        max_length=data.max_length,
        cache=False,
    )
    if not own.sequences.items.equals(data.sequences.items):
        raise SystemExit(f"world {seed}: the longer log has another catalogue")
    truth_UV = load_truth(root / "simulated/truth.npz", own.sequences) / data.reward_moments().sd
    policies = {name: policy_of(name, plan, seed, data).eval() for name in ("start", "bc", *CANDIDATES)}
    found: dict[str, list[pl.DataFrame]] = {name: [] for name in policies}
    for batch in own.loader(own.windows("test", "A")):
        user_T = batch.user_B[batch.row_T]
        for name, policy in policies.items():
            state = policy.encode(batch)
            ndcg_T = gain_ndcg(policy.ranks(state, batch.target_T, batch.seen_N), 10)
            item_TK = policy.top_k(state, TOP_K, batch.seen_N)[1]
            value_T = mean_shown(truth_UV[user_T[:, None], (item_TK - 1).clamp(min=0)], item_TK)
            figures = {"ndcg": np.asarray(ndcg_T), "value": value_T.numpy()}
            found[name].append(pl.DataFrame({"user": user_T.numpy(), **figures}))
    by_user = {name: pl.concat(parts).group_by("user").mean().drop("user") for name, parts in found.items()}
    return pl.concat([means.mean().select(pl.lit(name).alias("method"), pl.all()) for name, means in by_user.items()])


def policy_of(method: str, plan: Plan, seed: int, data: RewardData) -> Policy:
    """A row's policy, as the chain evaluated it."""

    def net(stage: str) -> Any:
        return load_net(train(plan.parsed(stage, seed)).checkpoint, "reward" if stage == "reward" else "policy").net

    row = row_of(method)
    if not isinstance(row, RerankedRow):
        return net("recommender" if method == "start" else method)
    summary = read_json(plan.folder / method / f"seed-{seed}" / "evaluation/summary.json")
    how, scores = Reranking(**summary[RERANKING]["how"]), row.scores(net("reward"), data)
    return how.policy(net("recommender"), net(row.base) if row.base else None, scores)
