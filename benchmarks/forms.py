"""Forms of A-SFT and their rivals from the calibrated start, at one price: what each gains on validation.

    python benchmarks/forms.py --log simulated [--noise 3] [--seeds 31 32 33] [--runs runs]
    python benchmarks/forms.py --log ml-100k --seeds 0 1 2 [--forms asft "asft, signed"] [--data DIR]
    python benchmarks/forms.py --log simulated --held-out newest

Simulated: each seed is a world of its own. Every row goes along its ray to where it keeps 97 % of the start's
all/ndcg@10. A trained form stands beside its placebo, the same form on permuted rewards. Value is the truth's in
worlds, elsewhere that of the judges for selection. Nothing of the test is read, and what has run is not run again.

With `--held-out` the start never trains on the events of a fifth of the users, or on the newest fifth of each user's.
Post-training then uses them, or another fifth, for as many steps as the other forms take.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from tables import RESULTS, SCHEMA, commit, markdown, save

from recalign.chain import BASE_STAGES, Chain, Plan
from recalign.chain.run import make_world
from recalign.chain.train import base_checkpoints, train
from recalign.evaluation.methods import BaseCheckpoints, MethodRun
from recalign.evaluation.selection import validate
from recalign.metrics.bootstrap import CrossedBootstrap
from recalign.recommender.interpolation import KEEP
from recalign.reward import RewardData
from recalign.simulation import World

STILL = {"model.class_path": "variants.NoDropout"}
SIGNED = {"model.transform": "signed"}
PREDICTED = {"data.source": "predicted"}
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "bc": ("bc", {}),
    "bc, prior in the loss": ("bc", {"model.class_path": "variants.WithPrior"}),
    "bc, prior again": ("bc", {"model.class_path": "variants.PriorAgain"}),
    "asft": ("asft", {}),
    "asft, prior in the loss": ("asft", {"model.class_path": "variants.WithPrior"}),
    "asft, prior again": ("asft", {"model.class_path": "variants.PriorAgain"}),
    "asft, no dropout": ("asft", STILL),
    "asft, no dropout, lr 1e-5": ("asft", STILL | {"model.lr": 1e-5}),
    "asft, temperature 1": ("asft", {"model.temperature": 1.0}),
    "asft, lr 1.5e-5": ("asft", {"model.lr": 1.5e-5}),
    "asft, lr 7.5e-6": ("asft", {"model.lr": 7.5e-6}),
    "asft, baseline value": ("asft", {"data.baseline": "value"}),
    "asft, signed": ("asft", SIGNED),
    "asft, centred": ("asft", {"model.class_path": "variants.Centred", "model.lr": 1e-5}),
    "reinforce": ("reinforce", {}),
    "reinforce, predicted": ("reinforce", PREDICTED),
    "kto": ("kto", {}),
}
"""Each form's method, and what it changes of its YAML."""
HELD_OUT: dict[str, tuple[str, dict[str, Any]]] = {
    f"{method}, {events} events": (method, {"data.class_path": "variants.OneFifth", "data.fifth": fifth})
    for method in ("bc", "asft")
    for fifth, events in enumerate(("held-out", "met"))
}
"""Forms of `--held-out`: method and changed settings."""
UNTRAINED = ("start", "popularity_tilt", "rerank", "rerank_lcb")
RERANKED = ("asft", "asft, no dropout")
"""Forms that are reranked at serving as well."""
FIGURES = {
    "value/true@10": "true value",
    "value/select_judge@10": "judges' value",
    "high/ndcg@10": "high/ndcg@10",
    "kept": "kept of all/ndcg@10",
    "policy/popularity@10": "popularity",
    "policy/kl": "KL",
}
GAINS = ("value/true@10", "value/select_judge@10", "high/ndcg@10")
CHAINS = Path(__file__).parents[1] / "conf" / "chain"
Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", default="simulated", choices=["simulated", "ml-100k"])
    parser.add_argument("--noise", type=float, default=World().noise, help="of the simulated worlds")
    parser.add_argument("--seeds", type=int, nargs="+", default=[31, 32, 33])
    parser.add_argument("--forms", nargs="+", choices=list(FORMS), help="of them, instead of all")
    parser.add_argument("--held-out", choices=["users", "newest"], help="post-train on events new to the start")
    parser.add_argument("--label", help="what to call a table of other seeds, which then stands beside the log's own")
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--data", help="data root of ML-100K; else RECALIGN_DATA, else data")
    given = parser.parse_args()
    if given.held_out and given.forms:
        parser.error("--held-out has forms of its own: leave --forms out")
    world = World(noise=given.noise) if given.log == "simulated" else None
    log = f"{given.log}, noise {given.noise:g}" if world else given.log
    forms = {form: FORMS[form] for form in given.forms or FORMS}
    settings: dict[str | None, dict[str, Any]] = {None: {"data.root": given.data} if given.data else {}}
    if given.held_out:
        log += f", held out: {given.held_out}"
        # As many steps as the others take: a fifth of the users makes a fifth of the batches.
        fifth = {"data.by": given.held_out, "trainer.max_epochs": 25 if given.held_out == "users" else 5}
        forms = {form: (method, own | fifth) for form, (method, own) in HELD_OUT.items()}
        settings["recommender"] = {"data.class_path": "variants.FourFifths", "data.by": given.held_out}
    name = re.sub("[^a-z0-9.]+", "-", f"forms-{log}".replace(", noise", ""))
    methods = list(dict.fromkeys(method for method, _ in forms.values()))
    chain = Chain(given.log, methods, name=name, seeds=given.seeds, world=world, root=given.runs)
    plan = Plan(chain, CHAINS / f"{given.log}.yaml", settings)
    measured: dict[int, dict[str, Figures]] = {}
    for seed in given.seeds:
        measured[seed] = of_seed(plan, seed, forms)
        rows = table(measured, f"{log}, {given.label}" if given.label else log)
        columns = {metric: text for metric, text in shown().items() if metric in set(rows["metric"])}
        print(
            f"\n{log}, {commit()}\n\n{markdown(rows, columns, digits=4)}\n\n{save(beside(rows), 'forms')}", flush=True
        )


