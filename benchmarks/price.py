"""Rules for how far along its interpolation path a policy may go, chosen on few events and judged on ten times as many.

    python benchmarks/price.py [--worlds 300 301 302 303] [--seeds 0 1 2] [--runs DIR]

A case is a simulated world: 20,000 events of 200 users. Of the 110 or so with more than 60 events each has 5 events to
validate on and the 55 after them held out; the others train alone. Start, reward model and A-SFT are trained with every
seed. Along the interpolation paths of A-SFT and reranking each user's NDCG@10 is measured once, with the true value of
the ten shown before events held out; between the points measured, sums by user are interpolated. Rules then cost
nothing: today's 97 %, with a lower bound that is `z` standard errors down, on events of users A or of all, an alpha a
seed or one for all seeds of a world. Each is found twice: on 5 of the 55 events of each user, drawn at random
(*exchangeable*: noise alone decides), and on the events of validation, which chose the start's epoch and prior too (*as
it comes*). What is kept is measured on the other 50. Worlds that are measured are kept in
<runs>/price-<world>/curves.csv, and not measured again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import torch
from tables import CONF, commit, each, frame, markdown, options, save, spread

from recalign.data.sequences import EventDataModule
from recalign.data.sequences.store import Part
from recalign.data.simulation import World, simulate, write
from recalign.evaluation.baselines import Rerank
from recalign.evaluation.reranking import interpolate
from recalign.evaluation.value import SHOWN, load_truth, mean_shown
from recalign.files import write_text
from recalign.recommender.checkpoint import load_net
from recalign.recommender.interpolation import ALPHAS, KEEP, Retention, Z, alpha_within_budget
from recalign.recommender.policy import Policy
from recalign.recommender.rank_metrics import gain_ndcg
from recalign.run.chain import Chain, Plan
from recalign.run.chain.train import train

SPLIT = {"class_path": "recalign.data.sequences.LeaveLast", "init_args": {"test": 55, "validation": 5}}
DRAWN = 5  # of a user's test events, on which a rule is found
MIDDLES = (3 / 16, 3 / 8, 3 / 4, 1.25, 1.75, 2.5, 3.5)
GRID = np.array(sorted({0.0, *ALPHAS, *MIDDLES}))
STRENGTH = 2.0  # of reranking at alpha 1, as in the tables of methods
FLOOR = 0.95  # what the NDCG budget is to hold on new events
ZS, USERS, SHARED = (0.0, 1.28, Z), ("A", "all"), (False, True)
FOUND_ON = {"drawn": "exchangeable", "validation": "as it comes"}
PARTS: tuple[Part, ...] = ("validation", "test")
COLUMNS = {
    "fails": "keeps < 95 %",
    "kept_median": "kept: median",
    "kept_10": "10 % quantile",
    "gain": "true value over start, sd of the reward",
    "reach": "mean reach",
}


@dataclass(frozen=True)
class Curve:
    """One method with one seed in one world, at each alpha G of `GRID`, by user U; NDCG and value are summed by user.

    Attributes:
        validation, drawn, test: NDCG@10, (G, U).
        value: mean true reward of the ten shown over test events, in standard deviations of the reward, (G,).
        in_a: who is of users A, bool (U,).
    """

    validation: np.ndarray
    drawn: np.ndarray
    test: np.ndarray
    value: np.ndarray
    in_a: np.ndarray


def main() -> None:
    parser = options(__doc__, seeds=[0, 1, 2], runs="runs")  # seeds of training, in every world
    parser.add_argument("--worlds", type=int, nargs="+", default=[300, 301, 302, 303])
    parser.add_argument("--workers", type=int, default=1, help="worlds at a time")
    given = parser.parse_args()
    frames = each(partial(measured, seeds=given.seeds, runs=given.runs), given.worlds, given.workers)
    rows = table([curves_of(one) for one in frames], given.worlds)
    for log in rows["log"].unique(maintain_order=True):
        print(f"\n{log}\n\n{markdown(rows.filter(log=log), COLUMNS)}")
    print(save(rows, "price"))


def measured(world: int, seeds: Sequence[int], runs: Path) -> pl.DataFrame:
    """A world's curves: a row for each seed, method, alpha and user."""
    name = f"price-{world}"
    file = runs / name / "curves.csv"
    if file.is_file() and set(seeds) <= set((kept := pl.read_csv(file))["seed"]):
        return kept.filter(pl.col("seed").is_in(list(seeds)))
    write(simulate(World(users=200, events=20_000, seed=world)), runs / name)
    data = {"root": str(runs / name), "split": SPLIT, "cache": False}
    chain = Chain("simulated", ["asft"], name=name, seeds=list(seeds), root=str(runs), keep=None, data=data)
    plan = Plan(chain, CONF / "chain/simulated.yaml", {})
    made = pl.concat([of_seed(plan, seed, runs / name) for seed in seeds])
    write_text(file, made.write_csv())
    return made


def of_seed(plan: Plan, seed: int, root: Path) -> pl.DataFrame:
    """Train a seed, and measure both methods along their interpolation paths."""
    start, reward, asft = (
        load_net(train(plan.parsed(stage, seed)).checkpoint, kind).net.eval()
        for stage, kind in (("recommender", "policy"), ("reward", "reward"), ("asft", "policy"))
    )
    data = plan.data(seed)
    sd = data.moments()[1]
    truth_UV = load_truth(root / "simulated" / "truth.npz", data.sequences) / sd
    frames = []
    for alpha in GRID:
        policies = {
            "asft": interpolate(start, asft, float(alpha)),
            "rerank": Rerank(start, reward, STRENGTH * float(alpha) / sd),
        }
        for method, policy in policies.items():
            found = by_user(policy.eval(), data, truth_UV)
            case = {"seed": seed, "method": method, "reach": float(alpha)}
            frames.append(found.select(*(pl.lit(value).alias(key) for key, value in case.items()), pl.all()))
    return pl.concat(frames)


