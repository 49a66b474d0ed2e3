"""A chain's `comparison.csv`, kept until one of its evaluations changes."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from recalign import artifacts
from recalign.code import code_digest
from recalign.errors import InputError
from recalign.evaluation.comparison import SCHEMA, tabulate
from recalign.evaluation.evaluated_runs import SPLITS, Run, align, require_comparable
from recalign.evaluation.roles import Roles
from recalign.files import read_json, sha256, write_json, write_text

FILE, ROLES = "comparison.csv", "roles.json"
RECORD = "chain.json"
"""What a chain leaves in its folder: its settings."""
SEED = re.compile(r"seed-(\d+)")
"""Folders of a method. Those of other names are copies, or what a stage that ran anew has left (seed-<n>.previous)."""


@dataclass(frozen=True)
class RunsComparison:
    """The comparison of a chain's evaluations, `comparison.csv` (`recalign.artifacts.Kept`).

    Evaluations of checkpoints that are gone, or are others by now, are left out, with a line that says so.

    Attributes:
        folder: `runs/<chain>`.
        draws: of the bootstrap.
        methods, seeds: those to compare, methods in the order of the rows; None: all, also what an earlier chain left.
        roles: of the methods, kept in `roles.json`; None: read from there, with the order of the rows.
    """

    folder: Path
    draws: int = 2000
    methods: Sequence[str] | None = None
    seeds: Collection[int] | None = None
    roles: Roles | None = None

    @property
    def name(self) -> str:
        return str(self.folder / FILE)

    def state(self) -> artifacts.State:
        """Whether it is there, of the evaluations that lie there, and whether they are of the checkpoints there."""
        return artifacts.check(self.folder, self._key(*self._roles()))

    def load(self) -> pl.DataFrame:
        """The table that is there; its roles are written again, for whoever altered them."""
        if self.roles is not None:
            save_roles(self.folder, self.roles, self.methods or ())
        return read(self.folder)

    def make(self) -> pl.DataFrame:
        """Compare the evaluations, and write the table.

        Raises:
            InputError: there is no such folder, no fresh evaluation in it, one was altered, or methods were measured on
                different events.
        """
        runs = load_runs(self.folder, self.methods, self.seeds)
        roles, order = self._roles()
        if order and (left := sorted({run.method for run in runs}.difference(order))):
            what = "rows that an earlier chain left here, with settings of its own"
            print(f"also compared, {what}: {', '.join(left)}", file=sys.stderr)
        frame = tabulate(runs, roles, self.draws)
        places = pl.Enum(list(dict.fromkeys([*order, *sorted(frame["method"].unique())])))
        frame = frame.sort(pl.col("method").cast(places), maintain_order=True)
        if self.roles is not None:
            save_roles(self.folder, roles, order)
        write_text(self.folder / FILE, frame.write_csv())
        made_of = {name: sha256(self.folder / name) for name in self._seals([(run.method, run.seed) for run in runs])}
        artifacts.seal(self.folder, self._key(roles, order), made_of, FILE)
        return frame

    def _roles(self) -> tuple[Roles, list[str]]:
        """The roles and the order of the rows."""
        if self.roles is not None:
            return self.roles, list(self.methods or ())
        roles, stored = load_roles(self.folder)
        return roles, list(self.methods or stored)

    def _key(self, roles: Roles, order: Sequence[str]) -> dict[str, Any]:
        """All that determines the table but the evaluations themselves."""
        there = evaluated(self.folder, self.methods, self.seeds)
        found = [(method, seed) for method, seed, folder in there if not artifacts.outdated(folder)]
        code = code_digest()
        rows = {"order": list(order), "roles": asdict(roles), "evaluations": self._seals(found)}
        return rows | {"draws": self.draws, "code": code}

    def _seals(self, rows: Iterable[tuple[str, int]]) -> list[str]:
        """The seals of the evaluations of some methods and seeds that have one, by path in the folder."""
        names = [f"{method}/seed-{seed}/evaluation/{artifacts.SEAL}" for method, seed in rows]
        return [name for name in names if (self.folder / name).is_file()]


def evaluated(
    chain_folder: Path, methods: Collection[str] | None, seeds: Collection[int] | None
) -> list[tuple[str, int, Path]]:
    """Method, seed and folder of the finished evaluations of a chain, sorted: those that have both `summary.json` and
    `test.parquet`.
    """
    found = []
    for path in chain_folder.glob("*/seed-*/evaluation/summary.json"):
        method, name, _, _ = path.parts[-4:]
        if (is_seed := SEED.fullmatch(name)) and path.with_name("test.parquet").is_file():
            found.append((method, int(is_seed[1]), path.parent))
    return sorted(run for run in found if (methods is None or run[0] in methods) and (seeds is None or run[1] in seeds))


def load_runs(chain_folder: Path, methods: Collection[str] | None, seeds: Collection[int] | None) -> list[Run]:
    """The evaluations of a chain that `evaluated` finds."""
    if not chain_folder.is_dir():
        raise InputError("there is no such folder", where=str(chain_folder), remedy="run `recalign chain` first")
    runs, why = [], ""
    for method, seed, folder in evaluated(chain_folder, methods, seeds):
        if gone := artifacts.outdated(folder):
            why = " with the checkpoints that it holds now"
            print(f"left out: {folder}, measured with checkpoints that are gone: {', '.join(gone)}", file=sys.stderr)
            continue
        if (folder / artifacts.SEAL).is_file():
            artifacts.require(folder, "run `recalign chain` again: it evaluates that method anew")
        runs.append(Run.read(method, seed, folder))
    if not runs:
        remedy = "let `recalign chain` finish at least one method"
        raise InputError(f"no method in it has been evaluated{why}", where=str(chain_folder), remedy=remedy)
    require_comparable(runs)
    for split in SPLITS:
        align(runs, split)
    return runs


def read(chain_folder: Path) -> pl.DataFrame:
    """Read the `comparison.csv` of a chain.

    Raises:
        InputError: there is none, or evaluations or checkpoints that it is made of are others by now. Evaluations that
            came later are not in it.
    """
    path = chain_folder / FILE
    if not path.is_file():
        remedy = f"run `recalign compare {chain_folder}` first"
        raise InputError("there is no such file", where=str(path), remedy=remedy)
    state = artifacts.check(chain_folder)
    if state.sealed and not state.fresh:
        remedy = f"run `recalign chain` again, or `recalign compare {chain_folder}` for what is left"
        raise InputError(f"it is not of what lies here ({state})", where=str(path), remedy=remedy)
    return pl.read_csv(path, schema=SCHEMA, glob=False)


def save_roles(chain_folder: Path, roles: Roles, methods: Iterable[str]) -> None:
    """Write `roles.json`, with the order of the rows."""
    write_json(chain_folder / ROLES, {**asdict(roles), "methods": list(methods)})


def load_roles(chain_folder: Path) -> tuple[Roles, list[str]]:
    """The roles and the order of the rows that a chain's folder holds; without a file, defaults and no order.

    Raises:
        InputError: the file holds something else.
    """
    path = chain_folder / ROLES
    content = read_json(path)
    given = content if isinstance(content, dict) else [type(content).__name__]
    if unknown := [name for name in given if name not in (*Roles.__dataclass_fields__, "methods")]:
        remedy = "run `recalign chain` again, which writes it anew, or take them out"
        raise InputError(f"there is no role {', '.join(unknown)}", where=str(path), remedy=remedy)
    methods = content.pop("methods", [])
    return Roles(**content), methods
