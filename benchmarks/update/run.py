"""The next day: go on from yesterday's models, train them anew, or leave them alone?

    python -m benchmarks.update.run [--log world] [--drift 0.03 0.5] [--seeds 0 1 2] [--epochs 0.25] [--untouched 1 0.2]

Rolling origin, in global time: the events up to a time are known (the newest twentieth of them validates), the next
window is tested on, then it is known too. Worlds are simulated, with as much drift as asked for; other logs are named
by their YAML, and begin with the first event whose reward is known. All rows of a window see the same prepared log,
which continues the one before, so that users and items have the same numbers.

    stale                       the models of the first window, as they are; new items have no vector of their own
    update                      the start of the window before goes on, for a share of the epochs; the others begin anew
    retrain                     trained on all known events, from the beginning
    retrain, equal compute      the same, but the start for as many epochs as in the update
    popularity                  what was chosen most in the last window

of the start (cloning) and of A-SFT with a reward model of its own day. The update is also
made with fewer of the users who did nothing new (--untouched). Figures: NDCG@10 of all test events, of
users and items that were known before the last window, of new users and of new items; in worlds also the mean true
reward of the ten items shown; and the seconds of training for a window, A-SFT's with those of what it starts from.

The verdict, update, retrain or leave, is that of `update_figures.verdict`, a mean over seeds. The paired
differences behind it are saved too, and those between the update and its variants; in worlds also those of the true
reward.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import yaml

from benchmarks.lib import CONF, figure, markdown, options, save
from benchmarks.update.figures import (
    DECISIVE,
    EQUAL,
    POPULARITY,
    RETRAIN,
    STALE,
    UPDATE,
    as_saved,
    differences,
    said,
    summary,
    verdict,
)
from recalign.data.sequences import EventDataModule
from recalign.data.sequences.earlier import remember
from recalign.data.simulation import World, simulate
from recalign.evaluation.counted_rows import SameForAll
from recalign.recommender import Policy
from recalign.recommender.checkpoint import build_net, load_net, read_checkpoint, recipe
from recalign.recommender.grown import grow
from recalign.recommender.rank_metrics import gain_ndcg
from recalign.run import configs
from recalign.run.chain.plan import train
from recalign.run.chain.update import WARM_STARTED_STAGE
from recalign.run.stage import Manifest, RunFolder, Stage, parse_stage

EDGES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Shares of the events that are known in the first window's training, and at the end of each test window."""
VALIDATION = 0.05
STAGES = ("recommender", "reward", "asft")
METRICS = ("all", "known", "new users", "new items", "true@10", "seconds")
COLUMNS = {f"start/{name}": f"start {name}" for name in METRICS} | {f"asft/{name}": f"A-SFT {name}" for name in METRICS}


def main() -> None:
    parser = options(__doc__, seeds=[0, 1, 2], runs="runs/update", data=True)
    parser.add_argument("--log", default="world", help="world, or the YAML of a log with times, such as kuairand-pure")
    parser.add_argument("--drift", type=float, nargs="+", default=[0.03, 0.5], help="of worlds")
    parser.add_argument("--world", default="{}", help="further settings of worlds, as YAML")
    parser.add_argument("--users", type=float, default=1.0, help="share of a log's users, others for each seed")
    parser.add_argument("--epochs", type=float, default=0.25, help="of an update, as a share of the first training's")
    parser.add_argument("--untouched", type=float, nargs="+", default=[1.0], help="shares of users without new events")
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--no-save", action="store_true", help="print alone, as for a trial")
    parser.add_argument("chain", nargs="*", help="words for every stage, after --: -- --trainer.max_epochs 1")
    given = parser.parse_args()
    if given.users < 1 and given.log == "world":
        parser.error("--users is a share of a log's: worlds have few, say how many in --world")
    tables = []
    for drift in given.drift if given.log == "world" else [None]:
        name = f"world, drift {drift:g}" if drift is not None else given.log
        name += f", {given.users:g} of the users" if drift is None and given.users < 1 else ""
        events = pl.concat([of_seed(given, drift, seed) for seed in given.seeds])
        tables.append(summary(events, name, given.seeds))
        print(f"\n{markdown(tables[-1], COLUMNS, 4, figure)}")
        variants = [(row, UPDATE) for row in rows_of(given) if row != UPDATE]
        for stage in ("start", "asft"):
            own, pairs = events.filter(pl.col("stage") == stage), [*DECISIVE, *variants]
            ends = differences(own, pairs)
            print(f"{name}, {stage}: {verdict(ends)} ({said(ends)})", flush=True)
            tables.append(as_saved(name, f"{stage}/difference", ends, given.seeds))
            if own["true@10"].is_not_null().any():
                ends = differences(own, pairs, "true@10")
                print(f"{name}, {stage}, true reward: {said(ends)}", flush=True)
                tables.append(as_saved(name, f"{stage}/difference/true@10", ends, given.seeds))
    if not given.no_save:
        print(save(pl.concat(tables), "update/rows", "log", "row"))


