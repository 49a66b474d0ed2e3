"""How often intervals of list estimates hold the truth, by exploration and estimator, in worlds whose truth is known.

    python -m benchmarks.loop.lists --worlds 400 --workers 2

A world has users with tastes, a logging policy that knows half of them, and candidates that know more, more and more
sharply. People read a list from its top: they take an item by its taste, less likely the further down and the more they
took above. Lists are drawn with `recalign.serve.server.explore`'s probabilities for a share of the requests; users are
drawn anew in each world, and the truth is that of many others of the same world: weights are clipped, it is not. Saved
are coverage and share refused by exploration and estimator, and the median width beside that of showing the candidate
instead, an A/B test: in as many lists as were drawn (``width``), and in all of them (``width_all``); ``rmse`` is the
estimate's own error. Additive control variates stand beside. Intervals are over worlds.

Suffixes: N lists, V items, K places.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.lib import commit, each, frame, save
from recalign.bootstrap import CrossedBootstrap, Estimate
from recalign.evaluation.offpolicy import LIST_ESTIMATORS, Lists, estimate, of_lists
from recalign.files import atomic_write

ITEMS, K, USERS, EACH, MANY = 40, 5, 1500, 2, 40_000
RATES = {"share .05": (0.05, 1.0), "share .2": (0.2, 1.0), "share 1": (1.0, 1.0), "share 1, temperature 2": (1.0, 2.0)}
SHARPNESS = (0.5, 1.0, 1.5, 2.0)
ADDITIVE = ("cascade_additive", "cascade_additive_gain")
MEASURES = {
    "coverage": pl.col("holds").mean(),
    "rmse": pl.col("error").pow(2).mean().sqrt(),
    "refused": 1 - pl.col("given").mean(),
    "width": pl.col("width").median(),
    "width_all": pl.col("width_all").median(),
}


class Population:
    """A world: tastes of whoever comes, and what policies know of them."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.common_V = self.random.normal(size=ITEMS)

    def tastes(self, users: int) -> tuple[np.ndarray, np.ndarray]:
        """Tastes, and what the logging policy scores. Shape: (N, V) each."""
        taste_NV = self.common_V + self.random.normal(size=(users, ITEMS))
        return taste_NV, 0.5 * taste_NV + 0.5 * self.random.normal(size=taste_NV.shape)

    def drawn(self, score_NV: np.ndarray) -> np.ndarray:
        """A list for each. Shape: (N, K)."""
        return np.argsort(-(score_NV + self.random.gumbel(size=score_NV.shape)), axis=1)[:, :K]

    def earned(self, taste_NV: np.ndarray, item_NK: np.ndarray) -> np.ndarray:
        """What people take, read from the top. Shape: (N, K)."""
        taken_NK = np.zeros(item_NK.shape)
        for k in range(K):
            tired_N = taken_NK[:, :k].sum(axis=1)
            taste_N = np.take_along_axis(taste_NV, item_NK[:, k : k + 1], axis=1)[:, 0]
            chance_N = 1 / (1 + np.exp(1.5 + 0.3 * k + 0.5 * tired_N - taste_N))
            taken_NK[:, k] = self.random.random(len(taste_N)) < chance_N
        return taken_NK


def log_chances(score_NV: np.ndarray, item_NK: np.ndarray) -> np.ndarray:
    """Of each item given those before it. Shape: (N, K)."""
    own_NK = np.take_along_axis(score_NV, item_NK, axis=1)
    rest_NV = score_NV.copy()
    np.put_along_axis(rest_NV, item_NK, -np.inf, axis=1)
    most_N1 = rest_NV.max(axis=1, keepdims=True)
    rest_N1 = most_N1 + np.log(np.exp(rest_NV - most_N1).sum(axis=1, keepdims=True))
    ends_NK = np.logaddexp.accumulate(np.concatenate([rest_N1, own_NK[:, ::-1]], axis=1), axis=1)[:, :0:-1]
    return own_NK - ends_NK


def saved_world(folder: Path | None, seed: int) -> pl.DataFrame:
    """`world`, or what a folder has of it."""
    if folder is None:
        return world(seed)
    path = folder / f"{commit()}-{seed}.parquet"
    if not path.is_file():
        with atomic_write(path) as temporary:
            world(seed).write_parquet(temporary)
    return pl.read_parquet(path)


@dataclass(frozen=True)
class Situation:
    """Lists that a world shows at some rate, and a candidate.

    Attributes:
        named: seed, rate and the candidate's sharpness.
        shown: the lists.
        truth: what the candidate is worth.
        one: width of an A/B test in a single list.
        logged: what drawn lists are worth.
    """

    named: dict[str, Any]
    shown: dict[str, np.ndarray]  # arguments of `of_lists`
    truth: float
    one: float
    logged: float

    def row(self, estimator: str, found: Estimate | None) -> dict[str, Any]:
        """Whether an interval is given, holds the truth, and how wide it is; the error of the estimate itself."""
        row = self.named | {"estimator": estimator, "given": found is not None}
        if found is None:
            return row | dict.fromkeys(TYPES)
        low, high = found.interval()
        truth = self.truth - self.logged if "gain" in estimator else self.truth
        width, drawn = (high - low) / self.one, self.shown["explored_N"]
        widths = {"width": width * np.sqrt(drawn.sum()), "width_all": width * np.sqrt(len(drawn))}
        return row | {"holds": bool(low <= truth <= high), "error": found.value - truth} | widths


