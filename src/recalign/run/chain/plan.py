"""Plan a chain: the command of each of its stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from recalign.code import class_paths
from recalign.data.events.log import SIMULATED
from recalign.errors import InputError, nearest
from recalign.evaluation.methods import BASE_STAGES
from recalign.evaluation.roles import START
from recalign.evaluation.rows import UNTRAINED, row_of
from recalign.reward import RewardData
from recalign.run import configs
from recalign.run.chain.experiment import Chain
from recalign.run.stage import Stage, parse_stage
from recalign.run.stage.settings import set_keys
from recalign.run.stage.upstream import TOKENS
from recalign.run.words import imported, settings_of, to_argv

EVERY_STAGE = ("trainer", "data")
"""Settings of a chain that go to every stage."""

Settings = dict[str, Any]
"""Values by key, as they are typed: ``{"model.temperature": 0.5}``."""

Overrides = dict[str | None, dict[str, Any]]
"""Settings of the command line by stage, by dotted key (``model.lr``); None: for every stage."""

Base = Callable[["Plan", str | None, int], tuple[Path, Settings]]
"""The YAML that a stage of a plan begins with a seed, and what is set above it; None: for the evaluation."""


class Plan:
    """The stages of a chain and their commands.

    Args:
        chain: the experiment.
        file: its YAML; the stages' are looked for above it, then in conf/, then among those shipped.
        overrides: what the command line adds.
        base: what stages begin with; None: their own YAML.
        record: what else the chain's folder says of it.

    Raises:
        InputError: a method, stage or log that does not exist, or one that is named twice.
    """

    def __init__(
        self,
        chain: Chain,
        file: Path,
        overrides: Overrides,
        base: Base | None = None,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        self.chain, self.overrides, self.base = chain, overrides, base
        self.recorded = {"chain": asdict(chain), "overrides": list(overrides.items()), **(record or {})}
        self._once: dict[tuple[str, ...], Stage] = {}
        self.name = chain.name or file.stem
        self.folders = _folders(file)
        logs = (self.found(f"data/{chain.log}.yaml"), Path(chain.log), file.parent / chain.log)
        self.log = next((path for path in logs if path and path.is_file()), None) or configs.find(chain.log, "data")
        chain.check()
        if chain.world and self.log.stem != SIMULATED:
            raise InputError("only a simulated log has a world", where="world", remedy="say log: simulated")
        roles = {"placebos": [*chain.placebos, *chain.placebos.values()], "baselines": chain.baselines}
        roles["highlight"] = [chain.highlight or START]
        for where, rows in roles.items() if base is None else ():  # an earlier chain has checked its own
            for row in sorted({*rows} - {*UNTRAINED, START}):
                self.yaml(row_of(row).base or row, where)
        self.stages = [*BASE_STAGES, *chain.trained]
        named = [*chain.stages, *(stage for stage in overrides if stage is not None)]
        if unknown := [stage for stage in named if stage not in (TOKENS, *self.stages)]:
            raise InputError(
                f"this chain trains no {unknown[0]!r}", where="stages", remedy=f"it trains: {', '.join(self.stages)}"
            )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In another process: import the classes that the stages name, as parsing them did in the first one."""
        vars(self).update(state)
        for path in {path for one in self._once.values() for path in class_paths(one.config)}:
            with suppress(ImportError, AttributeError):  # of a notebook: `build` says so where it is needed
                imported(path)

    @property
    def folder(self) -> Path:
        """The chain's run folder."""
        return Path(self.chain.root) / self.name

    def parsed(self, stage: str, seed: int, settings: Settings | None = None) -> Stage:
        """The command of one stage or method, with the checkpoints that exist now; chosen settings override others."""
        return self._parse(stage, seed, self.settings(stage) | (settings or {})).with_upstreams()

    def _parse(self, stage: str | None, seed: int, given: Settings) -> Stage:
        """Once for every command: it takes a fifth of a second. None: the stage whose data methods are evaluated on."""
        name = stage or "reward"
        file, own = self.base(self, stage, seed) if self.base else (self.yaml(name), {})
        files = [file, self.log]
        recipe = self.found(f"{self.chain.recommender}/{self.log.name}")  # what it needs on this log
        if stage == "recommender" and recipe and not self.base:
            files.append(recipe)
        own = own | {"seed_everything": seed, "run.name": name, "run.root": self.chain.root, "run.chain": self.name}
        if stage == "judge_select":
            own["data.users"] = "B1"
        if stage in self.chain.post_trained and not self.base:
            own["model.keep"] = self.chain.keep
        own |= self.world_root(seed)
        words = ("fit", *to_argv(files, own | given))
        if words not in self._once:
            self._once[words] = parse_stage(words)
        return self._once[words]

    def world_root(self, seed: int) -> Settings:
        """Where the world of a seed lies."""
        return {"data.root": str(self.folder / "worlds" / str(seed))} if self.chain.world else {}

    def data(self, seed: int) -> RewardData:
        """What all methods of a seed are evaluated on: users A of the log, as the chain gives it to every stage.

        Settings of single stages do not apply: a reward model that sees shorter histories must not shorten those that
        policies are tested on.
        """
        return self.evaluation(seed).datamodule()  # type: ignore[return-value]

    def evaluation(self, seed: int) -> Stage:
        """The stage with whose data, and on whose machine, the methods of a seed are evaluated."""
        return self._parse(None, seed, self.settings(None))

    def device(self) -> torch.device:
        """Where methods are evaluated: on the machine that the chain names for every stage."""
        return self.evaluation(self.chain.seeds[0]).bare_trainer().strategy.root_device

    def given(self, stage: str | None, key: str = "") -> dict[str, Any]:
        """What the chain's YAML and the command line set for a stage (None: for all) at a key or below it."""
        every = set_keys(self.settings(stage))
        return {name: value for name, value in every.items() if f"{name}.".startswith(key and f"{key}.")}

    def settings(self, stage: str | None) -> Settings:
        """Settings of a stage, or of all, from the chain's YAML and then the command line.

        A placebo copies a method but for one thing, so what is set for that method is set for its placebos too.
        """
        chain = self.chain
        stages = [chain.placebos[stage], stage] if stage in chain.placebos else [stage]
        given = dict(settings_of({key: value for key, value in vars(chain).items() if key in EVERY_STAGE and value}))
        scopes = [dict(settings_of(chain.stages.get(one or "", {}))) for one in stages]
        for own in [*scopes, *(self.overrides.get(one, {}) for one in dict.fromkeys((None, *stages)))]:
            if twice := [key for key in own if key.endswith("+") and key in given]:
                what = "is added to in two places that this stage follows, and one of the two would be lost"
                remedy = "give each stage its whole list, and leave it out for all stages"
                raise InputError(what, where=f"{stage or 'all stages'}, {twice[0]}", remedy=remedy)
            given |= own
        return given

    def found(self, *names: str) -> Path | None:
        """The first of some files that exists, in one's own folders before those that are shipped."""
        paths = (folder / name for folder in self.folders for name in names)
        return next((path for path in paths if path.is_file()), None)

    def yaml(self, stage: str, where: str = "methods") -> Path:
        name = "judge" if stage.startswith("judge_") else stage
        name = self.chain.recommender if stage == "recommender" else name
        if path := self.found(f"{name}.yaml", f"posttrain/{name}.yaml"):
            return path
        if stage == "recommender":  # whose name the caller adds
            raise InputError(f"there is no {name!r}", remedy="there are: recommender, recommender-onerec")
        trained = [path.stem for folder in self.folders for path in (folder / "posttrain").glob("*.yaml")]
        meant = nearest(stage, known := sorted({*UNTRAINED, "asft", *trained}))
        remedy = f"did you mean {meant}?" if meant else f"there are: {', '.join(known)}, and those trained + _rerank"
        raise InputError(f"there is no method {stage!r}", where=where, remedy=remedy)

    def parse(self) -> dict[str, Stage]:
        """Every stage's command, parsed with the first seed, before anything runs."""
        parsed: dict[str, Stage] = {}
        for stage in self.stages:
            try:
                parsed[stage] = self.parsed(stage, self.chain.seeds[0])
            except InputError as error:
                where = f"{stage}, {error.where}" if error.where else stage
                raise InputError(error.what, where=where, remedy=error.remedy) from error
        return parsed


def _folders(file: Path) -> list[Path]:
    """Where the stages' YAML files are looked for: above the chain's own, in the current conf/, among those shipped."""
    here, shipped = file.parent, configs.shipped()
    if here.name in ("", "..") and here.resolve().name == "chain":  # called from inside conf/chain
        here = here.resolve()
    return [*([] if here.parent.resolve() == shipped.resolve() else [here.parent]), Path("conf"), shipped]
