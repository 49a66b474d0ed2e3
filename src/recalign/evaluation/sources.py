"""Read what a chain's page shows."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from recalign import artifacts
from recalign.evaluation import comparison, examples
from recalign.evaluation.comparison_table import ComparisonTable
from recalign.evaluation.decision import Decision, decide
from recalign.evaluation.evaluated_runs import SPLITS
from recalign.evaluation.methods import BASE_STAGES
from recalign.evaluation.roles import Roles
from recalign.evaluation.selection import SEARCH
from recalign.files import digest, read_json, sha256
from recalign.keys import leaves, short
from recalign.reward.trust.report import read_trust

TRUST = ("reward", "judge_select", "judge_report")
"""Stages that write a ``trust.json``."""


@dataclass(frozen=True)
class Sources:
    """All data of a page; it reads nothing else."""

    name: str
    comparison: pl.DataFrame
    roles: Roles  # what is followed, `highlight`, is the row that the decision is about
    decision: Decision | None  # None where only baselines were measured
    search: pl.DataFrame | None  # None where nothing was searched
    size: dict[str, int]  # users and events of the test, and how many of the events had a high reward
    check: dict[str, Any]  # what `recalign check` said of the log
    trust: dict[str, dict[str, dict[str, Any]]]  # trust.json by stage and seed
    tokens: dict[str, dict[str, Any]]  # tokens.json by seed, where the recommender writes semantic ids
    curves: dict[str, dict[str, pl.DataFrame]]  # metrics.csv by stage or method, and seed
    examples: list[list[dict[str, Any]]]  # of the first seed, of `start` and of `highlight`; empty where one is missing
    manifests: list[dict[str, Any]]  # of the comparison's stages, methods and seeds, in the order in which they ran
    left: list[dict[str, Any]]  # of other stages and methods, which an earlier chain left in the folder

    @classmethod
    def of(cls, chain_folder: Path, searched: bool = True) -> Sources:
        """Read a chain's folder.

        Args:
            chain_folder: `runs/<chain>`.
            searched: whether its chain searched; False: a `search.csv` is of an earlier one.

        Raises:
            InputError: the chain has no `comparison.csv`.
        """
        frame, (roles, _) = comparison.read(chain_folder), Roles.load(chain_folder)
        table, validation = (ComparisonTable(frame, roles, split) for split in SPLITS)

        def stored(method: object, seed: str, file: str) -> Path:
            return chain_folder / str(method) / f"seed-{seed}" / file

        first = frame.filter(pl.col("seed") != "all").row(0, named=True)
        test = stored(first["method"], first["seed"], "evaluation/test.parquet")
        if artifacts.check(test.parent).altered:
            artifacts.require(test.parent, "evaluate again: recalign chain, or recalign compare")
        events = pl.read_parquet(test, columns=["user", "high"], glob=False)
        trust = {
            stage: {seed: said for seed in table.seeds if (said := read_trust(stored(stage, seed, "")))}
            for stage in TRUST
        }
        check = read_json(chain_folder / "check.json")
        decision = decide(table, validation, trust, check)
        roles = replace(roles, highlight=(decision and decision.policy) or roles.highlight)
        seed, compared = table.seeds[0], set(frame.select("method", "seed").iter_rows())
        pair = [one for one in ("start", roles.highlight) if (one, seed) in compared]  # others are of an earlier chain
        shown = [read_json(stored(one, seed, f"evaluation/{examples.FILE}")) for one in pair]
        paths = [path for seed in table.seeds for path in chain_folder.glob(f"*/seed-{seed}/manifest.json")]
        manifests = sorted(map(read_json, paths), key=lambda one: (str(one.get("started")), str(one.get("stage"))))
        writes_ids = any("model.codes" in one.get("upstream", {}) for one in manifests if one["stage"] == "recommender")
        tokens = {seed: read_json(stored("tokens", seed, "tokens.json")) for seed in table.seeds if writes_ids}
        stages = {*BASE_STAGES, *table.methods, *(["tokens"] if writes_ids else [])}
        return cls(
            name=chain_folder.resolve().name,
            comparison=frame,
            roles=roles,
            decision=decision,
            search=_search(chain_folder, table.seeds) if searched else None,
            size={"users": events["user"].n_unique(), "events": len(events), "high": int(events["high"].sum())},
            check=check,
            trust=trust,
            tokens={seed: said for seed, said in tokens.items() if said},
            curves=_curves(chain_folder, [*BASE_STAGES[:2], *table.methods], table.seeds),
            examples=shown if len(shown) == 2 and all(shown) else [],
            manifests=[one for one in manifests if one["stage"] in stages],
            left=[one for one in manifests if one["stage"] not in stages],
        )

    def table(self, split: str = "test") -> ComparisonTable:
        """The figures of a split."""
        return ComparisonTable(self.comparison, self.roles, split)

    def digest(self) -> str:
        """Of all this, and of what makes a page of it: recalign's code, Jinja and Matplotlib."""
        curves = [frame for by_seed in self.curves.values() for frame in by_seed.values()]
        tables = [frame.write_csv() for frame in (self.comparison, self.search, *curves) if frame is not None]
        frames = ("comparison", "search", "curves", "roles", "decision")  # the decision follows from the others
        plain = {name: value for name, value in vars(self).items() if name not in frames}
        package = Path(__file__).parents[1]
        code = [sha256(file) for file in sorted((*package.rglob("*.py"), *package.rglob("*.j2")))]
        return digest(tables, plain, asdict(self.roles), version("jinja2"), version("matplotlib"), code)


def _search(chain_folder: Path, seeds: list[str]) -> pl.DataFrame | None:
    """The trials of a chain; None where its runs are of other settings than were chosen of them."""
    if not (path := chain_folder / SEARCH).is_file():
        return None
    search = pl.read_csv(path, glob=False)
    for row in search.filter("chosen").iter_rows(named=True):
        chosen = json.loads(row["settings"])
        for config in (chain_folder / row["method"] / f"seed-{seed}" / "config.yaml" for seed in seeds):
            if config.is_file():
                given = leaves(yaml.safe_load(config.read_text(encoding="utf-8")))
                used = {short(key): value for key, value in given.items()}
                if not all(_same(used.get(key), value) for key, value in chosen.items()):
                    return None
    return search


def _same(used: Any, chosen: Any) -> bool:
    """Whether two settings are equal; YAML takes 1e-5 for text, and a class may be named in several ways."""
    try:
        return float(used) == float(chosen)
    except (TypeError, ValueError):
        return used == chosen or isinstance(chosen, dict)


def _curves(chain_folder: Path, stages: list[str], seeds: list[str]) -> dict[str, dict[str, pl.DataFrame]]:
    """The logged figures of the stages that were trained; a file that cannot be read is left out."""
    found: dict[str, dict[str, pl.DataFrame]] = {}
    for stage in stages:
        for seed in seeds:
            path = chain_folder / stage / f"seed-{seed}" / "metrics.csv"
            with suppress(OSError, pl.exceptions.PolarsError):
                found.setdefault(stage, {})[seed] = pl.read_csv(path, infer_schema_length=None, glob=False)
    return found
