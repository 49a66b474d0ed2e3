"""Encoders by the ranks of the events held out: the table on ML-1M, and the small one on ML-100K.

    python -m benchmarks.encoders.run [--log ml-1m-leave-last] [--rows hstu/known sasrec ...] [--seeds 0 1 2 3 4]

Each seed of each row is one `recalign fit --config .../recommender.yaml` line, which is printed, with what
conf/logs/recommender/ (OneRec: recommender-onerec/) says of the log, if anything; the epoch is chosen on validation.
Then the test: full catalogue, items that the user had met left out. Runs that have finished are not run again, an
interrupted one starts anew, and a row's figures are saved as soon as its seed is done.

OneRec's rows use recommender-onerec.yaml. Their codes are made once, from the item vectors of hstu/last_event with
seed 0, which is trained first; those of onerec/random-ids are random.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import torch

from benchmarks.lib import by_metric, commit, lines, markdown, options, save, with_sd
from recalign.data.sequences import EventDataModule, Sequences
from recalign.evaluation.counted_rows import SameForAll, log_counts
from recalign.files import write_json
from recalign.recommender import Policy
from recalign.recommender.checkpoint import load_net
from recalign.recommender.item_knn import ItemKNN
from recalign.recommender.rank_metrics import RankMetrics
from recalign.recommender.semantic_ids import RecommenderVectors
from recalign.recommender.semantic_ids.tokenize_command import tokenize
from recalign.run.chain.plan import train
from recalign.run.stage import parse_stage

UNTRAINED: dict[str, Callable[[Sequences], Policy]] = {
    "popularity": lambda sequences: SameForAll(log_counts(sequences)),
    "item-knn": ItemKNN.of,
}
CUTS = (10, 50, 200)
SHOWN = ("hr@10", "ndcg@10", "hr@50", "hr@200", "ndcg@200", "mrr")
SASREC = [
    "--model.encoder=recalign.nn.SASRec",
    "--model.encoder.dim=50",
    "--model.encoder.layers=2",
    "--model.encoder.heads=1",
    "--model.encoder.max_length=200",
]
ROWS: dict[str, list[str]] = {
    "sasrec": SASREC,
    "hstu/last_event": ["--data.request_time=last_event"],
    "hstu/known": ["--data.request_time=known"],
    "hstu-64/last_event": ["--data.request_time=last_event", "--model.encoder.dim=64"],  # OneRec's width
    "hstu-large/known": ["--data.request_time=known", "--model.encoder.layers=8", "--model.encoder.heads=2"],
}
"""What each row adds to the recipe of conf/."""
ONEREC: dict[str, list[str]] = {
    "onerec/node": [],
    "onerec/node-cosines": ["--model.temperature=0.07"],
    "onerec/random-ids": [],
}
"""What OneRec's rows add to conf/stages/recommender-onerec.yaml."""
ITEM_VECTORS = "hstu/last_event"
"""The row whose item vectors become codes."""
SIZES = {"ml-100k": [64, 32], "ml-1m-leave-last": [128, 32], "kuairand-pure-excerpt": [64, 128]}
"""Codes of each level, unless `--sizes` says otherwise."""


def main() -> None:
    parser = options(__doc__, seeds=[0, 1, 2, 3, 4], runs="runs/encoders")
    parser.add_argument("--log", default="ml-1m-leave-last", help="a YAML of conf/logs")
    parser.add_argument("--rows", nargs="+", default=[*UNTRAINED, *ROWS], choices=[*UNTRAINED, *ROWS, *ONEREC])
    parser.add_argument("--sizes", type=int, nargs="+", help="codes of each level of OneRec's rows, named in the table")
    parser.add_argument("fit", nargs="*", help="words for every fit, after --: -- --trainer.precision=bf16-mixed")
    given = parser.parse_args()
    for row in given.rows:
        for seed in [0] if row in UNTRAINED else given.seeds:
            figures = given.runs / given.log / labelled(row, given) / f"seed-{seed}.json"
            if not figures.is_file():
                measure(row, seed, given, figures)
    rows = collect(given)
    print(f"\n{markdown(rows, {name: name for name in SHOWN}, 4, with_sd)}\n")
    print(save(rows, "encoders/rows", "log", "row"))


