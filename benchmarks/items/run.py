"""Items that training never saw: what policies know of them, beside other ways to know it, and after post-training.

    python -m benchmarks.items.run --log ml-1m [--seeds 0 1 2] [--rows ids start titles asft ...] [--data DIR]
    python -m benchmarks.items.run --log world [--world '{users: 300}'] -- --trainer.max_epochs=1

Two disjoint sets of the items in training, 5 % to choose on and 10 % to test, stratified by popularity, other ones for
each seed, leave the training events and so the histories in them. The first set's events stay in validation, the
second's in the test. Logs: those with a conf/logs/<log>-items.yaml, or simulated worlds, whose items are known by their
true positions. The rows:

- `ids` knows nothing of the items held out and so misses them. `start` has the log's features and id dropout;
  `no_dropout` has the features; `titles` also has the titles, as a vector (hashed n-grams of letters, SVD).
- The others are methods of a chain that begins at `start`.

Cold targets are test events on the items of the second set: hit rates and NDCG over the whole catalogue, seen items
left out; the hit rate among these items alone; and what chance has. `shown` is the share of the first ten items that
have no training event. The price is the NDCG@10 of all test events, and of the others, less that of `ids`. Known users
have training events. Intervals: a bootstrap crossed over users and items, seeds pooled; in worlds
Student's over worlds. Under 400 cold targets or 100
cold items the script says that nothing is to be concluded.

A run that has finished is not run again, and ranks are kept with the run: call it again to go on. Rows are saved after
each seed, so far as they have run.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from benchmarks.items.logs import WORLD, HeldOut, known_log, written
from benchmarks.items.ranks import CUTS, IDS, START, measured, said, table
from benchmarks.lib import CONF, figure, markdown, options, save
from recalign.cli import main as recalign
from recalign.files import atomic_write, digest
from recalign.run.chain.plan import train
from recalign.run.stage import parse_stage
from recalign.run.stage.opened import open_run

TITLES = "titles"
RECOMMENDERS: dict[str, tuple[str, dict[str, Any]]] = {
    IDS: ("ids", {}),
    "no_dropout": ("features", {"init_args": {"id_dropout": 0.0}}),
    TITLES: ("titles", {}),
}
"""Rows that are a recommender: what they are told of items (`logs.FORMS`), and their settings of the model."""
ASKED_FOR = (
    *("rerank_item_mean", "filtered_bc", "reward_weighted", "exp_reward", "ipo", "sdpo", "simpo", "kto", "wbc"),
    *("grpo", "ecpo", "cql", "iql", "awac", "reinforce"),
)
"""Methods that run only where --rows names them."""
METHODS = (START, "bc", "asft", "dpo", "ppo", "rerank", "asft_rerank", *ASKED_FOR)
ROWS = (IDS, "no_dropout", START, TITLES, *METHODS[1:])
COLUMNS = {
    **{f"cold/hr@{k}": f"cold hr@{k}" for k in CUTS},
    **{"cold/ndcg@10": "cold ndcg@10", "cold/hr@50/items": "hr@50, mean over items"},
    **{"cold/among/hr@10": "among cold hr@10", "chance/hr@50": "chance hr@50"},
    **{"all/ndcg@10/minus_ids": "all ndcg@10 - ids", "warm/ndcg@10/minus_ids": "warm ndcg@10 - ids"},
}
AFTER = {
    "cold/hr@50": "cold hr@50",
    "cold/hr@50/minus_start": "less start's",
    "cold/known_users/hr@50": "known users",
    "cold/new_users/hr@50": "new users",
    "warm/ndcg@10": "warm ndcg@10",
    "warm/ndcg@10/minus_start": "less start's",
    "warm/known_users/ndcg@10": "known users",
    "warm/new_users/ndcg@10": "new users",
    "shown": "cold among the first ten",
    "shown/minus_start": "less start's",
    "chance/shown": "chance",
}
"""Columns of the second table, of what post-training does."""


def main() -> None:
    parser = options(__doc__, seeds=[0, 1, 2], runs="runs/cold-items", data=True)
    parser.add_argument("--log", default="ml-1m", help="with a conf/logs/<log>-items.yaml, or world")
    parser.add_argument("--rows", nargs="+", choices=ROWS, help="if not these, all that the log has but ASKED_FOR")
    parser.add_argument("--world", default="{}", help="settings of a simulated world, as YAML, for --log world")
    parser.add_argument("--no-save", action="store_true", help="print alone, as for a trial")
    parser.add_argument("chain", nargs="*", help="words for every run, after --: -- --trainer.max_epochs=1")
    given = parser.parse_args()
    asked = given.rows or set(ROWS) - set(ASKED_FOR)
    rows = [row for row in ROWS if row in asked and (row != TITLES or given.log != WORLD)]
    parts = []
    for done, seed in enumerate(given.seeds, start=1):
        parts.append(of_seed(given, seed, rows))
        ranks = pl.concat(parts)
        found = table(ranks, given.log, given.seeds[:done])
        shown = [markdown(found, COLUMNS, 4, figure)]
        if len(after := found.filter(pl.col("row").is_in(METHODS))):
            shown.append(markdown(after, AFTER, 4, figure))
        print("\n" + "\n\n".join([*shown, said(ranks)]), flush=True)
        if not given.no_save:
            print(save(found, "items/rows", "log", "row"))


def of_seed(given: argparse.Namespace, seed: int, rows: list[str]) -> pl.DataFrame:
    """The ranks of one seed's test events under every row."""
    folder, held = given.runs / given.log / f"seed-{seed}", known_log(given, seed)
    runs: dict[str, Path] = {}
    for row, (form, model) in RECOMMENDERS.items():
        if row in rows:
            log = written(held, form, folder / form, given.log)
            runs[row] = alone(log, folder, row, model, seed, given)
    features = written(held, "features", folder / "features", given.log)
    if methods := [row for row in METHODS if row in rows]:
        chain(features, folder, methods, seed, given)
        for row in methods:
            runs[row] = folder / "chain" / ("recommender" if row == START else row) / f"seed-{seed}"
    return pl.concat([ranks_of(row, runs, folder, held).with_columns(seed=pl.lit(seed)) for row in rows])


