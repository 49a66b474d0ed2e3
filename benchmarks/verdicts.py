"""How often the report's decision is right: on simulated worlds, whose truth it does not see.

    python benchmarks/verdicts.py [--worlds 20] [--first 100] [--runs DIR]

Half of the worlds have rewards that tell nothing of the truth (`noise`); the other half are the default ones. A
decision is set beside the true value of the policy that it names (``value/true@10``, against the better of start and
bc): it is right to ship where the truth gains more than `FLAT`. One seed a world, as most users would run it. Worlds
that have run are not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import polars as pl
from tables import commit, markdown, save

from recalign.cli import main as recalign
from recalign.evaluation import comparison
from recalign.evaluation.comparison_table import ComparisonTable
from recalign.evaluation.decision import FLAT, decide
from recalign.evaluation.sources import Sources

TRUE = "value/true@10"
KINDS: dict[str, dict[str, float]] = {"default": {}, "noise": {"signal": 0.0}}
METHODS = ["popularity_tilt", "start", "rerank", "bc", "asft", "asft_permuted"]
WORDS = ("ship", "not decided", "do not ship")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=20, help="of each kind")
    parser.add_argument("--first", type=int, default=100, help="seed of the first world")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    given = parser.parse_args()
    seeds = range(given.first, given.first + given.worlds)
    found = pl.DataFrame([_decided(given.runs, kind, seed) for kind in KINDS for seed in seeds])
    print(found)
    counts = found.group_by("kind", "truth").agg(
        *((pl.col("word") == word).sum().alias(word) for word in WORDS), worlds=pl.len()
    )
    rows = counts.unpivot([*WORDS, "worlds"], index=["kind", "truth"], variable_name="metric", value_name="mean")
    rows = rows.select(
        log=pl.lit("simulated"),
        row=pl.format("{}, the truth {}", "kind", "truth"),
        metric="metric",
        mean=pl.col("mean").cast(pl.Float64),
        sd=pl.lit(None, pl.Float64),
        ci_low=pl.lit(None, pl.Float64),
        ci_high=pl.lit(None, pl.Float64),
        seeds=pl.lit(f"{seeds[0]}-{seeds[-1]}"),
        commit=pl.lit(commit()),
    ).sort("row")
    print(markdown(rows, {name: name for name in (*WORDS, "worlds")}, digits=0))
    print(save(rows, "verdicts"))


def _decided(runs: Path, kind: str, seed: int) -> dict[str, object]:
    """The decision on one world, and what the truth says of it."""
    name = f"verdicts-{kind}-{seed}"
    words = ["chain", "simulated", f"--name={name}", f"--root={runs}", f"--seeds=[{seed}]", f"--methods={METHODS}"]
    words.append(f"--world={json.dumps(KINDS[kind])}")
    if not (runs / name / comparison.FILE).is_file() and (code := recalign(words)):
        sys.exit(code)
    sources = Sources.of(runs / name, searched=False)
    test, validation = (ComparisonTable(sources.comparison, sources.roles, split) for split in ("test", "validation"))
    decision = decide(test, validation, sources.trust)
    assert decision is not None  # a method was measured
    policy = decision.policy or sources.roles.ours or "start"
    gain, baseline = test.get(policy, f"diff_best_bc/{TRUE}"), test.better_baseline(TRUE)
    share = gain.value / abs(test.column(TRUE)[baseline].value) if gain and baseline else 0.0
    truth = "gains" if share > FLAT else "loses" if share < -FLAT else "is flat"
    return {"kind": kind, "seed": seed, "word": decision.word, "policy": policy, "share": share, "truth": truth}


if __name__ == "__main__":
    main()
