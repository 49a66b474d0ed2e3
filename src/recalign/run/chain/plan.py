"""Plan a chain: the command of each of its stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from recalign.artifacts import class_paths
from recalign.data.events.log import SIMULATED
from recalign.errors import InputError, nearest
from recalign.evaluation.methods import BASE_STAGES
from recalign.evaluation.roles import START
from recalign.evaluation.rows import UNTRAINED, row_of
from recalign.reward import RewardData
from recalign.run import configs
from recalign.run.chain.experiment import Chain
from recalign.run.chain.space import Settings
from recalign.run.stage import RunFolder, Stage, parse_stage
from recalign.run.stage.classes import imported
from recalign.run.stage.folder import RunConfig
from recalign.run.stage.settings import set_keys
from recalign.run.stage.tokens import ParsedTokens, parse_tokens
from recalign.run.stage.upstream import TOKENS
from recalign.run.words import settings_of, to_argv

OWN = ("run.name", "run.root", "run.chain", "seed_everything", "ckpt_path", "config", "data.users")
"""Options of a stage that are the chain's to set."""

EVERY_STAGE = ("trainer", "data")
"""Settings of a chain that go to every stage."""

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
        self.log = self._log(file)
        chain.check()
        if chain.world and self.log.stem != SIMULATED:
            raise InputError("only a simulated log has a world", where="world", remedy="say log: simulated")
        if base is None:  # else an earlier chain has checked them, perhaps with YAML that is not here
            self._require_rows()
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

    def _require_rows(self) -> None:
        """Refuse roles of rows that cannot be; those that this chain leaves out are named in its report."""
        chain = self.chain
        placebos = [*chain.placebos, *chain.placebos.values()]
        for where, rows in (
            ("highlight", [chain.highlight or START]),
            ("placebos", placebos),
            ("baselines", chain.baselines),
        ):
            for row in rows:
                if row not in UNTRAINED:
                    self._yaml(row_of(row).base or row, where)

    def _log(self, file: Path) -> Path:
        named = self.chain.log
        for path in (self.found(f"data/{named}.yaml"), Path(named), file.parent / named):
            if path and path.is_file():
                return path
        return configs.find(named, "data")

    @property
    def folder(self) -> Path:
        """The chain's run folder."""
        return Path(self.chain.root) / self.name

    def data_root(self, seed: int) -> Path:
        """Where the world of a seed lies."""
        return self.folder / "worlds" / str(seed)

    def parsed(self, stage: str, seed: int, settings: Settings | None = None) -> Stage:
        """The command of one stage or method, with the checkpoints that exist now; chosen settings override others."""
        return self._parse(stage, seed, self._settings(stage) | (settings or {})).with_upstreams()

    def _parse(self, stage: str | None, seed: int, given: Settings) -> Stage:
        """Once for every command: it takes a fifth of a second. None: the stage whose data methods are evaluated on."""
        name = stage or "reward"
        file, own = self.base(self, stage, seed) if self.base else (self._yaml(name), {})
        files = [file, self.log]
        recipe = self.found(f"{self.chain.recommender}/{self.log.name}")  # what it needs on this log
        if stage == "recommender" and recipe and not self.base:
            files.append(recipe)
        own = own | {"seed_everything": seed, "run.name": name, "run.root": self.chain.root, "run.chain": self.name}
        if stage == "judge_select":
            own["data.users"] = "B1"
        if stage in self.chain.post_trained and not self.base:
            own["model.keep"] = self.chain.keep
        if self.chain.world:
            own["data.root"] = str(self.data_root(seed))
        words = ("fit", *to_argv(files, own | given))
        if words not in self._once:
            self._once[words] = parse_stage(words)
        return self._once[words]

    def tokens(self, seed: int) -> ParsedTokens:
        """The command that makes the semantic ids of a seed."""
        given = {key: value for key, value in self._settings(TOKENS).items() if not key.startswith("trainer.")}
        for key in ("seed", "out", *(["data.root"] if self.chain.world else [])):
            if key in given:
                where = f"--stages.{TOKENS}.{key}={given[key]}"
                raise InputError("the chain sets this itself", where=where, remedy="leave it out")
        folder = RunFolder.of(RunConfig(TOKENS, self.chain.root, self.name), self.name, seed)
        own: Settings = {"seed": seed, "out": str(folder.path)}
        if self.chain.world:
            own["data.root"] = str(self.data_root(seed))
        return parse_tokens(to_argv((self._yaml(TOKENS), self.log), given | own))

    def data(self, seed: int) -> RewardData:
        """What all methods of a seed are evaluated on: users A of the log, as the chain gives it to every stage.

        Settings of single stages do not apply: a reward model that sees shorter histories must not shorten those that
        policies are tested on.
        """
        return self._every_stage(seed).datamodule()  # type: ignore[return-value]

    def device(self) -> torch.device:
        """Where methods are evaluated: on the machine that the chain names for every stage."""
        return self._every_stage(self.chain.seeds[0]).bare_trainer().strategy.root_device

    def _every_stage(self, seed: int) -> Stage:
        """A stage with nothing that the chain sets for it alone."""
        return self._parse(None, seed, self._settings(None))

    def given(self, stage: str | None, key: str = "") -> dict[str, Any]:
        """What the chain's YAML and the command line set for a stage (None: for all) at a key or below it.

        A class that is set in one sets each of its arguments.
        """
        every = set_keys(self._settings(stage))
        return {name: value for name, value in every.items() if f"{name}.".startswith(key and f"{key}.")}

    def _settings(self, stage: str | None) -> Settings:
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

    def _yaml(self, stage: str, where: str = "methods") -> Path:
        name = "judge" if stage.startswith("judge_") else stage
        name = self.chain.recommender if stage == "recommender" else name
        if path := self.found(f"{name}.yaml", f"posttrain/{name}.yaml"):
            return path
        trained = {
            path.stem for one in self.folders for part in ("", "posttrain") for path in (one / part).glob("*.yaml")
        }
        of_stages = {*BASE_STAGES, TOKENS, "judge", "search"}
        recommenders = {one for one in trained if one.startswith("recommender")}
        if stage == "recommender":  # whose name the caller adds
            raise InputError(f"there is no {name!r}", remedy=f"there are: {', '.join(sorted(recommenders))}")
        known = sorted({*UNTRAINED, *trained} - of_stages - recommenders)
        meant = nearest(stage, known)
        remedy = f"did you mean {meant}?" if meant else f"there are: {', '.join(known)}, and those trained + _rerank"
        raise InputError(f"there is no method {stage!r}", where=where, remedy=remedy)

    def parse(self) -> dict[str, Stage]:
        """Every stage's command, parsed with the first seed, before anything runs.

        Raises:
            InputError: a key, value or file that does not exist.
        """
        parsed = {stage: self._checked(stage) for stage in self.stages}
        self._require_alike(parsed)
        if needs_tokens(parsed):
            self.tokens(self.chain.seeds[0])
        elif self.given(TOKENS).keys() - self.given(None).keys():
            remedy = "leave them out, or set recommender: recommender-onerec"
            raise InputError("this chain makes no semantic ids", where=f"stages.{TOKENS}", remedy=remedy)
        return parsed

    def _require_alike(self, parsed: Mapping[str, Stage]) -> None:
        """Refuse stages that read other inputs than the evaluation gives them."""
        here = self._every_stage(self.chain.seeds[0]).config["data"]["init_args"]
        times, longest = here["request_time"], here["max_length"]
        for stage, one in parsed.items():
            own, model = one.config["data"]["init_args"].get("request_time", times), one.config["model"]["init_args"]
            if own != times:
                what = f"this stage reads histories with {own!r}, and the chain measures with {times!r}"
                remedy = "set data.request_time for all stages"
                raise InputError(what, where=f"{stage}, data.request_time", remedy=remedy)
            room = (model.get("encoder") or {}).get("init_args", {}).get("max_length", longest)
            if stage.startswith("judge_") and room < longest:
                what = f"the encoder takes {room} events, and has to judge histories of {longest}"
                remedy = f"give {longest}; its data.max_length may be shorter"
                raise InputError(what, where=f"{stage}, model.encoder.max_length", remedy=remedy)

    def _checked(self, stage: str) -> Stage:
        try:
            for key in (*OWN, "data.root") if self.chain.world else OWN:
                for own, value in self.given(stage, key).items():
                    raise InputError("the chain sets this itself", where=f"--{own}={value}", remedy="leave it out")
            parsed = self.parsed(stage, self.chain.seeds[0])
            _require_training(parsed.config["trainer"])
            return parsed
        except InputError as error:
            where = f"{stage}, {error.where}" if error.where else stage
            raise InputError(error.what, where=where, remedy=error.remedy) from error


def needs_tokens(parsed: Mapping[str, Stage]) -> bool:
    """Whether the recommender writes semantic ids that the chain has to make."""
    return any(one.stage == TOKENS and not one.named for one in parsed["recommender"].upstream)


def _require_training(trainer: dict[str, Any]) -> None:
    """Refuse stages that are not trained or not validated: the next ones would have nothing to start from."""
    for key in ("max_epochs", "max_steps", "limit_train_batches", "limit_val_batches"):
        if trainer.get(key) == 0:
            what = f"{trainer[key]}, and a chain trains and validates every stage"
            raise InputError(what, where=f"trainer.{key}", remedy="give more, or null")
    if trainer.get("fast_dev_run"):
        raise InputError("a chain cannot do with a dry run", where="trainer.fast_dev_run", remedy="use max_epochs: 1")


def _folders(file: Path) -> list[Path]:
    """Where the stages' YAML files are looked for: above the chain's own, in the current conf/, among those shipped."""
    here, shipped = file.parent, configs.shipped()
    if here.name in ("", "..") and here.resolve().name == "chain":  # called from inside conf/chain
        here = here.resolve()
    above = here.parent
    return [*([] if above.resolve() == shipped.resolve() else [above]), Path("conf"), shipped]