def situations(seed: int) -> Iterator[Situation]:
    """Every candidate of a world, at every rate of exploration."""
    people = Population(seed)
    many_NV, known_NV = people.tastes(MANY)
    noise_NV = people.random.normal(size=many_NV.shape)
    for rate, (share, temperature) in RATES.items():
        taste_NV, score_NV = (np.repeat(x, EACH, axis=0) for x in people.tastes(USERS))
        own_NV = np.repeat(people.random.normal(size=(USERS, ITEMS)), EACH, axis=0)
        ranked_NK = np.argsort(-score_NV, axis=1)[:, :K]
        explored_N = people.random.random(len(taste_NV)) < share
        item_NK = np.where(explored_N[:, None], people.drawn(score_NV / temperature), ranked_NK)
        reward_NK = people.earned(taste_NV, item_NK)
        logged = people.earned(many_NV, people.drawn(known_NV / temperature)).sum(axis=1).mean()
        for sharpness in SHARPNESS:
            target_NV = sharpness * (0.8 * taste_NV + 0.2 * own_NV)
            theirs_NK = people.earned(many_NV, people.drawn(sharpness * (0.8 * many_NV + 0.2 * noise_NV)))
            shown = {
                "user_N": np.repeat(np.arange(USERS), EACH),
                "reward_NK": reward_NK,
                "logged_NK": log_chances(score_NV / temperature, item_NK),
                "target_NK": log_chances(target_NV, item_NK),
                "explored_N": explored_N,
                "fixed_N": np.zeros(len(taste_NV), int),
            }
            value_N = theirs_NK.sum(axis=1)
            named = {"seed": seed, "rate": rate, "sharpness": sharpness}
            yield Situation(named, shown, value_N.mean(), float(2 * 1.96 * value_N.std()), logged)


TYPES = {"holds": pl.Boolean, "error": pl.Float64, "width": pl.Float64, "width_all": pl.Float64}


def world(seed: int) -> pl.DataFrame:
    """Our estimates of every candidate at every rate of exploration, a row an estimator."""
    rows = []
    for situation in situations(seed):
        shown = of_lists(**situation.shown)
        found = estimate(shown, clip="cube_root", draws=500).estimates
        found |= additive(shown) if found else {}
        rows += [situation.row(name, found.get(name)) for name in (*LIST_ESTIMATORS, *ADDITIVE)]
    return pl.DataFrame(rows, schema_overrides=TYPES)


def additive(shown: Lists) -> dict[str, Estimate]:
    """Additive control variates in place of self-normalisation, place by place, with the baseline of least variance.

    With g = w for the value (beta*-IPS, arXiv 2602.14914) and g = w - 1 for the gain (Delta-OPE, arXiv 2405.10024):
    mean(g (r - b)), plus b for the value, where b = cov(g r, g) / var(g). Weights are cut as those of `estimate` are.
    """
    lists, reward_NK = len(shown.user_N), shown.reward_NK
    weight_NK = np.minimum(shown.weight_NK, lists ** (1 / 3))
    users, user_N = np.unique(shown.user_N, return_inverse=True)
    bootstrap, count_1U, found = CrossedBootstrap(len(users), 500), np.bincount(user_N)[None], {}
    for name, shift in zip(ADDITIVE, (0, 1), strict=True):
        g_NK = weight_NK - shift
        off_NK = g_NK - g_NK.mean(axis=0)
        b_K = (off_NK * g_NK * reward_NK).sum(axis=0) / np.square(off_NK).sum(axis=0)
        each_N = (g_NK * (reward_NK - b_K) + (1 - shift) * b_K).sum(axis=1)
        value_1, drawn_D1 = bootstrap.ratios(np.bincount(user_N, each_N)[None], count_1U)
        found[name] = Estimate(float(value_1[0]), drawn_D1[:, 0])
    return found


def over_worlds(rows: pl.DataFrame, draws: int = 500) -> dict[str, Estimate]:
    """Each of `MEASURES`, worlds resampled."""
    random, worlds = np.random.default_rng(0), rows.partition_by("seed")
    again = [pl.concat([worlds[n] for n in random.integers(len(worlds), size=len(worlds))]) for _ in range(draws)]
    drawn = [one.select(**MEASURES).row(0) for one in again]
    found = rows.select(**MEASURES).row(0)
    return {
        name: Estimate(np.nan if found[n] is None else found[n], np.array([one[n] for one in drawn], float))
        for n, name in enumerate(MEASURES)
    }


def main() -> None:
    """Measure what the words ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=400)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="folder of worlds that are measured already, to go on from")
    given = parser.parse_args()
    found = pl.concat(each(partial(saved_world, given.keep), range(given.worlds), given.workers))
    lines = []
    for (rate, name), rows in found.partition_by("rate", "estimator", as_dict=True).items():
        for metric, one in over_worlds(rows).items():
            low, high = one.interval()
            print(f"{rate:<24}{name:<20}{metric:<10}{one.value:6.3f}  ({low:.3f} .. {high:.3f})")
            row = f"{rate}, explored, {name}"
            lines.append(("lists", row, metric, one.value, None, low, high, f"{given.worlds} worlds", commit()))
    print(save(frame(lines), "loop/lists", "log", "row"))


if __name__ == "__main__":
    main()
