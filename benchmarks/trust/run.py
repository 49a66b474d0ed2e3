"""Does a reward model beat the averages, and by how much? Its figures beside its rivals', log by log, on the test.

    python -m benchmarks.trust.run [--rows ml-100k coat ...] [--seeds 0 1 2] [--data DIR] [--runs runs/trust]

Each seed of each row is a recommender of a few epochs (the trunk needs no more), a reward model as reward.yaml has
it, and the test events of users A. Simulated: a world of its own for each seed and level of noise. What has run is not
run again, and the table is saved after each cell. The verdict is validation's. Intervals: bootstrap over users and
seeds; a difference is the model's figure minus the rival's, paired by event.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.lib import CONF, average, commit, crossed, frame, markdown, options, save, saved
from recalign.bootstrap import Estimate
from recalign.data.sequences.store import SplitName
from recalign.data.simulation import World
from recalign.evaluation.networks import load_truth
from recalign.recommender.checkpoint import load_net
from recalign.reward import RewardData
from recalign.reward.trust.callback import predict
from recalign.reward.trust.measures import following, ordered_pairs
from recalign.reward.trust.report import PREDICTORS, compare_predictions, report
from recalign.run.chain.checks import make_world
from recalign.run.chain.plan import train
from recalign.run.stage import parse_stage

FIGURES = ("rmse", "pairwise", "r2")
RIVALS = ("item", "user_item", "ridge", "factors")
NAMES = {
    "model": "reward model",
    "global": "mean of all",
    "user": "user mean",
    "item": "item mean",
    "user_item": "user and item mean",
    "ridge": "user + item, ridge",
    "factors": "matrix factorisation",
}


@dataclass(frozen=True)
class Row:
    """A log and a reward.

    Attributes:
        log: its YAML in conf/logs.
        epochs: of the recommender.
        reward: another reward than the YAML's.
        noise: of the simulated worlds.
    """

    log: str
    epochs: int = 10
    reward: str | None = None
    noise: float | None = None


ROWS = {
    "simulated, noise 0.3": Row("simulated", noise=0.3),
    "simulated, noise 1.05": Row("simulated", noise=1.05),
    "simulated, noise 3": Row("simulated", noise=3.0),
    "ml-100k": Row("ml-100k"),
    "coat": Row("coat"),
    "ml-1m": Row("ml-1m", epochs=1),
    "kuairand, watch ratio": Row("kuairand-pure-excerpt", epochs=1),
    "kuairand, long_view": Row("kuairand-pure-excerpt", epochs=1, reward="long_view"),
}


def main() -> None:
    parser = options(__doc__, seeds=[0, 1, 2], runs="runs/trust", data=True)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    given = parser.parse_args()
    for name in given.rows:
        cells = {}
        for seed in given.seeds:
            cells[seed] = cell(ROWS[name], seed, given.runs / name.replace(", ", "-").replace(" ", "-"), given.data)
            save(summary(name, cells), "trust/rows", "log")
        print(f"\n### {name}\n\n{shown(summary(name, cells), cells)}", flush=True)
    print("\n" + overview(saved("trust/rows")))


def cell(row: Row, seed: int, folder: Path, data: str | None) -> dict[str, Any]:
    """One seed of one row: what is said on validation, and the test's figures followed by their draws."""
    argv = [f"--config={CONF}/logs/{row.log}.yaml", f"--seed_everything={seed}", "--trainer.enable_progress_bar=false"]
    argv += [f"--run.root={folder.parent}", f"--run.chain={folder.name}"]
    if row.noise is not None:
        data = str(folder / f"world-{seed}")
    argv += [f"--data.root={data}"] if data else []
    argv += [f"--data.reward={row.reward}"] if row.reward else []
    fit = ["fit", f"--config={CONF}/stages/reward.yaml", *argv]
    log: RewardData = parse_stage(fit).datamodule()  # type: ignore[assignment]
    if row.noise is not None:
        make_world(log, World(seed=seed, noise=row.noise))
    train(parse_stage(["fit", f"--config={CONF}/stages/recommender.yaml", *argv, f"--trainer.max_epochs={row.epochs}"]))
    trained = train(parse_stage(fit))
    kept = trained.folder / "test.npz"
    if not kept.is_file() or kept.stat().st_mtime < trained.checkpoint.stat().st_mtime:
        reward = load_net(trained.checkpoint, "reward").net.eval()
        measured_on: tuple[SplitName, ...] = ("validation", "test")
        parts = compare_predictions(log, lambda w: predict(reward, log.loader(w, seen=False)), measured_on)
        said = report(log, parts) | {"commit": commit(), "limits": limits(row, log, parts["test"].events)}
        table = parts["test"].table
        values: dict[str, Any] = {
            f"{n}/{f}": np.append(e.value, e.draws_D) for n, fs in table.items() for f, e in fs.items()
        }
        np.savez(kept, said=json.dumps(said), **values)
    with np.load(kept) as file:
        return {key: file[key] for key in file.files} | {"said": json.loads(str(file["said"]))}


