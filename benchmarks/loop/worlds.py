"""Worlds that answer: what becomes of a policy that trains on what it has shown, round by round.

    python -m benchmarks.loop.worlds --keep DIR

A world (`recalign.data.simulation`) makes a first log: people choose by habit, fashion and satisfaction, and rate what
they chose. From then on those who have a history are served. In each round a policy trains on what was chosen so far,
but for each user's two newest, and shows every user a list of twenty unseen items: ranked, or, for a share of the
requests, drawn at temperature 1. People read a list from the top, and may stop before each place. They take what they
read as they chose before: by habit, the fashion of the time, and satisfaction; so choices tell of more than taste.
Items without a training event in the first log are unknown to all policies, for ever; regret counts them. Rows:

    clone, asft     cloning, and A-SFT on a reward model, each trained anew in every round
    stale ...       trained once, on the first log; it reads longer histories in each round
    ... share 0.1   of the requests that are drawn, and so on

Figures of a round: how much more true reward the ten best unseen items have than the first ten of a list (``regret``;
``ranked``: the same of the list without exploration), the effective number of items among them (one over the chance
that two users' items are the same, ``items``), and how many items of twenty were taken (``taken``). Good items are used
up, so compare rows of a round. Differences are paired by world; intervals are Student's over worlds.

Suffixes: U users, V items, K places.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import torch

import recalign as ra
from benchmarks.lib import commit, each, figure, frame, markdown, options, over_worlds, save
from recalign.data.sequences import EventDataModule
from recalign.data.sequences.earlier import remember
from recalign.data.sequences.serving import serving_windows
from recalign.data.simulation import World, simulate
from recalign.data.simulation.behaviour import CHOICE_LOG_ODDS, SPAN, STABLE_HABIT_SHARE
from recalign.data.simulation.people import SLICES, mix
from recalign.data.simulation.world import SD, START
from recalign.files import atomic_write
from recalign.recommender import Policy
from recalign.run.api.fit import data_of
from recalign.serve.server.explore import drawn
from recalign.serve.server.request import Explore

ROUNDS, PLACES, TOP = 6, 20, 10
FIRST = 0.5
"""Share of the span that is known before anything is served."""
USERS, ITEMS, EVENTS = 400, 400, 12_000
STOPS = 0.1
"""The chance that a reader stops before a place."""
LIKED = 0.8
"""The share of the items that a user would rather not take, were they read."""
SPLIT = {"class_path": "recalign.data.sequences.LeaveLast", "init_args": {"test": 1, "validation": 1}}
SHARES = (0.1, 0.5)
ARMS: dict[str, tuple[str, float, bool]] = {}
for method in ("clone", "asft"):
    ARMS |= {f"stale {method}": (method, 0.0, True), method: (method, 0.0, False)}
    ARMS |= {f"{method}, share {share:g}": (method, share, False) for share in SHARES}
"""Rows: the method, the share of the requests that are drawn, and whether it is trained in the first round alone."""
METRICS = [
    f"{name}, {when}"
    for name in ("regret", "ranked", "items", "taken")
    for when in ("first round", "last round", "all rounds")
]
COLUMNS = {
    "regret, all rounds": "regret, all rounds",
    "regret, last round": "last round",
    "ranked, last round": "last round, not exploring",
    "taken, all rounds": "taken of 20, all rounds",
    "items, first round": "different items, first round",
    "items, last round": "different items, last round",
}
DIFFERENCES = [
    *((row, f"stale {row}") for row in ("clone", "asft")),
    ("asft", "clone"),
    ("stale asft", "stale clone"),
    *((f"{row}, share {share:g}", row) for row in ("clone", "asft") for share in SHARES),
]


class People:
    """A world whose people answer lists.

    Attributes:
        log: what they chose before they were served: user, item, timestamp, reward.
        truth_UV: true rewards.
    """

    def __init__(self, drift: float, seed: int) -> None:
        sizes = {"users": USERS, "items": ITEMS, "events": EVENTS, "drift": drift, "seed": seed}
        self.world = World(**sizes, missing=0.0, circumstance=0.0, confounding=0.0)  # type: ignore[arg-type]
        simulated = simulate(self.world)
        self.people, self.truth_UV = simulated.people, simulated.truth_UI
        first = pl.col("timestamp") < START + FIRST * SPAN
        self.log = warm(simulated.events.filter(first).select("user", "item", "timestamp", "reward"))

    def answers(self, at: int, user_N: np.ndarray, item_NK: np.ndarray) -> pl.DataFrame:
        """What users take of their lists in a round, and how they rate it; -1 stands for no item."""
        random, world = np.random.default_rng([self.world.seed, at]), self.world
        share = FIRST + (1 - FIRST) * (at + 0.5) / ROUNDS
        chance_UV = self.chances(random, int(share * SLICES))
        # all of it is drawn, so that a user and an item have the same luck in all rows
        read_UK = np.cumprod(random.random((world.users, PLACES)) > STOPS, axis=1, dtype=bool)
        like_UV, noise_UV = random.random(chance_UV.shape) < chance_UV, random.standard_normal(chance_UV.shape)
        take_NK = like_UV[user_N[:, None], item_NK] & read_UK[user_N] & (item_NK >= 0)
        row, place = np.nonzero(take_NK)
        user, item = user_N[row], item_NK[row, place]
        error = world.generosity * self.people.generosity_U[user] + world.noise * noise_UV[user, item]
        columns = {"user": user + 1, "item": item + 1, "timestamp": START + int(share * SPAN) + place}
        return pl.DataFrame(columns | {"reward": self.truth_UV[user, item] + SD * error}).cast(self.log.schema)

    def chances(self, random: np.random.Generator, now: int) -> np.ndarray:
        """The chance that each user takes each item, where it is read, in a slice of time. Shape: (U, V)."""
        people = self.people
        passing_UD = random.standard_normal(people.habit_UD.shape, dtype=np.float32)
        habit_UV = mix(people.habit_UD, passing_UD, STABLE_HABIT_SHARE) @ people.position_ID.T
        logit_UV = people.satisfaction_UI + self.world.habit * habit_UV + self.world.fashion * people.fashion_TI[now]
        logit_UV = CHOICE_LOG_ODDS * logit_UV
        return 1 / (1 + np.exp(np.quantile(logit_UV, LIKED, axis=1, keepdims=True) - logit_UV))


def warm(events: pl.DataFrame) -> pl.DataFrame:
    """The events of items that have one before the last two of a user: in training, so that every policy knows them."""
    early = pl.int_range(pl.len(), 0, -1).over("user", order_by="timestamp") > 2
    kept = events.filter(pl.col("item").is_in(events.filter(early)["item"].unique().implode()))
    return kept if len(kept) == len(events) else warm(kept)


@dataclass(frozen=True)
class Lists:
    """The lists of a round: whose, which items are shown, and which would be, ranked. Raw numbers from 0, -1: none."""

    user_N: np.ndarray
    shown_NK: np.ndarray
    ranked_NK: np.ndarray


@torch.no_grad()
def lists(policy: Policy, data: EventDataModule, events: pl.DataFrame, share: float, seed: list[int]) -> Lists:
    """A list for every user with a history of known items."""
    raw_V = data.sequences.items.to_numpy() - 1
    seen = dict(events.group_by("user").agg("item").iter_rows())
    users, shown, ranked = [], [], []
    random = np.random.default_rng(seed)
    for batch in data.loader(serving_windows(data.sequences, np.ones(len(data.sequences.users), bool), 200)):
        logp_TV = policy.log_probs(policy.encode(batch)).double().numpy()
        for user, logp_V in zip(batch.user_B[batch.row_T].numpy(), logp_TV, strict=True):
            raw = data.sequences.users[int(user)]
            score_V = np.where(np.isin(raw_V + 1, seen[raw]), -np.inf, logp_V)
            best_K = np.argsort(-score_V, kind="stable")[: min(PLACES, int(np.isfinite(score_V).sum()))]
            explore = Explore(temperature=1.0, share=share, seed=int(random.integers(2**31)))
            own_K = drawn(score_V, best_K, explore)[0] if share else best_K
            users.append(raw - 1)
            shown.append(padded(raw_V[own_K]))
            ranked.append(padded(raw_V[best_K]))
    return Lists(np.array(users), np.array(shown), np.array(ranked))


def padded(item_X: np.ndarray) -> np.ndarray:
    """As many places as a list has. Shape: (PLACES,)."""
    return np.concatenate([item_X, np.full(PLACES - len(item_X), -1)])


def trained(method: str, log: ra.Log, seed: int) -> ra.TrainedPolicy:
    """A policy from the training events of a log."""
    start = ra.fit_recommender(log, seed=seed)
    return start if method == "clone" else ra.align(log, start, ra.fit_reward(log, start, seed=seed), seed=seed)


def row(name: str, drift: float, seed: int) -> pl.DataFrame:
    """The rounds of a row in a world."""
    method, share, stale = ARMS[name]
    people, found, policy = People(drift, seed), [], None
    names = {name: name for name in ("user", "item", "timestamp", "reward")}
    events = people.log
    with TemporaryDirectory() as folder:
        ids = Path(folder) / "ids"
        for at in range(ROUNDS):
            data = {"split": SPLIT, "grows_from": str(ids) if at else None}  # so that numbers stay
            own_folder = Path(folder) / f"round-{at}"
            log = ra.Log.from_frame(events, **names, time_unit="s", folder=own_folder, **data)  # type: ignore[arg-type]
            if policy is None or not stale:
                policy = trained(method, log, seed)
            today = data_of(log, "recommender")
            remember(today, ids)
            own = lists(policy.network, today, events, share, [seed, at])
            answers = people.answers(at, own.user_N, own.shown_NK)
            found.append({"round": at + 1, **figures(people, own, events), "taken": len(answers) / len(own.user_N)})
            events = pl.concat([events, answers])
    return pl.DataFrame(found).with_columns(row=pl.lit(name), drift=drift, seed=seed)


def figures(people: People, own: Lists, events: pl.DataFrame) -> dict[str, float]:
    """Of the first ten items of a round's lists; ``events`` are those before it."""
    top_NK = own.shown_NK[:, :TOP]
    count_V = np.bincount(top_NK[top_NK >= 0])
    left_UV = people.truth_UV.astype(np.float64)
    left_UV[events["user"].to_numpy() - 1, events["item"].to_numpy() - 1] = -np.inf
    best = float(np.sort(left_UV[own.user_N], axis=1)[:, -TOP:].mean())
    found = {"items": float(count_V.sum() ** 2 / (count_V**2).sum())}
    for name, item_NK in (("regret", top_NK), ("ranked", own.ranked_NK[:, :TOP])):
        true_NK = np.where(item_NK >= 0, people.truth_UV[own.user_N[:, None], item_NK], np.nan)
        found[name] = best - float(np.nanmean(true_NK))
    return found


