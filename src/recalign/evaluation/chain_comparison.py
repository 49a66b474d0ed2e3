"""A chain's `comparison.csv`, cached until one of its evaluations changes."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from recalign import artifacts, seals
from recalign.data.events.log import WORLDS
from recalign.errors import InputError
from recalign.evaluation.comparison import SCHEMA, tabulate
from recalign.evaluation.evaluated_runs import EvaluatedRun
from recalign.evaluation.methods import EVALUATION_SPLITS, JUDGED, UNIT
from recalign.evaluation.roles import Roles
from recalign.files import read_json, sha256, write_json, write_text
from recalign.seals import code_digest

FILE, ROLES = "comparison.csv", "roles.json"
RECORD = "chain.json"
"""File in a chain's folder with its settings."""
SEED = re.compile(r"seed-(\d+)")
"""A method's folder for one seed. Other names are copies, or backups of a repeated stage (seed-<n>.previous)."""


@dataclass(frozen=True)
class RunsComparison:
    """The comparison of a chain's evaluations, `comparison.csv` (`recalign.artifacts.Artifact`).

    Evaluations whose checkpoints are gone or have changed are left out, with a line on stderr.

    Attributes:
        folder: `runs/<chain>`.
        draws: bootstrap draws.
        methods, seeds: what to compare, methods in the order of the rows; None: all, also those of an earlier chain.
        roles: of the methods, written to `roles.json`; None: read from it, with the order of the rows.
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
        """Whether the table exists and is up to date with the evaluations and checkpoints in the folder."""
        return seals.check(self.folder, self._key(*self._roles()))

    def load(self) -> pl.DataFrame:
        """Read the existing table, and write its roles again in case they were altered."""
        if self.roles is not None:
            save_roles(self.folder, self.roles, self.methods or ())
        return read(self.folder)

    def make(self) -> pl.DataFrame:
        """Compare the evaluations, and write the table.

        Raises:
            InputError: the folder is missing or has no fresh evaluation, an evaluation was altered, or methods were
                measured on different events.
        """
        runs = load_runs(self.folder, self.methods, self.seeds)
        roles, order = self._roles()
        if order and (left := sorted({run.method for run in runs}.difference(order))):
            what = "rows of an earlier chain in this folder, which had its own settings"
            print(f"also compared, {what}: {', '.join(left)}", file=sys.stderr)
        frame = tabulate(runs, roles, self.draws)
        names = dict.fromkeys([*order, *sorted(frame["method"].unique())])
        frame = frame.sort(pl.col("method").cast(pl.Enum([*names])), maintain_order=True)
        if self.roles is not None:
            save_roles(self.folder, roles, order)
        write_text(self.folder / FILE, frame.write_csv())
        made_of = {name: sha256(self.folder / name) for name in self._seals([(run.method, run.seed) for run in runs])}
        seals.seal(self.folder, self._key(roles, order), made_of, FILE)
        return frame

    def _roles(self) -> tuple[Roles, list[str]]:
        """The roles and the order of the rows."""
        if self.roles is not None:
            return self.roles, list(self.methods or ())
        roles, stored = load_roles(self.folder)
        return roles, list(self.methods or stored)

    def _key(self, roles: Roles, order: Sequence[str]) -> dict[str, Any]:
        """All that determines the table, except the contents of the evaluations."""
        there = evaluated(self.folder, self.methods, self.seeds)
        found = [(method, seed) for method, seed, folder in there if not seals.outdated(folder)]
        rows = {"order": list(order), "roles": asdict(roles), "evaluations": self._seals(found)}
        return rows | {"draws": self.draws, "code": code_digest()}

    def _seals(self, rows: Iterable[tuple[str, int]]) -> list[str]:
        """Paths, in the folder, of these evaluations' seals, where they exist."""
        names = [f"{method}/seed-{seed}/evaluation/{seals.SEAL}" for method, seed in rows]
        return [name for name in names if (self.folder / name).is_file()]


def evaluated(
    chain_folder: Path, methods: Collection[str] | None, seeds: Collection[int] | None
) -> list[tuple[str, int, Path]]:
    """Method, seed and folder of the finished evaluations, sorted: they have `summary.json` and `test.parquet`."""
    found = []
    for path in chain_folder.glob("*/seed-*/evaluation/summary.json"):
        method, name, _, _ = path.parts[-4:]
        if (is_seed := SEED.fullmatch(name)) and path.with_name("test.parquet").is_file():
            found.append((method, int(is_seed[1]), path.parent))
    return sorted(run for run in found if (methods is None or run[0] in methods) and (seeds is None or run[1] in seeds))


