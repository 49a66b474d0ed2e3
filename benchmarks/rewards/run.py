"""A reward chosen on validation: do policies that follow it choose better than those that follow the log's own?

    python -m benchmarks.rewards.run [--log kuairand-pure-excerpt] [--seeds 0 1 2] [--data DIR]
    python -m benchmarks.rewards.run --seeds 0 --no-save -- --trainer.max_epochs=1 --evaluation.users=300

Each candidate is the reward of a chain of its own: reward model, A-SFT and reranking know it alone. The cloned policy
and the judges are the same in all of them, and know the log's own reward, which is the first candidate. Settings are
those of conf/chain/<log>-methods.yaml, without its search; candidates are those of conf/rewards/<log>.yaml.

The figure is NDCG@10 of the events that the log's own `data.high` calls high, of users A, less the cloned policy's. For
each row the candidate with the highest figure on validation is chosen, all seeds together. Test figures are printed for
that one and for the log's own reward, and for no other. Beside them: NDCG@10 of all events, and the judges' value in
standard deviations of the log's own reward. Intervals: bootstrap over users and seeds.

What has run is not run again. A log's rows are saved as a whole: say --no-save where only some seeds or rewards run.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from benchmarks.items.ranks import ndcg
from benchmarks.lib import CONF, commit, frame, markdown, options, save
from recalign.bootstrap import CrossedBootstrap, Estimate
from recalign.cli import main as recalign
from recalign.evaluation.comparison import UNIT
from recalign.files import read_json

START = "start"
ROWS = ("rerank_item_mean", "rerank", "asft", "asft_rerank")
SHARED = ("recommender", "judge_select", "judge_report")
"""Stages that know the log's own reward in every chain, and run in the first alone."""
OF_CHAIN = ("rerank", "trainer", "stages")
"""What is taken from the chain of the log's methods."""
CHOOSES = "high/ndcg@10"
"""The figure that chooses."""
FIGURES = {CHOOSES: "high", "all/ndcg@10": "all", "judge@10": "judge"}
COLUMNS = {
    "validation/high/ndcg@10": "validation: high/ndcg@10 - start",
    "test/high/ndcg@10": "test: high/ndcg@10 - start",
    "test/high/ndcg@10/minus_own": "less the own reward's",
    "test/all/ndcg@10": "all/ndcg@10 - start",
    "test/judge@10": "judges, sd",
}


def main() -> None:
    parser = options(__doc__, seeds=[0, 1, 2], runs="runs/reward-choice", data=True)
    parser.add_argument("--log", default="kuairand-pure-excerpt")
    parser.add_argument("--rewards", nargs="+", default=["ratio", "long_view", "relative"], help="the log's own first")
    parser.add_argument("--no-save", action="store_true", help="print alone, as for a trial")
    parser.add_argument("chain", nargs="*", help="words for every chain, after --")
    given = parser.parse_args()
    events = pl.concat(of_seed(given, seed) for seed in given.seeds)
    found = chosen(events, given.log, given.rewards, given.seeds)
    print("\n" + markdown(found, COLUMNS, 4))
    if not given.no_save:
        print(save(found, "rewards/choice", "log"))


def of_seed(given: argparse.Namespace, seed: int) -> pl.DataFrame:
    """Events of validation and test under each candidate's rows: what `read` gives, and seed and reward."""
    root, parts = given.runs / given.log / f"seed-{seed}", []
    own, *_ = given.rewards
    for reward in given.rewards:
        for stage in SHARED if reward != own else ():
            if not (there := root / reward / stage).is_dir():
                shutil.copytree(root / own / stage, there)
        path = root / f"{reward}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(settings(given, root, reward, seed), sort_keys=False))
        if code := recalign(["chain", "--config", str(path), *given.chain]):
            raise SystemExit(code)
        parts.append(read(root / reward, seed).with_columns(reward=pl.lit(reward)))
    return pl.concat(parts).with_columns(seed=pl.lit(seed))


def settings(given: argparse.Namespace, root: Path, reward: str, seed: int) -> dict[str, Any]:
    """The chain of a candidate."""
    recipe = _yaml(CONF / "chain" / f"{given.log}-methods.yaml")
    data = {"root": given.data} if given.data else {}
    made = {"log": given.log, "methods": [START, *ROWS], "highlight": "asft", "seeds": [seed], "name": reward}
    made |= {"root": str(root), "baselines": [START], "data": data, **{key: recipe[key] for key in OF_CHAIN}}
    stages = {name: one for name, one in recipe["stages"].items() if name in (*SHARED, "reward")}
    if reward != given.rewards[0]:
        made["data"] = data | candidate(given.log, reward)
        for stage in SHARED:
            stages[stage] = {**stages.get(stage, {}), "data": candidate(given.log, given.rewards[0])}
    return made | {"stages": stages}