def measure(row: str, seed: int, given: argparse.Namespace, figures: Path) -> None:
    """One seed of one row: train, test, save."""
    figures.parent.mkdir(parents=True, exist_ok=True)
    values = trained(row, seed, given)
    write_json(figures, {"commit": commit(), **values})
    print(f"{row}, seed {seed}: hr@10 {values['hr@10']:.4f}, ndcg@10 {values['ndcg@10']:.4f}", flush=True)


def labelled(row: str, given: argparse.Namespace) -> str:
    """What a row is called: with the sizes of its codes, if they are given."""
    return f"{row}-{by(given.sizes)}" if row in ONEREC and given.sizes else row


def sizes(given: argparse.Namespace) -> list[int]:
    """Codes of each level of OneRec's rows."""
    return given.sizes or SIZES[given.log]


def by(sizes: list[int]) -> str:
    """[64, 32] as 64x32."""
    return "x".join(map(str, sizes))


def trained(row: str, seed: int, given: argparse.Namespace) -> dict[str, float]:
    """One `recalign fit`, and its test."""
    stage = parse_stage(words(row, seed, given))
    data: EventDataModule = stage.datamodule()  # type: ignore[assignment]
    if row in UNTRAINED:
        return tested(UNTRAINED[row](data.sequences), data)
    return tested(load_net(train(stage, verbose=True).checkpoint, "policy").net, data)


def words(row: str, seed: int, given: argparse.Namespace) -> list[str]:
    """The command of a row: its recipe, and what the row adds to it."""
    name = labelled(row, given).replace("/", "-")
    if row in ONEREC:
        ids = f"--model.sizes={sizes(given)}" if row == "onerec/random-ids" else f"--model.codes={codes(given)}"
        recipe, own = "recommender-onerec", [ids, *ONEREC[row]]
    else:
        recipe, own = "recommender", ROWS.get(row, [])
    return [*recipe_words(recipe, name, seed, given), *own, "--model.prior=false", *given.fit]


def recipe_words(recipe: str, name: str, seed: int, given: argparse.Namespace) -> list[str]:
    """The beginning of a command: a recipe of conf/, the log, what the recipe says of it, seed and run folder."""
    of_log = [f"--config={file}" for file in Path("conf/logs", recipe).glob(f"{given.log}.yaml")]
    argv = ["fit", f"--config=conf/stages/{recipe}.yaml", f"--config=conf/logs/{given.log}.yaml", *of_log]
    argv += [f"--seed_everything={seed}", f"--run.root={given.runs}", f"--run.chain={given.log}"]
    return [*argv, f"--run.name={name}"]


def codes(given: argparse.Namespace) -> Path:
    """The file of codes from a trained recommender's item vectors."""
    stage = parse_stage(words(ITEM_VECTORS, 0, given))
    vectors = RecommenderVectors(str(train(stage, verbose=True).checkpoint))
    out, data = given.runs / given.log / f"tokens-{by(sizes(given))}", stage.datamodule()
    return tokenize(data=data, vectors=vectors, sizes=sizes(given), out=out)  # type: ignore[arg-type]


@torch.no_grad()
def tested(policy: Policy, data: EventDataModule) -> dict[str, float]:
    """Figures over all test events; an item that was not in training counts as a miss."""
    metric = RankMetrics(ks=CUTS)
    policy.eval()
    for batch in data.test_dataloader():
        metric.update(policy.ranks(policy.encode(batch), batch.target_T, batch.seen_N))
    return {name: float(value) for name, value in metric.compute().items()}


def collect(given: argparse.Namespace) -> pl.DataFrame:
    """The rows of the log by the seeds that are there, as results are saved."""
    tables = []
    for row in [*UNTRAINED, *ROWS, *(labelled(row, given) for row in ONEREC)]:
        files = sorted((given.runs / given.log / row).glob("*.json"))
        if cells := [json.loads(path.read_text()) for path in files]:
            values = {metric: x for metric, x in by_metric(cells).items() if metric in SHOWN}
            seeds = (path.stem.removeprefix("seed-") for path in files)
            made = " ".join(sorted({cell["commit"] for cell in cells}))
            tables.append(lines(given.log, row, values, seeds, made=made))
    return pl.concat(tables)


if __name__ == "__main__":
    main()
