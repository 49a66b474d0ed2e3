"""One change of OneRec's recipe at a time, by NDCG@10 on the validation events. No test event is looked at.

    python benchmarks/changes.py [--log ml-1m-leave-last] [--rows published newest ...] [--seeds 0] [--epochs 7]

Each seed of each row is one `recalign fit --config conf/recommender-onerec.yaml ...` line, which is printed, with
`head: node`, what conf/recommender-onerec/ says of the log, and the codes of `benchmarks/encoders.py`. Shown are the
last epoch and the best. Finished runs are not run again.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
from pathlib import Path

import polars as pl
from encoders import NEWEST, codes, recipe_words
from tables import SCHEMA, commit, save

from recalign.stage import parse_stage, run_stage

CHANGES: dict[str, list[str]] = {
    "published": [],
    "three blocks": ["--model.decoder.layers=3"],
    "cosines": ["--model.temperature=0.07"],
    "newest": ["--model.bos=newest"],
    "newest, cosines": NEWEST,
    "newest, cosines at 0.05": [*NEWEST, "--model.temperature=0.05"],
    "newest, cosines at 0.1": [*NEWEST, "--model.temperature=0.1"],
    "newest, cosines, dropout 0.1": [*NEWEST, "--model.decoder.dropout=0.1"],
    "newest, cosines, three blocks": [*NEWEST, "--model.decoder.layers=3"],
}
"""What each row says over the recipe of conf/."""
NDCG = "rank/all/ndcg@10"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", default="ml-1m-leave-last", help="a YAML of conf/data")
    parser.add_argument("--rows", nargs="+", default=list(CHANGES), choices=list(CHANGES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=7, help="the most epochs of a run")
    parser.add_argument("--runs", type=Path, default=Path("runs/encoders"))
    parser.add_argument("fit", nargs="*", help="words for every fit, after --: -- --trainer.precision=bf16-mixed")
    parser.set_defaults(sizes=None)  # the codes of the table of encoders
    given = parser.parse_args()
    ids = codes(given)
    for row in given.rows:
        curves = [curve(row, seed, ids, given) for seed in given.seeds]
        best = [max(values) for values in curves]
        last = [values[-1] for values in curves]
        print(save(kept(row, {"last": last, "best": best}, given), "changes"))


def curve(row: str, seed: int, ids: Path, given: argparse.Namespace) -> list[float]:
    """NDCG@10 on validation after each epoch of one seed of one row."""
    name = f"{given.epochs}-epochs-{row.replace(', ', '-').replace(' ', '-')}"
    argv = [*recipe_words("recommender-onerec", name, seed, given), f"--model.codes={ids}", "--model.prior=false"]
    argv += [f"--trainer.max_epochs={given.epochs}", *CHANGES[row], *given.fit]
    stage = parse_stage(argv)
    print(shlex.join(["recalign", *argv]), flush=True)
    if not stage.finished():
        run_stage(argv)
    values = pl.read_csv(stage.folder.path / "metrics.csv")[NDCG].drop_nulls().to_list()
    print(f"{row}, seed {seed}: " + " ".join(f"{value:.4f}" for value in values), flush=True)
    return values


def kept(row: str, figures: dict[str, list[float]], given: argparse.Namespace) -> pl.DataFrame:
    """The saved rows, with this one anew."""
    log, seeds = f"{given.log}, {given.epochs} epochs", " ".join(map(str, given.seeds))
    rows = [
        (log, row, f"validation/ndcg@10/{name}", statistics.fmean(x), spread(x), None, None, seeds, commit())
        for name, x in figures.items()
    ]
    types = [pl.String] * 3 + [pl.Float64] * 4 + [pl.String] * 2
    new = pl.DataFrame(rows, schema=dict(zip(SCHEMA, types, strict=True)), orient="row")
    earlier = Path(__file__).parent / "results" / "changes.csv"
    old = pl.read_csv(earlier, schema=new.schema) if earlier.is_file() else new.clear()
    return pl.concat([old.join(new, on=["log", "row"], how="anti"), new])


def spread(values: list[float]) -> float | None:
    """Standard deviation of several values."""
    return statistics.stdev(values) if len(values) > 1 else None


if __name__ == "__main__":
    main()
