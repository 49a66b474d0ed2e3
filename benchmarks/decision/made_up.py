"""Figures of a comparison made up event by event, without training: to see whether the decision's rule is what it says.

Users differ, in level and in what a row is worth to them, so that errors are clustered by user. Gains, costs, placebos'
gains and what the judges know are drawn over the range in which the rule has to tell them apart.

Shape legend: U users, E events.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from benchmarks.decision.worlds import CANDIDATES, CONTROLS, PLACEBOS, ROLES
from recalign.data.sequences.audit import FOLLOWS, SEEN
from recalign.data.sequences.placebo import CORRELATION
from recalign.evaluation.comparison import JUDGE_VALUE, NDCG_ALL, PLACEBO_FACTOR, tabulate
from recalign.evaluation.evaluated_runs import ALL_USERS, EvaluatedRun, with_rank_metrics
from recalign.evaluation.findings import CHANCE, COVERAGE
from recalign.evaluation.methods import EVALUATION_SPLITS, UNIT, USER_SPREAD
from recalign.evaluation.reranking import READS_REWARD_MODEL
from recalign.evaluation.selection import SELECT
from recalign.recommender.interpolation import MIN_NDCG_RETAINED

USERS, EVENTS = (100, 300, 600), {"test": 6, "validation": 3}  # users A, events of each
DRAWS = 400  # of the bootstrap
HITS = (0.02, 0.1, 0.25)  # share of events that the start ranks in its ten
REDRAWN = 0.3  # share of events that a row ranks anew
COST_OF = {"popularity": 0.5, "popularity_high": 0.4, "item_mean": 0.2, "item_knn": 0.8, "transitions": 0.6}
SCALE = {"level": 0.6, "worth": 0.15, "event": 0.5}  # standard deviations in value: of users, of a row to a user, left
PLACEBO_SHARES = (0.0, 0.0, 0.3, 0.5, 0.8)  # of a row's gain that its placebo gains


def made_up(seed: int) -> dict[str, Any]:
    """A table, trust reports, and the truth, as `verdicts.recorded` has them."""
    rng = np.random.default_rng([seed, 11])
    users, seeds = int(rng.choice(USERS)), int(rng.choice((1, 3)))
    gains = {name: float(rng.choice((-0.05, 0.0, 0.0, 0.03, 0.06, 0.12, 0.25))) for name in CANDIDATES}
    kept = {name: float(rng.choice((0.90, 0.94, 0.97, 0.99, 1.0, 1.02))) for name in CANDIDATES}
    value = dict.fromkeys(CONTROLS, 0.0) | {"bc": -0.01, "popularity_tilt": float(rng.choice((0.0, 0.01, 0.04)))}
    value |= gains | {sham: float(rng.choice(PLACEBO_SHARES)) * gains[row] for sham, row in PLACEBOS.items()}
    keeps = dict.fromkeys([*CONTROLS, *PLACEBOS], 1.0) | COST_OF | kept
    hits = float(rng.choice(HITS))
    runs = [
        EvaluatedRun(name, one, _summary(name), {split: frames[name] for split, frames in both.items()})
        for one in range(seeds)
        for both in [{split: _events(value, keeps, hits, users, EVENTS[split], rng) for split in EVALUATION_SPLITS}]
        for name in value
    ]
    frame = tabulate(runs, ROLES, DRAWS, (NDCG_ALL, ALL_USERS, SELECT, JUDGE_VALUE)).filter(seed="all")
    truth = {name: {"value": value[name], "ndcg": keeps[name]} for name in ("start", "bc", *CANDIDATES)}
    known = float(rng.choice((0.5, 0.58, 0.65, 0.7)))
    verdicts = ("strong", "moderate", "moderate", "weak", "no_signal", "not_measured")
    of_reward, of_judges = (
        str(rng.choice(verdicts, p=chances)) for chances in (None, (0.2, 0.4, 0.2, 0.1, 0.05, 0.05))
    )
    return {
        "kind": f"{users} users",
        "truth": truth,
        "wrong": {name: list(_wrong(name, value, keeps, known, of_reward)) for name in CANDIDATES},
        "trust": _trust(known, of_reward, of_judges, rng),
        "check": {"test": {SEEN: 0.0, FOLLOWS: 0.0}},
        "rows": frame.rows(),
    }


def _wrong(name: str, value: dict[str, float], keeps: dict[str, float], known: float, of_reward: str) -> Iterator[str]:
    """Why it would be wrong to ship a row."""
    if value[name] <= max(value["start"], value["bc"]):
        yield "no gain"
    if value[name] <= value["popularity_tilt"]:
        yield "no more than popularity_tilt"
    if any(value[name] <= PLACEBO_FACTOR * value[sham] for sham in ROLES.placebos_of(name) if value[sham] > 0):
        yield "a placebo has half of it"
    if keeps[name] < MIN_NDCG_RETAINED:
        yield "keeps less"
    if known <= CHANCE:
        yield "judges guess"
    if of_reward in ("no_signal", "not_measured") and _reads(name):
        yield "the reward model is not known to know"


def _reads(name: str) -> bool:
    return name not in ("reward_weighted", "rerank_item_mean")


def _summary(name: str) -> dict[str, object]:
    coverage = COVERAGE.removeprefix("policy/")
    reads = {READS_REWARD_MODEL: float(_reads(name))}
    sham = {CORRELATION: 0.0} if name in PLACEBOS else reads
    return {UNIT: 1.0, USER_SPREAD: 0.6, coverage: 0.02 if name in COST_OF else 0.4, **sham}


def _events(
    value: dict[str, float], keeps: dict[str, float], hits: float, users: int, events: int, rng: np.random.Generator
) -> dict[str, pl.DataFrame]:
    """Events of every row; rows share what users and events have in common, as policies of one start do."""
    user_E = np.repeat(np.arange(users), events)
    level_E = (SCALE["level"] * rng.normal(size=users))[user_E] + SCALE["event"] * rng.normal(size=len(user_E))
    rank_E = _ranks(hits, len(user_E), rng)
    frames = {}
    for name, mean in value.items():
        own_U = 0.0 if name == "start" else SCALE["worth"] * rng.normal(size=users)
        anew_E = rng.random(len(user_E)) < (0.0 if name == "start" else REDRAWN if keeps[name] > 1 - REDRAWN else 1.0)
        share = (keeps[name] - (1 - anew_E.mean())) / anew_E.mean() if anew_E.any() else 1.0
        own_E = np.where(anew_E, _ranks(hits * max(share, 0.0), len(user_E), rng), rank_E)
        worth_E = 3 + mean + level_E + np.broadcast_to(own_U, users)[user_E]
        noise_E = 0.1 * rng.normal(size=len(user_E))
        frame = pl.DataFrame(
            {"user": user_E, "event": np.arange(len(user_E)), "rank": own_E.astype(np.uint32), "judge@10": worth_E}
        )
        frames[name] = with_rank_metrics(frame.with_columns(pl.Series("select_judge@10", worth_E + noise_E)))
    return frames


def _ranks(hit: float, events: int, rng: np.random.Generator) -> np.ndarray:
    """Ranks 1 to 10 for a share of the events, 100 for the others."""
    return np.where(rng.random(events) < hit, rng.integers(1, 11, size=events), 100)


def _trust(known: float, of_reward: str, of_judges: str, rng: np.random.Generator) -> dict[str, dict[str, Any]]:
    """Judges that order a share ``known`` of pairs (half-width of the interval .03 to .08), and a reward model."""
    half = float(rng.uniform(0.03, 0.08))
    seen = known + half / 1.96 * float(rng.normal())
    part = {"table": {"model": {"pairwise": [seen, seen - half, seen + half]}}}
    judge = {"verdict": of_judges, "implication": "", "judged_on": "validation", "validation": part}
    return {"reward": {"0": {"verdict": of_reward, "implication": ""}}, "judge_report": {"0": judge}}
