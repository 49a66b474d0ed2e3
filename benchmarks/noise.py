"""What noise in rewards changes: A-SFT's best temperature, and its gain beside methods that trust the reward model.

    python benchmarks/noise.py [--noises 0.3 1.05 3] [--seeds 21 22 23] [--runs runs]

Simulated worlds of rising noise, the same seeds in each, on validation. Every form is trained once and goes along its
ray to where it keeps 97 % of the start's all/ndcg@10; value is the truth's. What has run is not run again.
"""

from __future__ import annotations

import argparse
import itertools
from typing import Any

import polars as pl
from forms import CHAINS, FIGURES, Figures, of_seed, table
from tables import beside_other_logs, markdown, save

from recalign.chain import Chain, Plan
from recalign.simulation import World

NOISES = (0.3, 1.05, 3.0)  # sd of a reward around what the user thinks; the ordinary world's is 1.05
TEMPERATURES = (0.1, 0.3, 1.0, 3.0)
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    f"asft, {source}, temperature {beta:g}": ("asft", {"data.source": source, "model.temperature": beta})
    for source, beta in itertools.product(("observed", "predicted"), TEMPERATURES)
} | {method: (method, {}) for method in ("bc", "exp_reward", "cql", "ppo")}
SHOWN = {
    "diff_start/value/true@10": "true value, over start",
    "diff_start/high/ndcg@10": "high/ndcg@10, over start",
    **{name: FIGURES[name] for name in ("kept", "policy/kl")},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--noises", type=float, nargs="+", default=NOISES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[21, 22, 23])
    parser.add_argument("--runs", default="runs")
    given = parser.parse_args()
    tables = []
    methods = list(dict.fromkeys(method for method, _ in FORMS.values()))
    for noise in given.noises:
        world = World(noise=noise)
        chain = Chain("simulated", methods, name=f"noise-{noise:g}", seeds=given.seeds, world=world, root=given.runs)
        plan = Plan(chain, CHAINS / "simulated.yaml", {})
        measured: dict[int, dict[str, Figures]] = {
            seed: of_seed(plan, seed, FORMS, placebos=False) for seed in given.seeds
        }
        rows = table(measured, f"noise {noise:g}")
        tables.append(rows.filter(pl.col("metric").is_in(list(SHOWN))))
        print(f"\nnoise {noise:g}\n\n{markdown(tables[-1], SHOWN, digits=3)}", flush=True)
    print(f"\n{save(beside_other_logs(pl.concat(tables), 'noise'), 'noise')}")


if __name__ == "__main__":
    main()
