"""Items that training never saw: with and without features, and what post-training does to them.

    python benchmarks/cold_items.py [--log ml-1m] [--seeds 0 1 2] [--methods start asft rerank ...]

Two disjoint sets of the items in training, 5 % to choose on and 10 % to test, stratified by popularity, other ones for
each seed, leave the training events and so the histories in them. The first set's events stay in validation, the
second's in the test. Each seed then has a recommender, `ids`, which knows nothing of the items held out and so misses
them, and a chain with the features of conf/data/<log>-items.yaml (of `world`: items' positions in a simulated world),
whose rows are the methods. A run that has finished is not run again.

Cold targets are test events on the items of the second set: hit rates and NDCG over the whole catalogue, seen items
left out; the hit rate among these items alone; and what chance has. The price is the NDCG@10 of all test events, and
of the others, less that of `ids`. Intervals: a bootstrap crossed over users and items, seeds pooled. Under 400 cold
targets or 100 cold items the script says that nothing is to be concluded.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import yaml
from tables import CONF, commit, figure, frame, markdown, options, save

import recalign as ra
from recalign.chain.train import train
from recalign.cli import main as recalign
from recalign.events import read_features
from recalign.events.items import ItemValues
from recalign.files import replacing
from recalign.metrics.rank import gain_ndcg
from recalign.nn import ranks_from_scores
from recalign.recommender import Policy
from recalign.sequences import Batch, EventDataModule, Sequences, Split
from recalign.sequences.splits import TEST, TRAIN, VALIDATION
from recalign.simulation import World, simulate
from recalign.stage import parse_stage
from recalign.stage.opened import opened

BLOCK, CHOOSE, HELD = 20, 1, 3
"""Of so many items of like popularity, one is held out to choose on, and those up to the third to test."""
EVENTS: dict[str, Any] = {name: name for name in ("user", "item", "timestamp", "reward")} | {"high": "is_high"}
"""Columns of a log that is written."""
IDS, METHODS = "ids", ("start", "bc", "asft", "dpo", "ppo", "rerank", "asft_rerank")
CUTS = (10, 50, 200)
LEAST_TARGETS, LEAST_ITEMS = 400, 100
DRAWS = 500
COLUMNS = {
    **{f"cold/hr@{k}": f"cold hr@{k}" for k in CUTS},
    **{"cold/ndcg@10": "cold ndcg@10", "cold/hr@50/items": "hr@50, mean over items"},
    **{"cold/among/hr@10": "among cold hr@10", "chance/hr@50": "chance hr@50"},
    **{"all/ndcg@10/minus_ids": "all ndcg@10 - ids", "warm/ndcg@10/minus_ids": "warm ndcg@10 - ids"},
}
GROUPS: dict[str, Callable[[pl.Expr], pl.Expr]] = {
    "known_users": lambda cold: cold & pl.col("known"),
    "new_users": lambda cold: cold & ~pl.col("known"),
    "cold_histories": lambda cold: cold & pl.col("cold_history"),
    "warm_histories": lambda cold: cold & ~pl.col("cold_history"),
}
"""Kinds of cold targets that stand apart in the saved rows."""


def main() -> None:
    parser = options(__doc__, seeds=[0, 1, 2], runs="runs/cold-items", data=True)
    parser.add_argument("--log", default="ml-1m", help="with a conf/data/<log>-items.yaml, or world")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="rows of the chain with features")
    parser.add_argument("--world", default="{}", help="settings of a simulated world, as YAML, for --log world")
    parser.add_argument("--no-save", action="store_true", help="print alone, as for a trial")
    parser.add_argument("chain", nargs="*", help="words for every chain, after --: -- --trainer.max_epochs 1")
    given = parser.parse_args()
    ranks = pl.concat([of_seed(given, seed) for seed in given.seeds])
    rows = table(ranks, given)
    print(f"\n{markdown(rows, COLUMNS, 4, figure)}\n\n{said(ranks)}")
    if not given.no_save:
        print(save(rows, "cold_items", "log", "row"))


def of_seed(given: argparse.Namespace, seed: int) -> pl.DataFrame:
    """The ranks of one seed's test events under every row."""
    folder, parts = given.runs / given.log / f"seed-{seed}", []
    whole, values = known_log(given, seed)
    choose, test = held_out(whole.item_counts(), seed)
    for name, methods in ((IDS, ["start"]), ("features", given.methods)):
        log = written(whole, values if name != IDS else None, choose, test, folder / name, given.log)
        (alone if name == IDS else chain)(log, folder, name, methods, seed, given)
        for method in methods:
            row = name if name == IDS else method
            kept = folder / f"ranks-{row}.parquet"
            if not kept.is_file():
                run = folder / name / ("recommender" if method == "start" else method) / f"seed-{seed}"
                made = opened(run)
                found = measured(made.policy, made.data, whole.items.gather(test))
                with replacing(kept) as path:
                    found.with_columns(row=pl.lit(row)).write_parquet(path)
            parts.append(pl.read_parquet(kept).with_columns(pl.lit(seed).alias("seed")))
    return pl.concat(parts)