def ranks_of(row: str, runs: dict[str, Path], folder: Path, held: HeldOut) -> pl.DataFrame:
    """A row's ranks, kept for as long as its runs are the same."""
    run = open_run(runs[row])
    key = digest([run.made_of()], [run.strength], run.data.fingerprint)
    kept = folder / "ranks" / f"{row}-{key[:16]}.parquet"
    if not kept.is_file():
        found = measured(run.policy, run.data, held.cold)
        kept.parent.mkdir(exist_ok=True)
        with atomic_write(kept) as path:
            found.with_columns(row=pl.lit(row)).write_parquet(path)
    return pl.read_parquet(kept)


def alone(log: Path, folder: Path, row: str, model: dict[str, Any], seed: int, given: argparse.Namespace) -> Path:
    """Train the recommender of one row and seed; its folder."""
    settings = folder / f"{row}.yaml"
    settings.write_text(yaml.safe_dump({"model": model} if model else {}))
    own = [CONF / "logs/recommender" / f"{name}.yaml" for name in (f"{given.log}-items", given.log)]
    files = [CONF / "stages/recommender.yaml", log, *[recipe for recipe in own if recipe.is_file()][:1], settings]
    words = ["fit", *(f"--config={file}" for file in files), f"--seed_everything={seed}", f"--run.root={folder}"]
    return train(parse_stage([*words, f"--run.chain={row}", *given.chain]), verbose=True).folder


def chain(log: Path, folder: Path, methods: list[str], seed: int, given: argparse.Namespace) -> None:
    """Run the chain of one seed, with features."""
    settings: dict[str, Any] = {"log": str(log.resolve()), "methods": methods, "name": "chain", "seeds": [seed]}
    settings |= {"root": str(folder), "baselines": [START]}
    path = folder / "chain.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    words = ["chain", "--config", str(path), *given.chain]
    print(f"recalign {' '.join(words)}", flush=True)
    if code := recalign(words):
        raise SystemExit(code)


if __name__ == "__main__":
    main()