def cell(drift: float, keep: Path, task: int) -> pl.DataFrame:
    """A row in a world, or what a folder has of it."""
    seed, place = divmod(task, len(ARMS))
    name = list(ARMS)[place]
    path = keep / f"{commit()}-{drift:g}-{seed}-{place}.parquet"
    if not path.is_file():
        with atomic_write(path) as temporary:
            row(name, drift, seed).write_parquet(temporary)
    return pl.read_parquet(path)


def measured(rounds: pl.DataFrame) -> pl.DataFrame:
    """The figures of each row and world: of the first and last round, and over all."""
    figure, first, last = pl.col("regret", "ranked", "items", "taken"), pl.col("round") == 1, pl.col("round") == ROUNDS
    return rounds.group_by("row", "seed", maintain_order=True).agg(
        figure.filter(first).first().name.suffix(", first round"),
        figure.filter(last).first().name.suffix(", last round"),
        figure.mean().name.suffix(", all rounds"),
    )


def results(rounds: pl.DataFrame, drift: float) -> pl.DataFrame:
    """The figures of rows and of differences, as they are saved."""
    found = measured(rounds.sort("seed")).partition_by("row", as_dict=True, include_key=False)
    seeds = " ".join(map(str, rounds["seed"].unique().sort()))
    values = {name: {row: one[name].to_numpy() for (row,), one in found.items()} for name in METRICS}
    lines = []
    for metric, by_row in values.items():
        pairs = {f"{a} - {b}": by_row[a] - by_row[b] for a, b in DIFFERENCES}
        pairs["gain of asft in each round - once"] = pairs["asft - clone"] - pairs["stale asft - stale clone"]
        for name, value_S in (by_row | pairs).items():
            lines.append((f"world, drift {drift:g}", name, metric, *over_worlds(value_S), seeds, commit()))
    return frame(lines)


def main() -> None:
    """Measure what the words ask for."""
    parser = options(__doc__, seeds=[0, 1, 2, 3, 4])
    parser.add_argument("--drift", type=float, nargs="+", default=[0.5])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, required=True, help="folder of finished rows: a later run goes on")
    given = parser.parse_args()
    commit()  # of the code that runs, whatever is checked out later
    tasks = [seed * len(ARMS) + place for seed in given.seeds for place in range(len(ARMS))]
    tables = []
    for drift in given.drift:
        rounds = pl.concat(each(partial(cell, drift, given.keep), tasks, given.workers))
        tables.append(results(rounds, drift))
        print(f"\nworld, drift {drift:g}\n{markdown(tables[-1], COLUMNS, 3, figure)}", flush=True)
    print(save(pl.concat(tables), "loop/worlds", "log"))


if __name__ == "__main__":
    main()
