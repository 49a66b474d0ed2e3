"""Which items A-SFT's weights ask for, and how much of that is left when rewards are permuted (`sequences.placebo`).

    python benchmarks/placebo.py --log kuairand-pure-excerpt [--log ml-1m] [--runs runs] [--data DIR]

Of a chain that has run (benchmarks/methods.py), for every seed: the items' mean rewards, averaged over the events that
are trained on, each event counted once; by A-SFT's weight; by the placebo's (`asft_permuted`); and by nothing but how
much its user weighs under the placebo. What the last gains is due to which users weigh most, and no permutation that
keeps user means can take it away. Advantages are worked out anew; nothing is trained.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import torch
import yaml
from tables import SCHEMA, beside_other_logs, commit, markdown, save

from recalign.chain import Chain, Plan
from recalign.posttrain import PostTrainingData
from recalign.posttrain.weighted import weights
from recalign.sequences import reward_means

CHAINS = Path(__file__).parents[1] / "conf" / "chain"
COLUMNS = {
    "item_mean": "items' mean reward",
    "shift": "over every event once, as a share of A-SFT's",
    "users": "correlation of a user's weight with its mean reward",
    "early": "share of the events among their user's first ten with a reward",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", required=True, action="append")
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--data", help="data root; else RECALIGN_DATA, else data")
    given = parser.parse_args()
    for log in given.log:
        file = CHAINS / f"{log}-methods.yaml"
        chain = Chain(**yaml.safe_load(file.read_text()) | {"root": given.runs})
        plan = Plan(chain, file, {None: {"data.root": given.data} if given.data else {}})
        cells = [cell for seed in chain.seeds for cell in of_seed(plan, seed)]
        rows = table(cells, log, chain.seeds)
        print(f"\n{log}, {commit()}\n\n{markdown(rows, COLUMNS)}\n", flush=True)
        print(save(beside_other_logs(rows, "placebo"), "placebo"), flush=True)


def of_seed(plan: Plan, seed: int) -> Iterator[tuple[str, str, float]]:
    """Row, metric and value."""
    asft, permuted = (events(plan, method, seed) for method in ("asft", "asft_permuted"))
    by_user = pl.col("weight").mean().over("user")
    forms = {
        "every event once": asft.with_columns(weight=pl.lit(1.0)),
        "asft": asft,
        "asft_permuted": permuted,
        "asft_permuted, a user's mean weight": permuted.with_columns(weight=by_user),
    }
    asked = {row: float(np.average(frame["item_mean"], weights=frame["weight"])) for row, frame in forms.items()}
    yield "every event once", "early", float((asft["earlier"].to_numpy() < 10).mean())
    once, best = asked["every event once"], asked["asft"]
    for row, frame in forms.items():
        yield row, "item_mean", asked[row]
        yield row, "shift", (asked[row] - once) / (best - once)
        if row.startswith("asft"):
            users = frame.group_by("user").agg(pl.mean("weight", "reward"))
            yield row, "users", users.select(pl.corr("weight", "reward", method="spearman")).item()


def events(plan: Plan, method: str, seed: int) -> pl.DataFrame:
    """The events that a method is trained on: user, reward, mean reward of the item (training rows), weight."""
    found = pl.read_csv(plan.folder / "search.csv").filter((pl.col("method") == "asft") & pl.col("chosen"))
    parsed = plan.parsed(method, seed, json.loads(found["settings"].item()))
    data: PostTrainingData = parsed.datamodule()  # type: ignore[assignment]
    data.setup("fit")
    event, model = data.logged["event"].to_numpy(), parsed.config["model"]["init_args"]
    advantage_T = torch.from_numpy(data.advantages[event])
    weight_T = weights(advantage_T, model["transform"], model["temperature"], model["clip"])[0]
    earlier = pl.col("reward").is_not_null().cum_sum().over("user") - 1
    item_mean, weight = reward_means(data.logged)["item"], pl.Series(weight_T.numpy())
    frame = data.logged.select("user", "reward", earlier=earlier, item_mean=item_mean, weight=weight)
    return frame.filter(~np.isnan(data.advantages[event]))


def table(cells: list[tuple[str, str, float]], log: str, seeds: list[int]) -> pl.DataFrame:
    """Mean and standard deviation over the seeds; no interval: all of a seed's events are counted."""
    frame = pl.DataFrame(cells, schema=["row", "metric", "mean"], orient="row")
    rows = frame.group_by("row", "metric", maintain_order=True).agg(pl.mean("mean"), pl.col("mean").std().alias("sd"))
    constant = {"log": log, "seeds": " ".join(map(str, seeds)), "commit": commit()}
    empty = {end: pl.lit(None, pl.Float64) for end in ("ci_low", "ci_high")}
    return rows.with_columns(**{k: pl.lit(v) for k, v in constant.items()}, **empty).select(SCHEMA)


if __name__ == "__main__":
    main()