def load_runs(chain_folder: Path, methods: Collection[str] | None, seeds: Collection[int] | None) -> list[EvaluatedRun]:
    """Read the evaluations that `evaluated` finds, except outdated ones, and check and align them."""
    _require_folder(chain_folder)
    runs, why = [], ""
    for method, seed, folder in evaluated(chain_folder, methods, seeds):
        if gone := seals.outdated(folder):
            why = " with its current checkpoints"
            print(f"left out: {folder}, whose checkpoints changed or are missing: {', '.join(gone)}", file=sys.stderr)
            continue
        if (folder / seals.SEAL).is_file():
            seals.require(folder, "run `recalign chain` again: it evaluates that method anew")
        runs.append(EvaluatedRun.read(method, seed, folder))
    if not runs:
        remedy = "let `recalign chain` finish at least one method"
        raise InputError(f"no method in this folder has been evaluated{why}", where=str(chain_folder), remedy=remedy)
    require_comparable(runs)
    for split in EVALUATION_SPLITS:
        align(runs, split)
    return runs


def _require_folder(chain_folder: Path) -> None:
    if not chain_folder.is_dir():
        remedy = "name the folder that `recalign chain` wrote, such as runs/ml-100k"
        raise InputError("there is no such folder", where=str(chain_folder), remedy=remedy)


def require_comparable(runs: Sequence[EvaluatedRun]) -> None:
    """Refuse runs of one seed with different data or base checkpoints, or of one log with different events or rewards.

    Each seed of a simulated log is its own log. Other logs are one for all seeds: else users count once for each seed.
    """
    first: dict[tuple[str, int | None], tuple[object, EvaluatedRun]] = {}
    for run in runs:
        log = run.seed if run.summary.get("log") in WORLDS else None
        reward = f"{run.summary.get(UNIT) or 0:.6g}", run.summary.get(JUDGED)  # machines differ in the last bit
        base = "rests on other data, or on other checkpoints of the stages before it,"
        facts: list[tuple[str, int | None, object]] = [(base, run.seed, run.summary.get("base"))]
        facts.append(("was measured by another reward", log, reward))
        for split, frame in run.splits.items():
            events = frame.select("user", "event").to_numpy().tobytes()
            facts.append((f"was measured on other {split} events", log, events))
        for what, of, fact in facts:
            known, other = first.setdefault((what, of), (fact, run))
            if fact != known:
                where = f"{run.method}, seed {run.seed}"
                remedy = "run the chain again with every method and seed, or in another folder"
                raise InputError(f"it {what} than {other.method}, seed {other.seed}", where=where, remedy=remedy)


def align(runs: Sequence[EvaluatedRun], split: str) -> None:
    """Give all runs the same rows. If each seed has a simulated log of its own, rows of other seeds are null."""
    ordered = sorted((run for run in runs if split in run.splits), key=lambda run: run.seed)
    worlds = {run.seed: run.splits[split].select("user", "event") for run in ordered}
    if not worlds or all(world.equals(worlds[ordered[0].seed]) for world in worlds.values()):
        return
    size = max(int(world["user"].max()) for world in worlds.values()) + 1  # type: ignore[arg-type]
    apart = {seed: (pl.col("user").cast(pl.Int64) + place * size).alias("user") for place, seed in enumerate(worlds)}
    rows = pl.concat([world.with_columns(apart[seed]) for seed, world in worlds.items()])
    for run in ordered:
        own = run.splits[split].with_columns(apart[run.seed])
        run.splits[split] = rows.join(own, on=["user", "event"], how="left", maintain_order="left")


def read(chain_folder: Path) -> pl.DataFrame:
    """Read the `comparison.csv` of a chain.

    Raises:
        InputError: it is missing, or evaluations or checkpoints that it was made from have changed. Later evaluations
            are not in it.
    """
    _require_folder(chain_folder)
    path, remedy = chain_folder / FILE, f"run `recalign compare {chain_folder}` first"
    if not path.is_file():
        raise InputError("there is no such file", where=str(path), remedy=remedy)
    state = seals.check(chain_folder)
    if state.sealed and not state.fresh:
        remedy = f"run `recalign chain` again, or `recalign compare {chain_folder}` for what is there now"
        raise InputError(f"it is out of date, or was edited ({state})", where=str(path), remedy=remedy)
    return pl.read_csv(path, schema=SCHEMA, glob=False)


def save_roles(chain_folder: Path, roles: Roles, methods: Iterable[str]) -> None:
    """Write `roles.json`, with the order of the rows."""
    write_json(chain_folder / ROLES, {**asdict(roles), "methods": list(methods)})


def load_roles(chain_folder: Path) -> tuple[Roles, list[str]]:
    """Read a chain's roles and order of rows from `roles.json`; without that file, the defaults and no order.

    Raises:
        InputError: the file has an unknown role.
    """
    path = chain_folder / ROLES
    content = read_json(path)
    given = content if isinstance(content, dict) else [type(content).__name__]
    if unknown := [name for name in given if name not in (*Roles.__dataclass_fields__, "methods")]:
        what = f"unknown role {', '.join(unknown)}" if content is given else f"needs a JSON object, not a {unknown[0]}"
        remedy = "run `recalign chain` again, which writes this file anew, or correct it"
        raise InputError(what, where=str(path), remedy=remedy)
    methods = content.pop("methods", [])
    return Roles(**content), methods
