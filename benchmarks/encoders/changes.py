"""One change of OneRec's recipe at a time, by NDCG@10 on the validation events. No test event is looked at.

    python -m benchmarks.encoders.changes [--log ml-1m-leave-last] [--rows ...] [--epochs 7] [--sizes 16 256]

Each seed of each row is one `recalign fit --config conf/recommender-onerec.yaml ...` line, which is printed, with
`head: node`, what conf/recommender-onerec/ says of the log, and the codes of `benchmarks/encoders/run.py` or such of
other sizes. Shown are the last epoch and the best. Finished runs are not run again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import polars as pl

from benchmarks.encoders.run import NEWEST, by, codes, recipe_words
from benchmarks.lib import by_metric, lines, options, save
from recalign.run.chain.train import train
from recalign.run.stage import parse_stage

CHANGES: dict[str, list[str]] = {
    "published": [],
    "cosines": ["--model.temperature=0.07"],
    "newest": ["--model.bos=newest"],
    "newest, cosines": NEWEST,
    "newest, cosines, dropout 0.1": [*NEWEST, "--model.decoder.dropout=0.1"],
}
"""What each row says over the recipe of conf/."""
NDCG = "validation/ndcg@10"


def main() -> None:
    parser = options(__doc__, seeds=[0], runs="runs/encoders")
    parser.add_argument("--log", default="ml-1m-leave-last", help="a YAML of conf/data")
    parser.add_argument("--rows", nargs="+", default=list(CHANGES), choices=list(CHANGES))
    parser.add_argument("--epochs", type=int, default=7, help="the most epochs of a run")
    parser.add_argument("--sizes", type=int, nargs="+", help="codes of each level, if not those of encoders.py")
    parser.add_argument("fit", nargs="*", help="words for every fit, after --: -- --trainer.precision=bf16-mixed")
    given = parser.parse_args()
    ids = codes(given)
    for change in given.rows:
        row = f"{change}, {by(given.sizes)}" if given.sizes else change
        curves = [curve(change, row, seed, ids, given) for seed in given.seeds]
        cells = [{f"{NDCG}/last": values[-1], f"{NDCG}/best": max(values)} for values in curves]
        rows = lines(f"{given.log}, {given.epochs} epochs", row, by_metric(cells), given.seeds)
        print(save(rows, "encoders/changes", "log", "row"))


def curve(change: str, row: str, seed: int, ids: Path, given: argparse.Namespace) -> list[float]:
    """NDCG@10 on validation after each epoch of one seed of one row."""
    name = f"{given.epochs}-epochs-{row.replace(', ', '-').replace(' ', '-')}"
    argv = [*recipe_words("recommender-onerec", name, seed, given), f"--model.codes={ids}", "--model.prior=false"]
    argv += [f"--trainer.max_epochs={given.epochs}", *CHANGES[change], *given.fit]
    folder = train(parse_stage(argv), verbose=True).folder
    values = pl.read_csv(folder / "metrics.csv")["rank/all/ndcg@10"].drop_nulls().to_list()
    print(f"{row}, seed {seed}: " + " ".join(f"{value:.4f}" for value in values), flush=True)
    return values


if __name__ == "__main__":
    main()
