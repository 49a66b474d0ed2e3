"""A-SFT and its neighbours in simulated worlds, by true value: the table of the README.

    python benchmarks/simulated.py [--seeds 6 7 8 9 12] [--runs runs]

Each seed is a world of its own (none of 0 to 5, 10 and 11, in which settings were compared) and a whole chain: cloning,
reward model, judges, post-training. Stages that have run are not run again, so an interrupted table goes on where it
stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import polars as pl
from tables import markdown, save, summary

from recalign.cli import main as recalign
from recalign.evaluation import comparison

ROWS = (
    "popularity",
    "item_mean",
    "start",
    "bc",
    "reward_weighted",
    "exp_reward",
    "asft",
    "rerank",
    "asft_permuted",
    "asft_random",
)
COLUMNS = {
    "value/true@10": "true value of the ten shown",
    "high/ndcg@10": "high/ndcg@10",
    "all/ndcg@10": "all/ndcg@10",
    "value/judge@10": "judges' value",
}
DIFFERENCES = {
    f"diff_best_bc/{metric}": f"{metric}, against the better of start and bc" for metric in list(COLUMNS)[:3]
}
CONF = Path(__file__).parents[1] / "conf" / "chain" / "simulated.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[6, 7, 8, 9, 12])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    folder = arguments.runs / "simulated-worlds"
    for seed in arguments.seeds:
        world = arguments.runs / "worlds" / str(seed)
        if not (world / "simulated").exists():
            run("simulate", f"--seed={seed}", f"--out={world}")
        names = [f"--name={folder.name}", f"--root={arguments.runs}", f"--seeds=[{seed}]"]
        run("chain", f"--config={CONF}", *names, f"--data.root={world}")
    rows = summary(comparison.compare(folder), "simulated", [*COLUMNS, *DIFFERENCES])
    rows = pl.concat([rows.filter(pl.col("row") == name) for name in ROWS])
    print("\n" + markdown(rows, COLUMNS))
    print("\n" + markdown(rows.filter(pl.col("metric").is_in(list(DIFFERENCES))), DIFFERENCES))
    print(f"\n{save(rows, 'simulated')}")


def run(*words: str) -> None:
    """One command of recalign; its failure ends the script."""
    if code := recalign(list(words)):
        sys.exit(code)


if __name__ == "__main__":
    main()
