"""Evaluation artefacts made up for tests, with effects that are known."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import small

from recalign.data.sequences import UserCohort
from recalign.evaluation.chain_comparison import save_roles
from recalign.evaluation.methods import BaseCheckpoints
from recalign.evaluation.roles import Roles
from recalign.reward import RewardData

# method -> (how far it moves high-reward targets up, value under the judges, under the training reward model)
EFFECTS = {
    "popularity": (-1.0, 3.50, 3.60),
    "popularity_high": (-0.8, 3.55, 3.65),
    "item_mean": (-2.5, 3.90, 4.10),
    "item_knn": (-0.4, 3.55, 3.60),
    "transitions": (-0.5, 3.55, 3.60),
    "start": (0.0, 3.60, 3.70),
    "popularity_tilt": (0.0, 3.62, 3.72),
    "rerank": (0.1, 3.70, 4.20),
    "bc": (0.05, 3.60, 3.71),
    "reward_weighted": (0.1, 3.63, 3.75),
    "exp_reward": (0.2, 3.66, 3.80),
    "asft": (0.6, 3.80, 3.95),
    "asft_permuted": (0.0, 3.60, 3.70),
    "asft_random": (-0.02, 3.595, 3.70),
    "ppo": (-0.9, 3.65, 4.60),
}
ROLES = Roles("asft", {"asft_permuted": "asft", "asft_random": "asft"})
UNTRAINED = ("popularity", "popularity_high", "item_mean", "item_knn", "transitions", "popularity_tilt", "rerank")


def write_run(folder: Path, method: str, seed: int, users: int, events: int, high: np.ndarray | None = None) -> None:
    """Write `<folder>/<method>/seed-<n>/evaluation/`: `events` test events of each user, two of validation."""
    lift, judge, reward_model = EFFECTS.get(method, (0.0, 3.6, 3.7))
    out = folder / method / f"seed-{seed}" / "evaluation"
    out.mkdir(parents=True)
    for split, per_user in (("test", events), ("validation", 2)):
        frame = _events(users, per_user, np.random.default_rng([seed, per_user]), (lift, judge, reward_model))
        if method in ("popularity", "popularity_high", "item_mean"):
            frame = frame.with_columns(pl.lit(None, pl.Float64).alias(name) for name in ("kl", "entropy", "true"))
        frame.sample(fraction=1, shuffle=True, seed=seed).write_parquet(out / f"{split}.parquet")
    cost = {"cost/steps": 0, "cost/seconds": 0.0, "cost/events": 0}
    if method not in UNTRAINED:
        cost = {"cost/steps": 400, "cost/seconds": 30.0 + seed, "cost/events": 51_200}
    summary = {"method": method, "seed": seed, "log": "made-up", "coverage@10": 0.2 + 0.01 * seed, "cold_targets": 0.01}
    spread = {"reward/sd": 1.0, "reward/user_sd": 0.5}
    sham = {"placebo/correlation": 0.01} if method in ROLES.placebos else {}
    (out / "summary.json").write_text(json.dumps(summary | cost | spread | sham))


def _events(users: int, per_user: int, rng: np.random.Generator, effect: tuple[float, float, float]) -> pl.DataFrame:
    """Draws that depend on the seed alone, so that methods differ by their effects only."""
    lift, judge, reward_model = effect
    n = users * per_user
    user = np.repeat(np.arange(users), per_user)
    high = rng.random(n) < 0.25
    taste = np.repeat(rng.normal(size=users), per_user)
    log_rank = 4.0 - lift * (0.3 + high) + 1.2 * rng.normal(size=n) - 0.5 * taste
    missing = rng.random(n) < 0.01
    quality = (1 + 0.3 * lift) * (0.3 * taste + 0.2 * rng.normal(size=n)) + 0.03 * lift * rng.normal()
    return pl.DataFrame(
        {
            "user": pl.Series(user * 3, dtype=pl.UInt32),
            "event": pl.Series(np.arange(n) * 7, dtype=pl.UInt32),
            "rank": pl.Series(np.where(missing, 0, np.ceil(np.exp(log_rank.clip(0, 7)))), dtype=pl.UInt32),
            "not_in_catalogue": missing,
            "high": high,
            "high_user": taste > 0,
            "judge@10": judge + quality,
            "select_judge@10": judge + 0.02 + quality,
            "reward_model@10": reward_model + quality,
            "true@10": judge - 0.1 + quality,
            "true": judge - 0.2 + quality,
            "kl": np.full(n, 0.1 * abs(lift)) + abs(reward_model - 3.7),
            "entropy": 5 - 0.1 * rng.random(n),
            "popularity@10": 0.02 + 0.001 * rng.random(n),
        }
    )


@pytest.fixture(scope="module")
def data(log_root) -> RewardData:
    return small.data_of(RewardData, log_root, "tastes")


@pytest.fixture
def made_up_run() -> Callable[..., None]:
    """`write_run`."""
    return write_run


@pytest.fixture(scope="session")
def made_up_chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished chain of all methods in `EFFECTS`, 3 seeds, 150 users; nobody may write in it but `compare`."""
    folder = tmp_path_factory.mktemp("runs") / "made-up"
    folder.mkdir()
    save_roles(folder, ROLES, EFFECTS)
    for method in EFFECTS:
        for seed in range(3):
            write_run(folder, method, seed, users=150, events=5)
    return folder


@pytest.fixture
def base(cloned, rewarded, log_root, tmp_path) -> BaseCheckpoints:
    """Three reward models with the same weights, and the users that a chain would train them on."""
    paths = {"start": cloned, "reward": rewarded, "judge_select": rewarded, "judge_report": rewarded}
    paths = {name: Path(shutil.copy(path, tmp_path / f"{name}.ckpt")) for name, path in paths.items()}
    sequences = small.data_of(RewardData, log_root, "tastes").sequences
    for name, group in (("judge_select", "B1"), ("judge_report", "B2")):
        small.says_users(paths[name], UserCohort.of(sequences, group, 0.7))
    return BaseCheckpoints(**paths)