def limits(row: Row, log: RewardData, events: pl.DataFrame) -> dict[str, float]:
    """What a world's maker knows: the RMSE that the noise alone makes, and how many pairs the truth puts in order.

    Both leave out that circumstances move rewards too.

    Args:
        row: the log.
        log: the same, loaded.
        events: those measured on, as `recalign.reward.trust.report.compare_predictions` gives them.
    """
    if row.noise is None:
        return {}
    path = Path(str(log.root)) / "simulated" / "truth.npz"
    users = log.target_events.select("event", "user")
    user = events.select("event").join(users, on="event", maintain_order="left")["user"]
    true_N = load_truth(path, log.sequences).numpy()[user.to_numpy(), events["item_id"].to_numpy() - 1]
    ahead_NC = events["ahead"].to_numpy()
    ahead_NC = np.where(np.isnan(ahead_NC), np.nan, following(true_N, ahead_NC.shape[1]) - true_N[:, None])
    person_N, reward_N = events["person"].to_numpy(), events["reward"].to_numpy()
    right_U, pairs_U = ordered_pairs(person_N, reward_N, ahead_NC, int(person_N.max()) + 1)
    with np.load(path) as truth:
        return {"rmse": float(truth["sd"]) * row.noise, "pairwise": float(right_U.sum() / pairs_U.sum())}


def summary(name: str, cells: dict[int, dict[str, Any]]) -> pl.DataFrame:
    """Figures and differences over the seeds, as results are saved."""
    rows: list[tuple[Any, ...]] = []
    seeds, said = " ".join(map(str, cells)), [cell["said"] for cell in cells.values()]
    commits = " ".join(sorted({one["commit"] for one in said}))

    def add(row: str, metric: str, drawn: list[np.ndarray]) -> None:
        rows.append((name, row, metric, *crossed([Estimate(d[0], d[1:]) for d in drawn]), seeds, commits))

    for figure in FIGURES:
        for predictor in ("model", *PREDICTORS):
            add(predictor, figure, [cell[f"{predictor}/{figure}"] for cell in cells.values()])
        for rival in RIVALS:
            drawn = [cell[f"model/{figure}"] - cell[f"{rival}/{figure}"] for cell in cells.values()]
            add("model", f"minus_{rival}/{figure}", drawn)
    for metric, values in {
        "validation/level": [LEVELS.index(one["verdict"]) for one in said if one["verdict"] in LEVELS],
        f"noise/{said[0]['noise']['source']}": [one["noise"]["sd"] for one in said],
        **{f"limit/{figure}": [one["limits"][figure] for one in said] for figure in said[0]["limits"]},
    }.items():
        if values:  # no level where nothing could be measured
            rows.append((name, "model", metric, *average(values), seeds, commits))
    return frame(rows)


LEVELS = ("no_signal", "weak", "moderate", "strong")


def shown(rows: pl.DataFrame, cells: dict[int, dict[str, Any]]) -> str:
    """The table of a log, and what is said of the reward model."""
    said = [cell["said"] for cell in cells.values()]
    verdicts = ", ".join(one["verdict"] for one in said)
    noise = ", ".join(f"{one['noise']['sd']:.3f}" for one in said)
    figures = markdown(rows.with_columns(pl.col("row").replace(NAMES)), {figure: figure for figure in FIGURES})
    return f"{figures}\n\nVerdicts: {verdicts}. Noise ({said[0]['noise']['source']}): {noise}."


def overview(saved: pl.DataFrame) -> str:
    """The saved rows of all logs: the model, and what it is ahead of its two strongest rivals."""
    heads = ("rmse", "minus ridge", "minus factorisation", "pairwise", "minus ridge", "minus factorisation", "levels")
    lines = [f"| log | seeds | {' | '.join(heads)} |", "|---" * (len(heads) + 2) + "|"]
    for (name, seeds), rows in saved.filter(pl.col("row") == "model").group_by("log", "seeds", maintain_order=True):
        cell = {r["metric"]: r for r in rows.iter_rows(named=True)}
        shown = []
        for figure in ("rmse", "pairwise"):
            shown.append(f"{cell[figure]['mean']:.3f}")
            behind = (cell[f"minus_{rival}/{figure}"] for rival in ("ridge", "factors"))
            shown += [f"{c['mean']:+.4f} ({c['ci_low']:+.4f} .. {c['ci_high']:+.4f})" for c in behind]
        level = f"{cell['validation/level']['mean']:.1f}" if "validation/level" in cell else "-"
        lines.append(f"| {name} | {len(str(seeds).split())} | {' | '.join(shown)} | {level} |")
    return "\n".join([*lines, "", f"Level of the verdict: {', '.join(f'{n} {i}' for i, n in enumerate(LEVELS))}."])


if __name__ == "__main__":
    main()
