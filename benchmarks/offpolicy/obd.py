"""The Open Bandit Dataset's sample for `offpolicy.py`: two policies that were both run, each estimated from the other.

Saito et al. (2020), "Open Bandit Dataset and Pipeline"; the wheel of obp 0.4.1 holds 10,000 impressions of each policy
in each of three campaigns. There is no user id, so every impression is a unit of its own.
"""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recalign.bootstrap import Estimate
from recalign.evaluation.offpolicy import Exposures, OffPolicy, estimate

WHEEL = "obp==0.4.1"
CAMPAIGNS = ("all", "men", "women")
COLUMNS = ["item_id", "position", "click", "propensity_score"]


def obd(cache: Path) -> Iterator[tuple[Any, ...]]:
    """Both directions of each campaign: the estimates, what the other policy earned, and the difference."""
    for campaign in CAMPAIGNS:
        logs = {policy: read(cache, policy, campaign) for policy in ("random", "bts")}
        earned = {policy: value(own, own["propensity_score"].to_numpy(), seed=1) for policy, own in logs.items()}
        for logging, target in (("random", "bts"), ("bts", "random")):
            found = value(logs[logging], chances(logs[logging], logs[target]), seed=0)
            row, other = f"{campaign}: {logging} -> {target}", earned[target].estimates["ips"]
            for metric in ("ess", "mean_weight", "max_weight"):
                yield "obd", row, metric, getattr(found, metric), None, None, None, "0"
            yield "obd", row, "clicks", float(logs[logging]["click"].sum()), None, None, None, "0"
            yield "obd", row, "earned", other.value, None, *other.interval(), "0"
            for name, one in found.estimates.items():
                yield "obd", row, name, one.value, None, *one.interval(), "0"
                difference = Estimate(one.value - other.value, one.draws_D - other.draws_D)
                yield "obd", row, f"diff/{name}", difference.value, None, *difference.interval(), "0"


def value(logging: pl.DataFrame, target_N: np.ndarray, seed: int) -> OffPolicy:
    """What a log says of a policy that would have shown its items with these chances."""
    click_N = logging["click"].cast(pl.Float64).to_numpy()
    beta_N = logging["propensity_score"].to_numpy()
    return estimate(Exposures(np.arange(len(logging)), click_N, beta_N, target_N), seed=seed)


def chances(logging: pl.DataFrame, target: pl.DataFrame) -> np.ndarray:
    """The chances that one log's policy gave to what another log showed, in its position.

    The uniform policy's are its propensities. bts learned in the week of the log, so that its chance of an item in a
    position is taken from the share of its impressions there.
    """
    if target["propensity_score"].n_unique() == 1:
        return np.full(len(logging), target["propensity_score"][0])
    shares = target.group_by("position", "item_id").len("share").with_columns(
        pl.col("share") / pl.col("share").sum().over("position")
    )  # fmt: skip
    joined = logging.join(shares, on=["item_id", "position"], how="left", maintain_order="left")
    return joined["share"].fill_null(0.0).to_numpy()


def read(cache: Path, policy: str, campaign: str) -> pl.DataFrame:
    """A log of the sample: item, position, click, propensity."""
    with zipfile.ZipFile(wheel(cache)) as opened:
        return pl.read_csv(
            io.BytesIO(opened.read(f"obp/dataset/obd/{policy}/{campaign}/{campaign}.csv")), columns=COLUMNS
        )


def wheel(cache: Path) -> Path:
    """The wheel, fetched where it is missing; nothing of it is installed."""
    if not (found := list(cache.glob("obp-*.whl"))):
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*pip, "--dest", str(cache), WHEEL], check=True)
        found = list(cache.glob("obp-*.whl"))
    return found[0]
