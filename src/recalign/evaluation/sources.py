"""Read all data of a chain's page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from recalign import seals
from recalign.evaluation import examples
from recalign.evaluation.chain_comparison import load_roles, read
from recalign.evaluation.comparison_table import ComparisonTable
from recalign.evaluation.decision import Decision, decide
from recalign.evaluation.findings import better_than_chance
from recalign.evaluation.methods import BASE_STAGES, EVALUATION_SPLITS
from recalign.evaluation.roles import Roles
from recalign.files import read_json, read_object
from recalign.reward.trust.report import read_trust

TRUST = ("reward", "judge_select", "judge_report")
"""Stages that write a ``trust.json``."""


@dataclass(frozen=True)
class Sources:
    """All data of a page; it reads nothing else."""

    name: str
    comparison: pl.DataFrame
    roles: Roles  # `highlight` is the row that the decision is about, if there is one
    decision: Decision | None  # None if no candidate was measured
    size: dict[str, int]  # users and events of the test, and how many of the events had a high reward
    check: dict[str, Any]  # what `recalign check` said of the log
    trust: dict[str, dict[str, dict[str, Any]]]  # trust.json by stage and seed
    examples: list[list[dict[str, Any]]]  # of the first seed, of `start` and of `highlight`; empty where one is missing
    manifests: list[dict[str, Any]]  # of the comparison's stages, methods and seeds, in the order in which they ran

    @classmethod
    def of(cls, chain_folder: Path) -> Sources:
        """Read a chain's folder, `runs/<chain>`. Raises InputError where it has no `comparison.csv`."""
        frame, (roles, _) = read(chain_folder), load_roles(chain_folder)
        table, validation = (ComparisonTable(frame, roles, split) for split in EVALUATION_SPLITS)

        def stored(method: object, seed: str, file: str) -> Path:
            return chain_folder / str(method) / f"seed-{seed}" / file

        first = frame.filter(pl.col("seed") != "all").row(0, named=True)
        test = stored(first["method"], first["seed"], "evaluation/test.parquet")
        if seals.check(test.parent).altered:
            seals.require(test.parent, "evaluate again: recalign chain, or recalign compare")
        events = pl.read_parquet(test, columns=["user", "high"], glob=False).drop_nulls()  # of users A
        trust = {
            stage: {seed: report for seed in table.seeds if (report := read_trust(stored(stage, seed, "")))}
            for stage in TRUST
        }
        check = read_object(chain_folder / "check.json")
        decision = decide(table, validation, trust, check)
        roles = replace(roles, highlight=(decision and decision.policy) or roles.highlight)
        seed, compared = table.seeds[0], set(frame.select("method", "seed").iter_rows())
        pair = [row for row in ("start", roles.highlight) if (row, seed) in compared]  # others are of an earlier chain
        shown = [read_json(stored(row, seed, f"evaluation/{examples.FILE}")) for row in pair]
        paths = [path for seed in table.seeds for path in chain_folder.glob(f"*/seed-{seed}/manifest.json")]
        manifests = sorted(map(read_json, paths), key=lambda run: (str(run.get("started")), str(run.get("stage"))))
        stages = {*BASE_STAGES, "tokens", *table.methods}
        return cls(
            name=chain_folder.resolve().name,
            comparison=frame,
            roles=roles,
            decision=decision,
            size={"users": events["user"].n_unique(), "events": len(events), "high": int(events["high"].sum())},
            check=check,
            trust=trust,
            examples=shown if len(shown) == 2 and all(shown) else [],
            manifests=[run for run in manifests if run["stage"] in stages],
        )

    @property
    def unit(self) -> str:
        """The name of the reward that judges predict, where it is a column; else *the reward*."""
        keys = {run["stage"]: run.get("key", {}) for run in self.manifests}
        key = keys.get("judge_report") or keys.get("reward") or {}
        reward = str(key.get("data.reward") or "")
        return reward if reward.isidentifier() and not key.get("data.relative_to") else "the reward"

    def table(self, split: str = "test") -> ComparisonTable:
        """The figures of a split."""
        judged = better_than_chance(self.trust.get("judge_report", {}))
        return ComparisonTable(self.comparison, self.roles, split, judged)