def of_seed(
    plan: Plan, seed: int, forms: Mapping[str, tuple[str, dict[str, Any]]], placebos: bool = True
) -> dict[str, Figures]:
    """Validation figures of one seed and their gains over the start: of untrained rows, and each form and placebo."""
    base, data = based(plan, seed, replace(plan.chain.world, seed=seed) if plan.chain.world else None)
    runs = {row: MethodRun(row, None, {}, strength=2.0, keep=KEEP, spread=2.0) for row in UNTRAINED}
    for form, (method, settings) in forms.items():
        rows = {form: settings}
        if placebos and method != "bc":  # which reads no reward
            rows[f"{form}, permuted"] = settings | {"data.placebo": "permuted"}
        for row, own in rows.items():
            runs[row] = train(plan.trial(method, seed, _folder(row), own)).method_run(method)
        if form in RERANKED:
            runs[f"{form} + rerank"] = MethodRun("asft_rerank", runs[form].checkpoint, {}, strength=2.0, keep=KEEP)
    places = {plan.trial_folder("measured", seed, _folder(row)): run for row, run in runs.items()}
    figures = dict(zip(runs, valued(plan, places, base, data), strict=True))
    start = figures["start"]
    for each in figures.values():
        each["kept"] = each["policy/kept"]
        each |= {f"diff_start/{metric}": each[metric] - start[metric] for metric in GAINS if metric in each}
    return figures


def _folder(row: str) -> str:
    return row.replace(", ", "-").replace(" ", "-")


def based(plan: Plan, seed: int, world: World | None) -> tuple[BaseCheckpoints, RewardData]:
    """What the methods of a seed rest on, trained, and the data that they are valued on."""
    data: RewardData = plan.parsed("reward", seed).datamodule()  # type: ignore[assignment]
    make_world(data, world)
    return base_checkpoints({stage: train(plan.parsed(stage, seed)) for stage in BASE_STAGES}), data


def valued(plan: Plan, cells: Mapping[Path, MethodRun], base: BaseCheckpoints, data: RewardData) -> list[Figures]:
    """Validation figures, measured where the chain works; those of another commit are measured anew."""
    return validate(cells, base, data, device=plan.device(), code=commit())


def shown() -> dict[str, str]:
    """The columns of the printed table: a gain where there is one."""
    gains = {f"diff_start/{metric}": f"{FIGURES[metric]}, over start" for metric in GAINS}
    return gains | {metric: text for metric, text in FIGURES.items() if metric not in GAINS}


def table(measured: Mapping[int, Mapping[str, Figures]], log: str) -> pl.DataFrame:
    """Means over seeds, as results are saved."""
    seeds, first = " ".join(map(str, measured)), next(iter(measured.values()))
    rows = [
        (log, row, metric, *spread([each[row][metric] for each in measured.values()]), seeds, commit())
        for row, figures in first.items()
        for metric in figures
    ]
    return pl.DataFrame(rows, schema=list(SCHEMA), orient="row", infer_schema_length=None)


def beside(rows: pl.DataFrame) -> pl.DataFrame:
    """These rows in place of the saved ones of the same log and name, beside all others."""
    path = RESULTS / "forms.csv"
    if not path.is_file():
        return rows
    saved = pl.read_csv(path, schema_overrides={"seeds": pl.String, "commit": pl.String, "sd": pl.Float64})
    return pl.concat([saved.join(rows, on=["log", "row"], how="anti"), rows], how="vertical_relaxed")


def spread(values: list[float]) -> tuple[float, float | None, float | None, float | None]:
    """Mean, standard deviation and 95 % interval over seeds."""
    value_S = np.array(values)
    if len(values) == 1:
        return values[0], None, None, None
    estimate = CrossedBootstrap(users=1).over_seeds(value_S, np.tile(value_S, (2000, 1)))
    return estimate.value, float(value_S.std(ddof=1)), *estimate.interval()


if __name__ == "__main__":
    main()