def of_seed(given: argparse.Namespace, drift: float | None, seed: int) -> pl.DataFrame:
    """The test events of one seed under every row."""
    root = given.runs / (f"{given.log}-{given.users:g}" if drift is None else f"drift-{drift:g}") / f"seed-{seed}"
    log, events, truth = raw(given, drift, seed, root)
    parts, earlier, days = [], None, Windows(events)
    for window in range(given.windows + 1):
        day = Day(given, root / f"window-{window}", log, days, window, seed, earlier)
        if window == 0:
            first = last = dict.fromkeys(rows_of(given), day.trained("first", 1.0))
        else:
            before, last = last, {}
            for row, untouched in rows_of(given).items():
                last[row] = day.trained(row, given.epochs, before[row], untouched)
            parts += [day.tested(STALE, first[UPDATE], grown=True)]
            parts += [day.tested(row, runs) for row, runs in last.items()]
            parts += [day.tested(RETRAIN, day.trained(RETRAIN, 1.0))]
            parts += [day.tested(EQUAL, day.trained(EQUAL, given.epochs))]
            parts += [day.popular()]
        earlier = day
    found = pl.concat(parts, how="diagonal").with_columns(seed=pl.lit(seed))
    if truth is None:
        return found.with_columns(pl.lit(None, pl.Float64).alias("true@10"))
    return found


def rows_of(given: argparse.Namespace) -> dict[str, float]:
    """The rows that go on from the day before, with their share of the users without new events."""
    return {UPDATE: 1.0} | {f"{UPDATE}, {share:g} of untouched users": share for share in given.untouched if share < 1}


def raw(
    given: argparse.Namespace, drift: float | None, seed: int, root: Path
) -> tuple[dict[str, Any], pl.DataFrame, np.ndarray | None]:
    """The ``data`` of a log's YAML, its rows in order of time, and the truth of worlds."""
    if drift is None:
        log = yaml.safe_load((CONF / "logs" / f"{given.log}.yaml").read_text())["data"]
        files = CONF / "stages/recommender.yaml", CONF / "logs" / f"{given.log}.yaml"
        root_of = {"data.root": given.data} if given.data else {}
        stage = parse_stage(["fit", *(f"--config={file}" for file in files)], root_of)
        data: EventDataModule = stage.datamodule()  # type: ignore[assignment]
        table = data.table
        own = {"user": table.users.gather(table.frame["user"]), "item": table.items.gather(table.frame["item"])}
        columns = table.frame.select("timestamp", "reward").with_columns(**own)
        return {"max_length": log.get("max_length", 200)}, used(columns, given.users, seed), None
    world = simulate(World(drift=drift, seed=1000 + seed, **yaml.safe_load(given.world)))
    root.mkdir(parents=True, exist_ok=True)
    np.save(root / "truth.npy", world.truth_UI)
    return {"max_length": 200}, world.events.select("user", "item", "timestamp", "reward"), world.truth_UI