def candidate(log: str, reward: str) -> dict[str, Any]:
    """A candidate as settings of ``data``."""
    said = _yaml(CONF / "rewards" / f"{log}.yaml")["rewards"][reward]
    return {"relative_to": None, **(said if isinstance(said, dict) else {"reward": said})}


def _yaml(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def read(chain: Path, seed: int) -> pl.DataFrame:
    """What a chain evaluated.

    Columns: row, part, user, event, high (by the chain's own reward), all (NDCG@10), judge (value of the ten shown, in
    standard deviations of the chain's reward), unit.
    """
    parts = []
    for row in (START, *ROWS):
        folder = chain / row / f"seed-{seed}" / "evaluation"
        unit = read_json(folder / "summary.json")[UNIT]
        for part in ("validation", "test"):
            own = pl.read_parquet(folder / f"{part}.parquet").select(
                "user", "event", "high", all=ndcg("rank"), judge="judge@10", unit=pl.lit(unit)
            )
            parts.append(own.with_columns(row=pl.lit(row), part=pl.lit(part)))
    return pl.concat(parts)


def chosen(events: pl.DataFrame, log: str, rewards: Sequence[str], seeds: Sequence[int]) -> pl.DataFrame:
    """Lines as saved: all candidates on validation; the chosen one and the log's own, which is the first, on the test.

    ``events`` are those of `of_seed`, all seeds.
    """
    gains, found = Gains(events, rewards[0], seeds), []
    for row in ROWS:
        of_validation = {reward: gains.mean("validation", reward, row, CHOOSES) for reward in rewards}
        best = max(rewards, key=lambda reward: of_validation[reward].value)
        for reward, estimate in of_validation.items():
            said = {f"validation/{CHOOSES}": estimate}
            if reward in (rewards[0], best):
                said |= {f"test/{figure}": gains.mean("test", reward, row, figure) for figure in FIGURES}
            if reward == best != rewards[0]:
                said[f"test/{CHOOSES}/minus_own"] = gains.over_own("test", reward, row, CHOOSES)
            name = f"{row}, {reward}{' (chosen)' if reward == best else ''}"
            rest = " ".join(map(str, seeds)), commit()
            found += [(log, name, metric, one.value, None, *one.interval(), *rest) for metric, one in said.items()]
    return frame(found)


class Gains:
    """Gains over the cloned policy, event by event, and their means over users and seeds.

    Args:
        events: of `read`, with seed and reward.
        own: the candidate whose chain says what is high, what the judges' unit is, and how the cloned policy ranks.
    """

    def __init__(self, events: pl.DataFrame, own: str, seeds: Sequence[int]) -> None:
        self.own, self.seeds = own, seeds
        keys = ["seed", "part", "event"]
        of_start = events.filter((pl.col("reward") == own) & (pl.col("row") == START))
        start = of_start.select(*keys, "unit", is_high="high", all_start="all", judge_start="judge")
        gains = events.drop("high", "unit").join(start, on=keys, how="left")
        gained = pl.col("all") - pl.col("all_start")
        judged = (pl.col("judge") - pl.col("judge_start")) / pl.col("unit")
        self.gains = gains.with_columns(all=gained, judge=judged, high=pl.when("is_high").then(gained))
        self.users = {part: of["user"].unique().sort() for (part,), of in self.gains.group_by("part")}
        self.bootstrap = {part: CrossedBootstrap(len(users)) for part, users in self.users.items()}

    def mean(self, part: str, reward: str, row: str, figure: str) -> Estimate:
        """Of one candidate."""
        return self._over(part, self._of(part, reward, row).with_columns(value=FIGURES[figure]))

    def over_own(self, part: str, reward: str, row: str, figure: str) -> Estimate:
        """Of one candidate less the log's own reward, at the same events."""
        column, keys = FIGURES[figure], ["seed", "event"]
        own = self._of(part, self.own, row).select(*keys, less=column)
        both = self._of(part, reward, row).join(own, on=keys, how="left")
        return self._over(part, both.with_columns(value=pl.col(column) - pl.col("less")))

    def _of(self, part: str, reward: str, row: str) -> pl.DataFrame:
        return self.gains.filter(part=part, reward=reward, row=row)

    def _over(self, part: str, events: pl.DataFrame) -> Estimate:
        total_SU, count_SU = (
            np.stack([self._by_user(part, events.filter(seed=seed), what) for seed in self.seeds])
            for what in (pl.col("value").sum(), pl.col("value").count())
        )
        return self.bootstrap[part].mean(total_SU, count_SU)

    def _by_user(self, part: str, events: pl.DataFrame, what: pl.Expr) -> np.ndarray:
        found = events.group_by("user").agg(what)
        users = self.users[part].to_frame().join(found, on="user", how="left", maintain_order="left")
        return users["value"].fill_null(0).cast(pl.Float64).to_numpy()


if __name__ == "__main__":
    main()
