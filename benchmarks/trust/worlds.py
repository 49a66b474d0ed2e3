"""Is the verdict on a reward model honest, and what does it ask for? Questions to simulated worlds of seconds each.

    python -m benchmarks.trust.worlds order --kinds deaf generous --worlds 50
    python -m benchmarks.trust.worlds order --kinds signal faint --worlds 10
    python -m benchmarks.trust.worlds choice --worlds 10
    python -m benchmarks.trust.worlds judges --worlds 20

``order``: 1,500 users of 5 events, of which the last two are test and validation, so that ``pairwise`` is that of the
training rows of other users. How often does its interval lie above one half where rewards tell nothing of the item
(``deaf``; ``generous``, where in addition what users choose tells how high they rate), and how often where they do
(``signal``; ``faint``, with four times the noise)?

``choice``: how much better do figures look on the validation events that chose the epoch and the rank? Each world is
fitted twice, and each time one half of the validation users chooses. A figure of the half that chose less that of the
other, averaged over the two fits: which half is easier cancels. All validation users choose together in a run, about
twice as many, so this is an upper limit.

``judges``: how often does a judge of the users B2 know something of users A's rewards, by how many rewards it was
trained on? Users have 5.5 events each, of 300 items; ``signal``, and ``faint`` with twice the noise.
"""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from benchmarks.lib import average, by_metric, commit, each, frame, options, save
from recalign.data.events import LogMapping
from recalign.data.sequences import EventDataModule, High, LeaveLast, TimeSplit, Windows
from recalign.data.sequences.splits import TEST, VALIDATION
from recalign.data.sequences.store import Group, Part
from recalign.data.simulation import World, simulate
from recalign.data.simulation.world import SD
from recalign.evaluation.findings import BLIND
from recalign.nn import HSTU, Pooled
from recalign.recommender import Recommender, RecommenderData
from recalign.reward import Judge, RewardData, RewardModel

SHORT = functools.partial(World, users=1500, events=7500, items=200, confounding=0.0)
LONG = functools.partial(World, users=400, events=18_000, items=100)
ORDER = {"deaf": SHORT(signal=0.0), "generous": SHORT(signal=0.0), "signal": SHORT(), "faint": SHORT(noise=4.0)}
JUDGED = {"signal": World(items=300, confounding=0.0), "faint": World(items=300, confounding=0.0, noise=2.1)}
REWARDS = (200, 400, 800, 1_600, 3_200)  # of a judge; in truth 1.2 times as many, as short histories train whole
EACH = 5.5  # events of a user, of which the last two are test and validation
CHOICE = {"deaf": LONG(signal=0.0), "signal": LONG(), "loud": LONG(noise=3.0)}
EPOCHS = 3  # of the recommender
QUIET: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
QUIET |= {"enable_model_summary": False, "num_sanity_val_steps": 0}


class Halved(RewardData):
    """Validation events of half of the users; those of the other half are the test."""

    def __init__(self, half: int, **log: Any) -> None:
        super().__init__(**log)
        self.half = half

    @functools.cached_property
    def frame(self) -> pl.DataFrame:
        others = (pl.col("split") == VALIDATION) & (pl.col("user") % 2 != self.half)
        return super().frame.with_columns(pl.when(others).then(TEST).otherwise(pl.col("split")).alias("split"))

    def windows(self, part: Part, users: Group | None = None) -> Windows:
        windows = super().windows("validation", users)
        return windows.take(np.flatnonzero((windows.user % 2 == self.half) == (part == "validation")))


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("question", choices=["order", "choice", "judges"])
    parser.add_argument("--kinds", nargs="+", help="of worlds; else all")
    parser.add_argument("--worlds", type=int, default=10, help="of each kind")
    parser.add_argument("--first", type=int, default=3000, help="seed of the first world")
    parser.add_argument("--workers", type=int, default=1, help="worlds at a time")
    given = parser.parse_args()
    seeds = range(given.first, given.first + given.worlds)
    questions: dict[str, tuple[Callable[..., dict[str, float]], dict[str, World]]] = {
        "order": (functools.partial(_in_world, order), ORDER),
        "choice": (functools.partial(_in_world, choice), CHOICE),
        "judges": (judges, JUDGED),
    }
    ask, kinds = questions[given.question]
    for kind in given.kinds or kinds:
        found = by_metric(each(functools.partial(ask, kind, kinds[kind]), seeds, given.workers))
        rows = []
        for figure, values in found.items():
            mean, sd, *_ = average(values)
            error = (math.nan if sd is None else sd) / math.sqrt(len(values))
            ends = mean - 2 * error, mean + 2 * error, f"{seeds[0]}-{seeds[-1]}", commit()
            rows.append((f"{given.question}, {kind}", "model", figure, mean, sd, *ends))
            print(f"{given.question:6} {kind:8} {figure:16} {mean:+.4f}, standard error {error:.4f}", flush=True)
        save(frame(rows), "trust/worlds", "log")