def used(events: pl.DataFrame, share: float, seed: int) -> pl.DataFrame:
    """The events of a share of the users, in order of time, from the first event on whose reward is known."""
    users = events["user"].unique().sort().sample(fraction=share, seed=seed)
    first = pl.col("timestamp") >= pl.col("timestamp").filter(pl.col("reward").is_not_null()).min()
    return events.filter(pl.col("user").is_in(users.implode()), first).sort("timestamp", maintain_order=True)


class Windows:
    """The rows of a log up to each edge; events of the time of an edge belong to what comes after it."""

    def __init__(self, events: pl.DataFrame) -> None:
        self.events = events

    def time(self, share: float) -> int:
        return int(self.events["timestamp"][min(int(len(self.events) * share), len(self.events) - 1)])

    def until(self, share: float) -> pl.DataFrame:
        return self.events if share >= 1 else self.events.filter(pl.col("timestamp") < self.time(share))


class Day:
    """One window: the events known before it to train on, its own to test on."""

    def __init__(
        self,
        given: argparse.Namespace,
        folder: Path,
        log: Mapping[str, Any],
        days: Windows,
        window: int,
        seed: int,
        earlier: Day | None,
    ) -> None:
        self.given, self.folder, self.days, self.window, self.seed = given, folder, days, window, seed
        self.earlier, self.log = earlier, folder / "log.yaml"
        folder.mkdir(parents=True, exist_ok=True)
        days.until(EDGES[window + 1]).write_parquet(folder / "events.parquet")
        cuts = [days.time(EDGES[window] * (1 - VALIDATION)), days.time(EDGES[window])]
        split = {"cuts": [datetime.fromtimestamp(cut, UTC).isoformat() for cut in cuts]}
        data = {
            **log,
            "log": {"name": "day", "files": ["events.parquet"], "time_unit": "s"},
            "reward": "reward",
            "high": {"quantile": 0.75},
            "split": {"class_path": "recalign.data.sequences.TimeSplit", "init_args": split},
            "root": str(folder),
            "grows_from": str(earlier.folder / "ids") if earlier else None,
        }
        self.log.write_text(yaml.safe_dump({"data": data}, sort_keys=False))
        self.data: EventDataModule = self.stage("recommender", "none", {}).datamodule()  # type: ignore[assignment]
        remember(self.data, folder / "ids")

    def stage(self, stage: str, row: str, own: Mapping[str, Any]) -> Stage:
        words = ["fit", f"--config={configs.find(stage)}", f"--config={self.log}", *self.given.chain]
        run = {"root": self.folder, "chain": row.replace(",", "")}
        return parse_stage(words, {"seed_everything": self.seed, "run": run}, own)

    def trained(
        self, row: str, epochs: float, before: Mapping[str, Path] | None = None, untouched: float = 1.0
    ) -> dict[str, Path]:
        """The checkpoints of all stages, trained unless they are up to date.

        Args:
            row: names the runs.
            epochs: of the start, as a share of those that the first window's took.
            before: checkpoints to go on from.
            untouched: share of the users without new events.
        """
        found = {}
        for stage in STAGES:
            own: dict[str, Any] = {}
            if before and stage == WARM_STARTED_STAGE:
                own = {"model.grows_from": str(before[stage]), "data.untouched": untouched}
            if epochs < 1 and stage == WARM_STARTED_STAGE:
                own["trainer.max_epochs"] = math.ceil(epochs * self.first_epochs(stage))
            found[stage] = train(self.stage(stage, row, own)).checkpoint
        return found

    def first_epochs(self, stage: str) -> int:
        """How many epochs a stage took in the first window."""
        day: Day = self
        while day.earlier:
            day = day.earlier
        last = RunFolder(day.folder / "first" / stage / f"seed-{self.seed}").last
        return int(read_checkpoint(last)["epoch"]) + 1

    def tested(self, row: str, runs: Mapping[str, Path], *, grown: bool = False) -> pl.DataFrame:
        """The test events under the start and the aligned policy of a row, and what their training cost."""
        parts = []
        manifests = {stage: Manifest.read(RunFolder(path.parent.parent)) for stage, path in runs.items()}
        seconds = {stage: one.seconds for stage, one in manifests.items() if one and not grown}
        for stage, run in (("start", "recommender"), ("asft", "asft")):
            policy = load_net(runs[run], "policy").net
            policy = self.as_it_is(policy) if grown else policy
            took = sum(seconds.values()) if stage == "asft" else seconds.get(run, 0.0)
            named = {"row": pl.lit(row), "stage": pl.lit(stage), "seconds": pl.lit(float(took))}
            parts.append(self.measured(policy).with_columns(**named))
        return pl.concat(parts)

    @torch.no_grad()
    def as_it_is(self, policy: Policy) -> Policy:
        """A policy over today's catalogue that knows nothing of its new items: their vectors are random, counts 0."""
        plan = recipe(policy)
        plan["init_args"]["num_items"] = self.data.num_items
        torch.manual_seed(0)
        whole = build_net(plan)
        grow(whole, policy, "the stale policy")
        counts = torch.zeros(self.data.num_items)
        known = policy.prior.log_count_V.exp()  # type: ignore[union-attr, operator]
        counts[: policy.num_items] = 1.5 * known / known.min() - 0.5  # as if the rarest item had one event
        whole.set_counts(counts)
        whole.prior_strength = policy.prior_strength
        return whole

    def popular(self) -> pl.DataFrame:
        """The test events under what was chosen most in the last window that is trained on, for either stage."""
        assert self.earlier is not None
        began, end = self.days.time(EDGES[self.window - 1]), self.days.time(EDGES[self.window] * (1 - VALIDATION))
        newest = self.days.until(EDGES[self.window]).filter(pl.col("timestamp").is_between(began, end, closed="left"))
        counts = self.data.sequences.items.to_frame("item").join(
            newest.group_by("item").len(), on="item", how="left", maintain_order="left"
        )
        policy = SameForAll(torch.from_numpy(counts["len"].fill_null(0).to_numpy().astype(np.float32)))
        found = self.measured(policy).with_columns(row=pl.lit(POPULARITY))
        return pl.concat([found.with_columns(stage=pl.lit(stage)) for stage in ("start", "asft")])

    @torch.no_grad()
    def measured(self, policy: Policy) -> pl.DataFrame:
        """NDCG@10 of each test event, which kind of event it is, and the true reward of what is shown."""
        assert self.earlier is not None
        sequences, old, parts = self.data.sequences, self.data.preparation.earlier, []
        assert old is not None
        path = self.folder.parent / "truth.npy"
        truth = torch.from_numpy(np.load(path)) if path.is_file() else None
        users, items = sequences.users, sequences.items
        for batch in self.data.loader(self.data.windows("test", "all")):
            state = policy.eval().encode(batch)
            rank_T = policy.ranks(state, batch.target_T, batch.seen_N)
            user_T, item_T = batch.user_B[batch.row_T].numpy(), batch.target_T.numpy()  # 0: in no training event yet
            columns: dict[str, Any] = {"user": users.gather(user_T), "ndcg": gain_ndcg(rank_T, 10).double().numpy()}
            columns |= {"new user": user_T >= len(old.users), "new item": (item_T == 0) | (item_T > len(old.items))}
            if truth is not None:  # of worlds, whose raw ids count from 1
                shown_TK = policy.top_k(state, 10, batch.seen_N)[1]
                raw_TK = items.gather(shown_TK.flatten().clamp(min=1).numpy() - 1).to_numpy().reshape(shown_TK.shape)
                columns["true@10"] = truth[columns["user"].to_numpy()[:, None] - 1, raw_TK - 1].double().mean(1).numpy()
            parts.append(pl.DataFrame(columns))
        return pl.concat(parts).with_columns(window=pl.lit(self.window), event=pl.int_range(pl.len()))


if __name__ == "__main__":
    main()