@torch.no_grad()
def by_user(policy: Policy, data: EventDataModule, truth_UV: torch.Tensor) -> pl.DataFrame:
    """A policy's NDCG@10 and true value, summed over each user's events."""
    parts = []
    for part in PARTS:
        for batch in data.loader(data.windows(part, "all")):
            state, user_T = policy.encode(batch), batch.user_B[batch.row_T]
            item_TK = policy.top_k(state, SHOWN, batch.seen_N)[1]
            columns = {
                "user": user_T,
                "event": batch.event_T,
                "ndcg": gain_ndcg(policy.ranks(state, batch.target_T, batch.seen_N), 10),
                "value": mean_shown(truth_UV[user_T[:, None], (item_TK - 1).clamp(min=0)], item_TK),
            }
            parts.append(pl.DataFrame({name: x.numpy() for name, x in columns.items()}).with_columns(part=pl.lit(part)))
    events = pl.concat(parts).cast({pl.Float32: pl.Float64}).sort("part", "event")
    events = events.with_columns(draw=np.random.default_rng(0).random(len(events)))  # the same for every policy
    drawn = (pl.col("part") == "test") & (pl.col("draw").rank().over("part", "user") <= DRAWN)
    events = events.with_columns(part=pl.when(drawn).then(pl.lit("drawn")).otherwise("part"))
    sums = [pl.col("ndcg").filter(part=part).sum().alias(part) for part in ("validation", "drawn", "test")]
    test = pl.col("part") == "test"
    sums += [pl.col("value").filter(test).sum(), test.sum().alias("test_events")]
    in_a = pl.DataFrame({"in_a": data.sequences.users_in("A")}).with_row_index("user").cast({"user": pl.Int64})
    return events.group_by("user").agg(sums).join(in_a, on="user").sort("user")


def curves_of(frame: pl.DataFrame) -> dict[str, list[Curve]]:
    """A world's curves by method, a curve a seed."""
    found: dict[str, list[Curve]] = {}
    for (method, _), own in frame.group_by("method", "seed", maintain_order=True):
        ordered = own.sort("reach", "user")
        users = ordered["user"].n_unique()
        columns = {name: ordered[name].to_numpy().reshape(len(GRID), users) for name in ordered.columns[2:]}
        value_G = columns["value"].sum(axis=1) / columns["test_events"].sum(axis=1)
        curve = Curve(columns["validation"], columns["drawn"], columns["test"], value_G, columns["in_a"][0])
        found.setdefault(str(method), []).append(curve)
    return found


def table(worlds: Sequence[dict[str, list[Curve]]], seeds: Sequence[int]) -> pl.DataFrame:
    """A row for each method and rule, as results are saved; intervals are over worlds."""
    rows: list[tuple[object, ...]] = []
    ends = " ".join(map(str, seeds)), commit()
    for on, method, z, users, shared in itertools.product(FOUND_ON, worlds[0], ZS, USERS, SHARED):
        cases = [list(outcomes(world[method], on, z, users == "A", shared)) for world in worlds]
        alpha_WS, kept_WS, gain_WS = np.moveaxis(np.array(cases), -1, 0)
        bound = f"z {z:g}" if z else "97 %"
        name = f"{method}, {bound}, users {users}, {'one reach' if shared else 'by seed'}"
        figures = {
            "fails": spread((kept_WS < FLOOR).mean(axis=1).tolist()),
            "kept_median": (float(np.median(kept_WS)), None, None, None),
            "kept_10": (float(np.quantile(kept_WS, 0.1)), None, None, None),
            "gain": spread(gain_WS.mean(axis=1).tolist()),
            "reach": spread(alpha_WS.mean(axis=1).tolist()),
        }
        rows += [(f"simulated, {FOUND_ON[on]}", name, metric, *figure, *ends) for metric, figure in figures.items()]
    return frame(rows)


def outcomes(
    curves: Sequence[Curve], on: str, z: float, only_a: bool, shared: bool
) -> Iterator[tuple[float, float, float]]:
    """By seed: the alpha that a rule takes, the share kept on the test there, and the value gained."""
    by_seed = [getattr(curve, on)[:, curve.in_a if only_a else slice(None)] for curve in curves]
    if shared:
        by_seed = [np.sum(by_seed, axis=0)] * len(curves)
    for curve, sum_GU in zip(curves, by_seed, strict=True):
        alpha = taken(sum_GU, z)
        kept = at(curve.test, alpha).sum() / curve.test[0].sum()
        yield alpha, float(kept), float(at(curve.value, alpha) - curve.value[0])


def taken(sum_GU: np.ndarray, z: float) -> float:
    """The alpha of the package's own search, with another number of standard errors."""

    def kept(alpha: float) -> Retention:
        found = Retention.measure(at(sum_GU, alpha), sum_GU[0])
        return Retention(found.share, found.error * z / Z)

    return alpha_within_budget(kept, KEEP)[0]


def at(values_G: np.ndarray, alpha: float) -> np.ndarray:
    """Values at an alpha, linear between those of `GRID`. Shape: (G, ...) -> (...)."""
    high = int(np.searchsorted(GRID, alpha).clip(1))
    share = (alpha - GRID[high - 1]) / (GRID[high] - GRID[high - 1])
    return (1 - share) * values_G[high - 1] + share * values_G[high]


if __name__ == "__main__":
    main()