def known_log(given: argparse.Namespace, seed: int) -> tuple[Sequences, ItemValues]:
    """A log, split, and what is known of its items."""
    if given.log == "world":
        settings = {"users": 400, "items": 600, "events": 30_000} | yaml.safe_load(given.world)
        made = simulate(World(seed=1000 + seed, **settings))
        folder = given.runs / "world" / f"seed-{seed}"
        items = pl.DataFrame({"item": made.items, "position": made.people.position_ID.tolist()})
        log = ra.Log.from_frame(
            made.events.rename({"high": "is_high"}),
            **EVENTS,
            items=items,
            features={"position": "position"},
            folder=folder / "whole",
            split={"class_path": "recalign.sequences.TimeSplit", "init_args": {"cuts": [0.8, 0.9]}},
        )
        words = [f"--config={log.yaml}"]
    else:
        words = [f"--config={CONF / 'data' / given.log}-items.yaml"]
        words += [f"--data.root={given.data}"] if given.data else []
    stage = parse_stage(["fit", f"--config={CONF / 'recommender.yaml'}", *words])
    data: EventDataModule = stage.datamodule()  # type: ignore[assignment]
    values = read_features(data.log_, Path(data.root) if data.root else None, data.table.items)
    assert values is not None
    return data.sequences, values


