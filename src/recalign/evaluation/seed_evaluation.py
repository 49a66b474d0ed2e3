"""The evaluation of a seed's methods: a folder per method, cached until anything that it depends on changes."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from recalign import artifacts, seals
from recalign.data.events import data_root
from recalign.data.events.items import titles_digest
from recalign.evaluation import examples, networks, random_exposure
from recalign.evaluation.methods import BaseCheckpoints, Measure, MethodRun, evaluate_methods
from recalign.evaluation.networks import LoadedNetworks, true_rewards_path
from recalign.evaluation.reranking import RerankedRow
from recalign.files import digest, sha256, write_json, write_parquet
from recalign.reward import RewardData

MEASURES: tuple[Measure, ...] = (networks.of_methods, random_exposure.of_methods, examples.of_methods)


def digests_of(base: BaseCheckpoints) -> dict[str, str]:
    """SHA-256 of each of a seed's checkpoints."""
    return {name: sha256(path) for name, path in vars(base).items()}


def key_of(run: MethodRun, base: Mapping[str, str], data: RewardData, code: str) -> dict[str, Any]:
    """All that the figures of a method depend on."""
    truth = true_rewards_path(data)  # not part of the log's digest
    return {
        "method": run.method,
        "checkpoint": run.checkpoint and sha256(run.checkpoint),
        **base,
        "data": [data.fingerprint, data.max_length, data.know_request, data.sample],
        "truth": sha256(truth) if truth and truth.is_file() else None,
        "reranking": [run.row.strength, run.row.keep] if isinstance(run.row, RerankedRow) else None,
        "code": code,
    }


@dataclass(frozen=True)
class SeedEvaluation:
    """Evaluations of one seed's methods (`recalign.artifacts.Artifact`), each cached until what it depends on changes.

    Publishes ``<folder>/<method>/seed-<n>/evaluation/``: ``{test,validation}.parquet``, ``summary.json``,
    ``examples.json``; of a log with random exposure also ``offpolicy.json`` (`random_exposure`).

    Attributes:
        folder: of the chain.
        runs: the methods.
        base: the checkpoints that they share.
        data: the log, users A.
        code: digest of the code that evaluates, which goes into every key.
    """

    folder: Path
    seed: int
    runs: Sequence[MethodRun]
    base: BaseCheckpoints
    data: RewardData
    device: torch.device
    code: str

    @property
    def name(self) -> str:
        return f"the evaluation of seed {self.seed}"

    @functools.cached_property
    def _digests(self) -> dict[str, str]:
        return digests_of(self.base)

    @functools.cached_property
    def _keys(self) -> dict[str, dict[str, Any]]:
        titles = {"titles": titles_digest(self.data.log_, data_root(self.data.root))}
        return {run.method: key_of(run, self._digests, self.data, self.code) | titles for run in self.runs}

    @functools.cached_property
    def _states(self) -> dict[str, artifacts.State]:
        return {run.method: seals.check(self._place(run.method), self._keys[run.method]) for run in self.runs}

    def _place(self, method: str) -> Path:
        return self.folder / method / f"seed-{self.seed}" / "evaluation"

    def state(self) -> artifacts.State:
        """Whether all methods have been evaluated, and which files were altered or keys have changed since."""
        found = self._states
        altered = [f"{method}/{name}" for method, state in found.items() for name in state.altered]
        changed = dict.fromkeys(name for state in found.values() for name in state.changed)
        return artifacts.State(all(state.sealed for state in found.values()), altered, list(changed))

    def load(self) -> list[str]:
        """Return an empty list: everything was up to date, so no method was evaluated."""
        return []

    def make(self) -> list[str]:
        """Evaluate the methods whose evaluation is missing or out of date. Returns their names."""
        stale = [run for run in self.runs if not self._states[run.method].fresh]
        if not stale:
            return []
        nets = LoadedNetworks(self.base, self.data, self.device)
        base = digest(self.data.fingerprint, self._digests)[:16]
        for run, found in zip(stale, evaluate_methods(stale, nets, MEASURES), strict=True):
            place, key = self._place(run.method), self._keys[run.method]
            paths = vars(self.base) | ({"checkpoint": run.checkpoint} if run.checkpoint else {})
            made_of = {seals.named(path, place, self.folder): key[name] for name, path in paths.items()}
            summary = {"base": base, "method": run.method, "seed": self.seed, **found.summary}
            with seals.publish(place, key, made_of) as part:
                for name, events in found.events.items():
                    write_parquet(events, part / f"{name}.parquet")
                for name, content in (found.files | {"summary.json": summary}).items():
                    write_json(part / name, content)
        return [run.method for run in stale]
