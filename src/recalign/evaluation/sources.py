"""What a chain's folder holds that its page shows."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

import recalign
from recalign.evaluation import comparison
from recalign.evaluation.comparison_table import ComparisonTable
from recalign.evaluation.methods import BASE_STAGES
from recalign.evaluation.selection import SEARCH

TRUST = ("reward", "judge_select", "judge_report")
"""Stages that write a ``trust.json``."""


@dataclass(frozen=True)
class Sources:
    """All that a page is made of: it reads nothing else.

    Attributes:
        name: of the chain.
        comparison: `comparison.csv`.
        search: `search.csv`; None where nothing was searched.
        size: users and events of the test, and how many of the events had a high reward.
        check: what `recalign check` said of the log.
        trust: ``trust.json`` by stage and seed.
        manifests: those of the comparison's stages, methods and seeds, in the order in which they ran.
        left: those of other stages and methods, which an earlier chain left in the folder.
    """

    name: str
    comparison: pl.DataFrame
    search: pl.DataFrame | None
    size: dict[str, int]
    check: dict[str, Any]
    trust: dict[str, dict[str, dict[str, Any]]]
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
        frame = comparison.read(chain_folder)
        cells, search = ComparisonTable(frame), chain_folder / SEARCH
        first = frame.filter(pl.col("seed") != "all").row(0, named=True)
        manifests = _manifests(chain_folder, cells.seeds)
        return cls(
            name=chain_folder.resolve().name,
            comparison=frame,
            search=pl.read_csv(search) if searched and search.is_file() else None,
            size=_size(chain_folder / str(first["method"]) / f"seed-{first['seed']}"),
            check=_read(chain_folder / "check.json"),
            trust={stage: _by_seed(chain_folder / stage, cells.seeds) for stage in TRUST},
            manifests=[one for one in manifests if one["stage"] in (*BASE_STAGES, *cells.methods)],
            left=[one for one in manifests if one["stage"] not in (*BASE_STAGES, *cells.methods)],
        )

    def digest(self) -> str:
        """Of all this, and of what makes a page of it: recalign's code, Jinja and Matplotlib."""
        tables = [frame.write_csv() for frame in (self.comparison, self.search) if frame is not None]
        plain = [self.name, self.size, self.check, self.trust, self.manifests, self.left]
        parts = [tables, plain, version("jinja2"), version("matplotlib")]
        digest = hashlib.sha256(json.dumps(parts).encode())
        package = Path(recalign.__file__).parent
        for file in sorted((*package.rglob("*.py"), *package.rglob("*.j2"))):
            digest.update(file.read_bytes())
        return digest.hexdigest()


def _size(run: Path) -> dict[str, int]:
    events = pl.read_parquet(run / "evaluation" / "test.parquet", columns=["user", "high"])
    return {"users": events["user"].n_unique(), "events": len(events), "high": int(events["high"].sum())}


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _by_seed(stage_folder: Path, seeds: list[str]) -> dict[str, dict[str, Any]]:
    found = {seed: _read(stage_folder / f"seed-{seed}" / "trust.json") for seed in seeds}
    return {seed: report for seed, report in found.items() if report}


def _manifests(chain_folder: Path, seeds: list[str]) -> list[dict[str, Any]]:
    found = [_read(path) for seed in seeds for path in chain_folder.glob(f"*/seed-{seed}/manifest.json")]
    return sorted(found, key=lambda manifest: (str(manifest.get("started")), str(manifest.get("stage"))))