def held_out(count_V: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Items (numbers from 0) to choose on and to test on: of each block of like popularity, others for each seed."""
    warm = np.flatnonzero(count_V)
    by_count = warm[np.argsort(-count_V[warm], kind="stable")]
    order = np.random.default_rng(0)
    blocks = [order.permutation(by_count[at : at + BLOCK]) for at in range(0, len(by_count), BLOCK)]
    fold = HELD * (seed % (BLOCK // HELD))
    choose = np.concatenate([block[fold : fold + CHOOSE] for block in blocks])
    return choose, np.concatenate([block[fold + CHOOSE : fold + HELD] for block in blocks])


def written(
    whole: Sequences, values: ItemValues | None, choose: np.ndarray, test: np.ndarray, folder: Path, name: str
) -> Path:
    """Write a log without the events that are held out; its YAML."""
    raw = whole.items.gather(whole.frame["item_id"].clip(1) - 1)  # a catalogue with features has every item
    held = raw.is_in(whole.items.gather(choose).implode()), raw.is_in(whole.items.gather(test).implode())
    part = whole.frame["split"]
    dropped = (held[0] & part.is_in([TRAIN, TEST])) | (held[1] & part.is_in([TRAIN, VALIDATION]))
    events = whole.frame.select(
        "timestamp", "reward", user=whole.users.gather(whole.frame["user"]), item=raw, is_high="high", part="split"
    ).filter(~dropped & (whole.frame["item_id"] > 0))
    log = ra.Log.from_frame(
        events,
        **EVENTS,
        **({} if values is None else known_items(values)),
        folder=folder,
        name=name,
        time_unit="s",
        split={"class_path": "cold_items.Marked"},
    )
    named = folder / f"{name}.yaml"  # so that the chain reads what conf/recommender/ says of the log
    named.write_text(log.yaml.read_text())
    return named


class Marked(Split):
    """The split that a log was written with."""

    def assign(self, table: Any) -> pl.Series:
        return table.frame["part"].cast(pl.UInt8)


def known_items(values: ItemValues) -> dict[str, Any]:
    """An item table of values as they are, and how to read it."""
    settings = {
        name: {"value": f'"{name}"', "kind": kind, "bins": values.specified[name].bins}
        for name, kind in values.kinds.items()
    }
    return {"items": values.values.select(values.ids.alias("item"), pl.all()), "features": settings}


def alone(log: Path, folder: Path, name: str, methods: list[str], seed: int, given: argparse.Namespace) -> None:
    """Train the recommender of one seed."""
    recipe = CONF / "recommender" / log.name
    files = [CONF / "recommender.yaml", log, *([recipe] if recipe.is_file() else [])]
    words = ["fit", *(f"--config={file}" for file in files), f"--seed_everything={seed}", f"--run.root={folder}"]
    train(parse_stage([*words, f"--run.chain={name}", *given.chain]), verbose=True)


def chain(log: Path, folder: Path, name: str, methods: list[str], seed: int, given: argparse.Namespace) -> None:
    """Run the chain of one seed, with or without features."""
    settings: dict[str, Any] = {"log": str(log.resolve()), "methods": methods, "name": name, "seeds": [seed]}
    settings |= {"root": str(folder), "baselines": ["start"]}
    path = folder / f"{name}-chain.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    words = ["chain", "--config", str(path), *given.chain]
    print(f"recalign {' '.join(words)}", flush=True)
    if code := recalign(words):
        raise SystemExit(code)


@torch.no_grad()
def measured(policy: Policy, data: EventDataModule, cold: pl.Series) -> pl.DataFrame:
    """Rank of every test event of all users over the catalogue, of cold ones among cold items too, and chance.

    Among cold items, those that were seen are not left out.
    """
    sequences, parts = data.sequences, []
    cold_V = torch.from_numpy(sequences.items.is_in(cold.implode()).to_numpy())
    for batch in data.loader(data.windows("test", "all")):
        rank_T = policy.ranks(policy.encode(batch), batch.target_T, batch.seen_N)
        is_cold_T = cold_V[batch.target_T.clamp(min=1) - 1] & (batch.target_T > 0)
        seen_T = torch.bincount(batch.seen_N[0], minlength=len(rank_T))
        has_cold_B = (cold_V[batch.item_BL.clamp(min=1) - 1] & (batch.item_BL > 0)).any(dim=1)
        among_T = torch.zeros_like(rank_T)
        if is_cold_T.any():
            among_T[is_cold_T] = among(policy, batch.keep(is_cold_T), cold_V)
        columns = {
            "event": batch.event_T,
            "rank": rank_T,
            "among": among_T,
            "left": sequences.num_items - seen_T,
            "cold_history": has_cold_B[batch.row_T],
        }
        parts.append(pl.DataFrame({key: x.numpy() for key, x in columns.items()}))
    found = pl.concat(parts)
    own = sequences.frame.select("event", "user", "item").with_columns(pl.col("event").cast(pl.Int64))
    table = found.join(own, on="event", how="left", maintain_order="left")
    raw = data.table.items.gather(table["item"])
    known = pl.Series(sequences.trained > 0).gather(table["user"])
    is_cold = raw.is_in(cold.implode())
    return table.with_columns(item=raw.cast(pl.String), known=known, cold=is_cold)


def among(policy: Policy, batch: Batch, cold_V: torch.Tensor) -> torch.Tensor:
    """Ranks of cold targets among cold items. Shape: -> int64 (T,)."""
    logp_TV = policy.log_probs(policy.encode(batch))
    return ranks_from_scores(logp_TV.masked_fill(~cold_V, -torch.inf), batch.target_T - 1)


def table(ranks: pl.DataFrame, given: argparse.Namespace) -> pl.DataFrame:
    """All figures of all rows, as results are saved."""
    ids = ranks.filter(pl.col("row") == IDS).select("seed", "event", other="rank")
    lines, seeds = [], " ".join(map(str, given.seeds))
    for row in ranks["row"].unique(maintain_order=True):
        own = ranks.filter(pl.col("row") == row).join(ids, on=["seed", "event"], how="left").fill_null(0)
        for metric, (chosen, gain, by_item) in figures(row).items():
            events = own.filter(chosen).select("seed", "user", "item", value=gain)
            if len(events):
                lines.append((given.log, row, metric, *ends(events, by_item), seeds, commit()))
    return frame(lines)


Figure = tuple[pl.Expr, pl.Expr, bool]


def figures(row: str) -> dict[str, Figure]:
    """Each figure of a row: which events, the gain of one, and whether items rather than events are averaged."""
    cold, rank = pl.col("cold"), pl.col("rank")
    found: dict[str, Figure] = {f"cold/hr@{k}": (cold, hits("rank", k), False) for k in CUTS}
    found |= {f"cold/{name}/hr@50": (of(cold), hits("rank", 50), False) for name, of in GROUPS.items()}
    found["cold/ndcg@10"] = cold, ndcg("rank"), False
    found["cold/hr@50/items"] = cold, hits("rank", 50), True
    found["cold/among/hr@10"] = cold, hits("among", 10), False
    for k in CUTS:
        found[f"chance/hr@{k}"] = cold, (k / pl.col("left")).clip(upper_bound=1.0), False
    for name, chosen in (("all", rank.is_not_null()), ("warm", ~cold)):
        found[f"{name}/ndcg@10"] = chosen, ndcg("rank"), False
        if row != IDS:
            found[f"{name}/ndcg@10/minus_ids"] = chosen, ndcg("rank") - ndcg("other"), False
    return found


def hits(column: str, k: int) -> pl.Expr:
    return pl.col(column).is_between(1, k).cast(pl.Float64)


def ndcg(column: str) -> pl.Expr:
    def gain(rank: pl.Series) -> pl.Series:
        return pl.Series(gain_ndcg(rank.to_numpy(), 10))

    return pl.col(column).map_batches(gain, return_dtype=pl.Float64)


def ends(events: pl.DataFrame, by_item: bool) -> tuple[float, float | None, float, float]:
    """Mean over seeds, sd between them, and the interval of a bootstrap crossed over users and items."""
    if by_item:
        events = events.with_columns(weight=1 / pl.len().over("seed", "item"))
    else:
        events = events.with_columns(weight=pl.lit(1.0))
    weighted = (pl.col("value") * pl.col("weight")).sum() / pl.col("weight").sum()
    by_seed = events.group_by("seed", maintain_order=True).agg(value=weighted)["value"]
    low, high = crossed(events)
    return float(by_seed.mean()), by_seed.std() if len(by_seed) > 1 else None, low, high  # type: ignore[arg-type, return-value]


def crossed(events: pl.DataFrame, draws: int = DRAWS) -> tuple[float, float]:
    """95 % interval of the weighted mean of values, users and items drawn with replacement (Owen 2007)."""
    user_N, item_N = (events[name].rank("dense").to_numpy() - 1 for name in ("user", "item"))
    value_N, weight_N = events["value"].to_numpy(), events["weight"].to_numpy()
    random, found = np.random.default_rng(0), []
    users, items = int(user_N.max()) + 1, int(item_N.max()) + 1
    for _ in range(draws):
        drawn = [np.bincount(random.integers(n, size=n), minlength=n) for n in (users, items)]
        own_N = weight_N * drawn[0][user_N] * drawn[1][item_N]
        if own_N.sum():
            found.append((own_N * value_N).sum() / own_N.sum())
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def said(ranks: pl.DataFrame) -> str:
    """How many cold targets and items the figures rest on, and whether that is enough."""
    cold = ranks.filter(pl.col("cold") & (pl.col("row") == IDS))
    targets, items = len(cold), cold.n_unique(["seed", "item"])
    enough = targets >= LEAST_TARGETS and items >= LEAST_ITEMS
    few = "" if enough else f". Under {LEAST_TARGETS} targets or {LEAST_ITEMS} items nothing is to be concluded"
    return f"{targets:,} cold targets of {items:,} items, all seeds{few}"


if __name__ == "__main__":
    main()