Fit = Callable[..., dict[str, Any]]


def order(fit: Fit) -> dict[str, float]:
    """What trust.json says of the order, and the verdict."""
    said = fit(RewardData)
    assert said["ordered_on"] == "training rows of other users"
    value, low, _ = said["validation"]["table"]["model"]["pairwise"]
    item = said["validation"]["table"]["item"]["pairwise"][1]
    verdict = {
        f"said {word}": said["verdict"] == word for word in ("not_measured", "no_signal", "weak", "moderate", "strong")
    }
    return {"pairwise": value, "above one half": low > 0.5, "item mean above": item > 0.5, **verdict}


def choice(fit: Fit) -> dict[str, float]:
    """Figures of the half that chose less those of the other half."""
    found = []
    for half in (0, 1):
        said = fit(Halved, half=half)
        chose, fresh = (_figures(said[part]) for part in ("validation", "test"))
        found.append({figure: chose[figure] - fresh[figure] for figure in chose})
    return {figure: (found[0][figure] + found[1][figure]) / 2 for figure in found[0]}


def judges(_kind: str, world: World, seed: int) -> dict[str, float]:
    """Whether a judge knows something, by the rewards that it learned from."""
    found: dict[str, float] = {}
    for rewards in REWARDS:
        users = round(rewards / (0.15 * (EACH - 2) * (1 - world.missing)))
        settings = vars(world) | {"users": users, "events": round(EACH * users), "seed": seed}
        with tempfile.TemporaryDirectory() as folder:
            data = RewardData(users="B2", **_log_of(simulate(World(**settings)).events, folder, short=True))
            seed_everything(seed, verbose=False)
            said = _fitted(Judge(data.num_items, Pooled(dim=32, max_length=data.max_length)), data, folder)
        found[f"{rewards:,} rewards: known"] = said["verdict"] not in BLIND
    return found


def _figures(part: dict[str, Any]) -> dict[str, float]:
    table, best = part["table"], part["best_average"]
    gain = 1 - table["model"]["rmse"][0] / table[best]["rmse"][0]
    return {"r2": table["model"]["r2"][0], "pairwise": table["model"]["pairwise"][0], "gain": gain}


def _in_world(ask: Callable[[Fit], dict[str, float]], kind: str, world: World, seed: int) -> dict[str, float]:
    """Make a world and its recommender, and ask."""
    simulated = simulate(World(**(vars(world) | {"seed": seed})))
    events = simulated.events
    if kind == "generous":
        level = SD * simulated.people.habit_UD[:, 0].astype(float)
        events = events.with_columns(pl.col("reward") + pl.Series(level).gather(events["user"] - 1))
    with tempfile.TemporaryDirectory() as folder:
        log = _log_of(events, folder, short=world.users > 1000)
        seed_everything(seed, verbose=False)
        cloned = RecommenderData(users="all", **log)
        start = Recommender(cloned.num_items, HSTU(dim=16, layers=1, max_length=log["max_length"]), prior=False)
        Trainer(max_epochs=EPOCHS, default_root_dir=folder, enable_checkpointing=False, **QUIET).fit(start, cloned)

        def fit(data: type[EventDataModule], **more: Any) -> dict[str, Any]:
            seed_everything(seed, verbose=False)
            log_ = data(users="A", **more, **log)
            module = RewardModel(log_.num_items, policy=start.policy, members=3)
            return _fitted(module, log_, folder, tested=data is Halved)

        return ask(fit)


def _log_of(events: pl.DataFrame, folder: str, short: bool) -> dict[str, Any]:
    """Write a world's events, and say how they are read; short: its users have few."""
    (Path(folder) / "simulated").mkdir()
    events.write_parquet(Path(folder) / "simulated/events.parquet")
    return {
        "log": LogMapping(name="simulated", files=["simulated/events.parquet"]),
        "root": folder,
        "reward": "reward",
        "high": High("high"),
        "split": LeaveLast(test=1, validation=1) if short else TimeSplit((0.8, 0.9)),
        "max_length": 32 if short else 64,
        "cache": False,
    }


def _fitted(module: RewardModel, data: EventDataModule, folder: str, tested: bool = False) -> dict[str, Any]:
    """Train a reward model or a judge as its YAML does, and return what its trust report says."""
    best = ModelCheckpoint(folder, monitor="reward/rmse", save_weights_only=True)
    trainer = Trainer(
        max_epochs=30, default_root_dir=folder, callbacks=[best, EarlyStopping("reward/rmse", patience=3)], **QUIET
    )
    trainer.fit(module, data)
    if tested:
        trainer.test(module, data, ckpt_path=best.best_model_path, verbose=False, weights_only=True)
    assert module.trust_report
    return module.trust_report


if __name__ == "__main__":
    main()
