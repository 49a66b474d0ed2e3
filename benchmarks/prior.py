"""What the item prior is worth on a log, and whether training can learn it instead.

    python benchmarks/prior.py [--log ml-100k] [--rows default dropout-0.2 ...] [--seeds 0 1 2]

Each seed of each row is one `recalign fit --config conf/recommender.yaml ...` line, which is printed; for OneRec's row,
conf/recommender-onerec.yaml over codes from co-occurrence. The strength is the one that cloning chose on validation
(users A). Shown is NDCG@10 with it and without: on these events, and on the test events of all users. Finished runs are
not run again.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from encoders import SIZES, recipe_words, tested
from tables import save_row

from recalign.recommender.checkpoint import load_net
from recalign.semantic_ids.tokenize_command import tokenize
from recalign.sequences import EventDataModule
from recalign.stage import parse_stage, run_stage

ROWS: dict[str, list[str]] = {
    "default": [],
    "dropout-0.2": ["--model.encoder.dropout=0.2"],
    "dropout-0": ["--model.encoder.dropout=0.0"],
    "item-bias": ["--model.class_path=item_bias.BiasRecommender"],
    "sampled-512": ["--model.negatives=512"],
    "onerec": [],
}
"""What each row changes of the recipe of conf/."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", default="ml-100k", help="a YAML of conf/data")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/prior"))
    parser.add_argument("fit", nargs="*", help="words for every fit, after --: -- --trainer.precision=bf16-mixed")
    given = parser.parse_args()
    for row in given.rows:
        cells = [measured(row, seed, given) for seed in given.seeds]
        print(save_row("prior", given.log, row, cells, given.seeds))


def measured(row: str, seed: int, given: argparse.Namespace) -> dict[str, float]:
    """One seed of one row: train, and rank with the prior and without."""
    argv = recipe_words("recommender-onerec" if row == "onerec" else "recommender", row, seed, given)
    if row == "onerec":
        argv.append(f"--model.codes={codes(seed, given)}")
    argv += [*ROWS[row], *given.fit]
    stage = parse_stage(argv)
    print(shlex.join(["recalign", *argv]), flush=True)
    manifest = stage.finished() or run_stage(argv).manifest
    assert manifest is not None, "a dry run makes no row"
    loaded = load_net(stage.folder.path / str(manifest.checkpoint), "policy")
    prior, data = loaded.facts["prior"], stage.datamodule()
    test = {}
    for name, strength in (("", prior["strength"]), ("_without", 0.0)):
        loaded.net.prior_strength = strength
        test[f"test/ndcg@10{name}"] = tested(loaded.net, data)["ndcg@10"]  # type: ignore[arg-type]
    figures = {"strength": prior["strength"]}
    figures |= {f"validation/{name}": prior[name] for name in ("ndcg@10_without", "ndcg@10")}
    figures |= dict(reversed(test.items()))
    print(f"{row}, seed {seed}: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items()), flush=True)
    return figures


def codes(seed: int, given: argparse.Namespace) -> Path:
    """The file of codes from co-occurrence."""
    stage = parse_stage(recipe_words("recommender", "tokens", seed, given))
    data: EventDataModule = stage.datamodule()  # type: ignore[assignment]
    return tokenize(data=data, sizes=SIZES.get(given.log), out=given.runs / given.log / "tokens")


if __name__ == "__main__":
    main()
