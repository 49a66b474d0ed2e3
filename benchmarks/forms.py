"""Forms of A-SFT and their rivals from the calibrated start, at one price: what each gains on validation.

    python benchmarks/forms.py --log simulated [--noise 3] [--seeds 31 32 33] [--runs runs]
    python benchmarks/forms.py --log ml-100k --seeds 0 1 2 [--forms asft "asft, signed"] [--data DIR]

Simulated: each seed is a world of its own. Every row goes along its interpolation path to where it keeps 97 % of the
start's all/ndcg@10. A trained form stands beside its placebo, the same form on permuted rewards. Value is the truth's
in worlds, elsewhere that of the judges for selection. Nothing of the test is read, and what has run is not run again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import polars as pl
from tables import CONF, Figures, by_metric, commit, lines, markdown, options, save, spread

from recalign.data.simulation import World
from recalign.evaluation.methods import MethodRun
from recalign.evaluation.selection import validate
from recalign.recommender.interpolation import KEEP
from recalign.reward import RewardData
from recalign.run.chain import BASE_STAGES, Chain, Plan
from recalign.run.chain.run import make_world
from recalign.run.chain.train import base_checkpoints, method_run, train

FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "bc": ("bc", {}),
    "asft": ("asft", {}),
    "asft, temperature 1": ("asft", {"model.temperature": 1.0}),
    "asft, lr 1.5e-5": ("asft", {"model.lr": 1.5e-5}),
    "asft, lr 7.5e-6": ("asft", {"model.lr": 7.5e-6}),
    "asft, baseline value": ("asft", {"data.baseline": "value"}),
    "asft, signed": ("asft", {"model.transform": "signed"}),
    "reinforce": ("reinforce", {}),
    "reinforce, predicted": ("reinforce", {"data.source": "predicted"}),
    "kto": ("kto", {}),
}
"""Each form's method, and what it changes of its YAML."""
UNTRAINED = ("start", "popularity_tilt", "rerank", "rerank_lcb")
FIGURES = {
    "value/true@10": "true value",
    "value/select_judge@10": "judges' value",
    "high/ndcg@10": "high/ndcg@10",
    "kept": "kept of all/ndcg@10",
    "policy/popularity@10": "popularity",
    "policy/kl": "KL",
}
GAINS = ("value/true@10", "value/select_judge@10", "high/ndcg@10")


def main() -> None:
    parser = options(__doc__, seeds=[31, 32, 33], runs="runs", data=True)
    parser.add_argument("--log", default="simulated", choices=["simulated", "ml-100k"])
    parser.add_argument("--noise", type=float, default=World().noise, help="of the simulated worlds")
    parser.add_argument("--forms", nargs="+", choices=list(FORMS), help="of them, instead of all")
    parser.add_argument("--label", help="what to call a table of other seeds, which then stands beside the log's own")
    given = parser.parse_args()
    world = World(noise=given.noise) if given.log == "simulated" else None
    log = f"{given.log}, noise {given.noise:g}" if world else given.log
    forms = {form: FORMS[form] for form in given.forms or FORMS}
    name = re.sub("[^a-z0-9.]+", "-", f"forms-{log}".replace(", noise", ""))
    methods = list(dict.fromkeys(method for method, _ in forms.values()))
    chain = Chain(given.log, methods, name=name, seeds=given.seeds, world=world, root=str(given.runs))
    plan = Plan(chain, CONF / f"chain/{given.log}.yaml", {None: {"data.root": given.data} if given.data else {}})
    measured: dict[int, dict[str, Figures]] = {}
    for seed in given.seeds:
        measured[seed] = of_seed(plan, seed, forms)
        rows = table(measured, f"{log}, {given.label}" if given.label else log)
        columns = {metric: text for metric, text in shown().items() if metric in set(rows["metric"])}
        print(f"\n{log}, {commit()}\n\n{markdown(rows, columns, digits=4)}\n", flush=True)
        print(save(rows, "forms", "log", "row"), flush=True)


def of_seed(plan: Plan, seed: int, forms: Mapping[str, tuple[str, dict[str, Any]]]) -> dict[str, Figures]:
    """Validation figures of one seed and their gains over the start: of untrained rows, and each form and placebo."""
    data: RewardData = plan.parsed("reward", seed).datamodule()  # type: ignore[assignment]
    make_world(data, replace(plan.chain.world, seed=seed) if plan.chain.world else None)
    base = base_checkpoints({stage: train(plan.parsed(stage, seed)) for stage in BASE_STAGES})
    runs = {row: MethodRun(row, None, {}, strength=2.0, keep=KEEP, spread=2.0) for row in UNTRAINED}
    for form, (method, settings) in forms.items():
        rows = {form: settings}
        if method != "bc":  # which reads no reward
            rows[f"{form}, permuted"] = settings | {"data.placebo": "permuted"}
        for row, own in rows.items():
            runs[row] = method_run(train(plan.trial(method, seed, _folder(row), own)), method)
    if "asft" in runs:
        runs["asft + rerank"] = MethodRun("asft_rerank", runs["asft"].checkpoint, {}, strength=2.0, keep=KEEP)
    places = {plan.trial_folder("measured", seed, _folder(row)): run for row, run in runs.items()}
    # Measured where the chain works; figures of another commit are measured anew.
    figures = dict(zip(runs, validate(places, base, data, device=plan.device(), code=commit()), strict=True))
    start = figures["start"]
    for each in figures.values():
        each["kept"] = each["policy/kept"]
        each |= {f"diff_start/{metric}": each[metric] - start[metric] for metric in GAINS if metric in each}
    return figures


def _folder(row: str) -> str:
    return row.replace(", ", "-").replace(" ", "-")


def shown() -> dict[str, str]:
    """The columns of the printed table: a gain where there is one."""
    gains = {f"diff_start/{metric}": f"{FIGURES[metric]}, over start" for metric in GAINS}
    return gains | {metric: text for metric, text in FIGURES.items() if metric not in GAINS}


def table(measured: Mapping[int, Mapping[str, Figures]], log: str) -> pl.DataFrame:
    """Means over seeds, as results are saved."""
    rows = next(iter(measured.values()))
    cells = {row: by_metric([each[row] for each in measured.values()]) for row in rows}
    return pl.concat([lines(log, row, values, measured, spread) for row, values in cells.items()])


if __name__ == "__main__":
    main()
