"""What a chain's folder holds that its page shows."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

import recalign
from recalign.evaluation import comparison, examples
from recalign.evaluation.comparison_table import ComparisonTable
from recalign.evaluation.methods import BASE_STAGES
from recalign.evaluation.roles import Roles
from recalign.evaluation.selection import SEARCH
from recalign.files import digest, sha256

TRUST = ("reward", "judge_select", "judge_report")
"""Stages that write a ``trust.json``."""


@dataclass(frozen=True)
class Sources:
    """All that a page is made of: it reads nothing else.

    Attributes:
        name: of the chain.
        comparison: `comparison.csv`.
        roles: of its methods.
        search: `search.csv`; None where nothing was searched.
        size: users and events of the test, and how many of the events had a high reward.
        check: what `recalign check` said of the log.
        trust: ``trust.json`` by stage and seed.
        examples: of the first seed, ``examples.json`` of ``start`` and of our method; empty where one is missing.
        manifests: those of the comparison's stages, methods and seeds, in the order in which they ran.
        left: those of other stages and methods, which an earlier chain left in the folder.
    """

    name: str
    comparison: pl.DataFrame
    roles: Roles
    search: pl.DataFrame | None
    size: dict[str, int]
    check: dict[str, Any]
    trust: dict[str, dict[str, dict[str, Any]]]
    examples: list[list[dict[str, Any]]]
    manifests: list[dict[str, Any]]
    left: list[dict[str, Any]]

    @classmethod
    def of(cls, chain_folder: Path, searched: bool) -> Sources:
        """Read a folder.

        Args:
            chain_folder: `runs/<chain>`.
            searched: whether its `search.csv`, if there is one, is this comparison's, and not an earlier one's.

        Raises:
            InputError: the chain has no `comparison.csv`.
        """
        frame, (roles, _) = comparison.read(chain_folder), Roles.load(chain_folder)
        table, search = ComparisonTable(frame, roles), chain_folder / SEARCH
        first = frame.filter(pl.col("seed") != "all").row(0, named=True)
        shown = [_read(_evaluation(chain_folder, m, table.seeds[0]) / examples.FILE) for m in ("start", roles.ours)]
        manifests = [_read(path) for seed in table.seeds for path in chain_folder.glob(f"*/seed-{seed}/manifest.json")]
        manifests.sort(key=lambda manifest: (str(manifest.get("started")), str(manifest.get("stage"))))
        stages = {*BASE_STAGES, *table.methods}
        return cls(
            name=chain_folder.resolve().name,
            comparison=frame,
            roles=roles,
            search=pl.read_csv(search) if searched and search.is_file() else None,
            size=_size(_evaluation(chain_folder, first["method"], first["seed"])),
            check=_read(chain_folder / "check.json"),
            trust={
                stage: {
                    seed: said
                    for seed in table.seeds
                    if (said := _read(chain_folder / stage / f"seed-{seed}" / "trust.json"))
                }
                for stage in TRUST
            },
            examples=shown if all(shown) else [],
            manifests=[one for one in manifests if one["stage"] in stages],
            left=[one for one in manifests if one["stage"] not in stages],
        )

    def digest(self) -> str:
        """Of all this, and of what makes a page of it: recalign's code, Jinja and Matplotlib."""
        tables = [frame.write_csv() for frame in (self.comparison, self.search) if frame is not None]
        plain = [self.name, asdict(self.roles), self.size, self.check, self.trust, self.examples, self.manifests]
        package = Path(recalign.__file__).parent
        code = [sha256(file) for file in sorted((*package.rglob("*.py"), *package.rglob("*.j2")))]
        return digest(tables, plain, self.left, version("jinja2"), version("matplotlib"), code)


def _evaluation(chain_folder: Path, method: str | None, seed: str) -> Path:
    return chain_folder / str(method) / f"seed-{seed}" / "evaluation"


def _size(evaluation: Path) -> dict[str, int]:
    events = pl.read_parquet(evaluation / "test.parquet", columns=["user", "high"])
    return {"users": events["user"].n_unique(), "events": len(events), "high": int(events["high"].sum())}


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
