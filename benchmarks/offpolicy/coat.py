"""Coat for `offpolicy.py`: what reward models learned from chosen coats promise, and what coats drawn at random say."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import torch
import yaml
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from benchmarks.lib import CONF, average, crossed
from recalign.bootstrap import Estimate
from recalign.data.events import LogMapping, data_root
from recalign.data.sequences import High, Where
from recalign.evaluation.baselines import Rerank, SameForAll, log_counts
from recalign.evaluation.exposed import candidates, exposures
from recalign.evaluation.offpolicy import estimate
from recalign.nn import Pooled
from recalign.recommender.checkpoint import load_net
from recalign.recommender.policy import Policy
from recalign.reward import RewardData, RewardEnsemble, RewardModel
from recalign.run.stage.console import quiet

CPU = torch.device("cpu")
STRENGTHS = (1.0, 2.0, 4.0, 8.0)  # of a policy that follows rewards, in 1 / their standard deviation


def coat(seeds: list[int], root: str | None) -> Iterator[tuple[Any, ...]]:
    """Values and ranks on the random half; a seed is a reward model."""
    values: dict[tuple[str, str], list[Estimate | float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), root)
        for seed in seeds:
            data = log(folder, seed)
            reward = fitted(data, seed)
            for key, one in {**valued(data, reward), **ranked(data, reward)}.items():
                values.setdefault(key, []).append(one)
    for (row, metric), found in values.items():
        table = f"coat, {'ranks' if metric.startswith('rank') else 'values'}"
        estimates = [one for one in found if isinstance(one, Estimate)]
        ends = crossed(estimates) if estimates else average(found)  # type: ignore[arg-type]
        yield table, row, metric, *ends, " ".join(map(str, seeds))


def mapping() -> dict[str, Any]:
    return yaml.safe_load((CONF / "data/coat.yaml").read_text(encoding="utf-8"))["data"]["log"]


def write(folder: Path, root: str | None) -> None:
    """Coat, with the chance of each of a user's 16 random coats: they were drawn from 300, none of them twice."""
    file = mapping()["files"][0]
    events = pl.read_parquet(data_root(root) / file)
    before = pl.int_range(pl.len()).over("user_id", "is_random")
    (folder / file).parent.mkdir()
    events.with_columns(propensity=pl.when("is_random").then(1 / (300 - before))).write_parquet(folder / file)


def log(root: str, seed: int) -> RewardData:
    return RewardData(
        log=LogMapping(**mapping()),
        reward="rating",
        high=High("rating >= 4"),
        split=Where("is_random"),
        root=root,
        users="A",
        max_length=50,
        batch_tokens=1600,
        seed=seed,
    )


def fitted(data: RewardData, seed: int) -> RewardEnsemble:
    """A reward model of the chosen half, of the epoch that was best on its validation part."""
    seed_everything(seed, verbose=False)
    module = RewardModel(data.num_items, encoder=Pooled(dim=32, max_length=50), members=3, lr=3e-3, weight_decay=0.1)
    with tempfile.TemporaryDirectory() as folder:
        watched: dict[str, Any] = {"monitor": "reward/rmse", "mode": "min"}
        best = ModelCheckpoint(dirpath=folder, **watched)
        silent: dict[str, Any] = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
        stop = EarlyStopping(patience=3, **watched)
        with quiet():
            Trainer(max_epochs=30, accelerator="cpu", default_root_dir=folder, callbacks=[best, stop], **silent).fit(
                module, data
            )
        reward: RewardEnsemble = load_net(Path(best.best_model_path), "reward").net
    return reward.eval()


def followers(data: RewardData, reward: RewardEnsemble) -> dict[str, Policy]:
    """The uniform policy, and policies that follow the items' means or the reward model."""
    _, scale, item_mean_V = data.moments()
    uniform = SameForAll(torch.zeros(data.num_items))
    policies: dict[str, Policy] = {"uniform": uniform}
    for strength in STRENGTHS:
        policies[f"item mean, {strength:g}"] = SameForAll(torch.from_numpy(item_mean_V) * strength / scale)
        policies[f"reward model, {strength:g}"] = Rerank(uniform, reward, strength / scale)
    return policies


def valued(data: RewardData, reward: RewardEnsemble) -> dict[tuple[str, str], Estimate | float]:
    found: dict[tuple[str, str], Estimate | float] = {}
    for name, shown in exposures(followers(data, reward), reward, data, CPU).items():
        result = estimate(shown)
        found[name, "ess"], found[name, "mean_weight"] = result.ess, result.mean_weight
        found[name, "observed"] = result.observed
        found |= {(name, which): one for which, one in result.estimates.items()}
    return found


def ranked(data: RewardData, reward: RewardEnsemble) -> dict[tuple[str, str], Estimate | float]:
    uniform = SameForAll(torch.zeros(data.num_items))
    *_, item_mean_V = data.moments()
    policies: dict[str, Policy] = {
        "chance": uniform,
        "popularity": SameForAll(log_counts(data.sequences)),
        "item mean": SameForAll(torch.from_numpy(item_mean_V)),
        "reward model": Rerank(uniform, reward, 1.0),
    }
    ranks = candidates(policies, data, CPU)
    return {(name, f"rank/{metric}"): one for name, found in ranks.items() for metric, one in found.items()}
