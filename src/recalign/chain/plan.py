"""What a chain runs: the command line of each of its stages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from recalign.chain.space import Settings
from recalign.errors import InputError, require_positive
from recalign.evaluation.methods import BASE_STAGES, UNTRAINED, base_method, is_trained
from recalign.evaluation.roles import Roles
from recalign.recommender.interpolation import KEEP, require_share
from recalign.reward import RewardData
from recalign.simulation import World
from recalign.stage import ParsedStage, RunFolder, parse_stage
from recalign.stage.console import quiet
from recalign.stage.folder import RunConfig
from recalign.stage.words import nearest

OWN = ("run", "seed_everything", "ckpt_path", "config", "data.users")
"""Options of a stage that are the chain's to set."""

Overrides = dict[str | None, list[str]]
"""Words of the command line (``--model.lr=0.1``) by stage; None: for every stage."""


@dataclass
class Chain:
    """An experiment: which log, which stages, which methods.

    Attributes:
        log: the log's YAML: its name in conf/data, or a path, from the current folder or from the chain's YAML.
        methods: rows of the table.
        name: names the run folder; null: as the chain's YAML.
        seeds: each a whole chain: cloning, reward model, judges, post-training.
        ours: the method that the report follows; null: none.
        placebos: methods that must gain nothing, each with the method that it copies but for one thing.
        rerank: strength of `rerank` and `rerank_item_mean`, 1 / lambda in 1 / standard deviation of the reward.
        keep: share of the start's ``all/ndcg@10`` on validation that every method keeps: a post-trained policy goes
            back towards the start until it does (its ``model.keep``), reranking grows weaker; null: whatever is left.
        trials: settings tried for each method, the first as its YAML has it, the others from conf/search.yaml; what
            is chosen on validation, with the first seed, is then run with every seed. 0 or 1: nothing is searched.
        world: settings of a simulated world; each seed then has a world of its own, drawn with that seed.
        root: folder of all runs.
        stages: settings of single stages or methods, over those of their YAML (``asft: {model: {temperature: 0.5}}``).
        trainer: settings of every stage's trainer.
        data: settings of every stage's data.
    """

    log: str
    methods: list[str]
    name: str | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    ours: str | None = None
    placebos: dict[str, str] = field(default_factory=dict)
    rerank: float = 1.0
    keep: float | None = KEEP
    trials: int = 0
    world: World | None = None
    root: str = "runs"
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def roles(self) -> Roles:
        """What its methods are for."""
        return Roles(self.ours, self.placebos)


class Plan:
    """The stages of a chain and their commands.

    Args:
        chain: the experiment.
        file: its YAML; the stages' lie in the folder above it, else in conf/.
        overrides: what the command line adds.

    Raises:
        InputError: a method, stage or log that does not exist, or one that is named twice.
    """

    def __init__(self, chain: Chain, file: Path, overrides: Overrides) -> None:
        self.chain, self.overrides = chain, overrides
        self._once: dict[tuple[str, ...], ParsedStage] = {}
        self.name = chain.name or file.stem
        self.conf = _conf(file)
        self.log = self._log(file)
        require_share(chain.keep, "keep")
        require_positive("", vars(chain), "rerank", or_zero=True)
        for key, values in (("methods", chain.methods), ("seeds", chain.seeds)):
            if not values or len(set(values)) < len(values):
                raise InputError(f"{values} is empty or names one twice", where=key, remedy="list each once")
        if min(chain.seeds) < 0:
            raise InputError(f"{min(chain.seeds)} is no seed", where="seeds", remedy="seeds are 0 or more")
        if chain.world and self.log.stem != "simulated":
            raise InputError("only a simulated log has a world", where="world", remedy="say log: simulated")
        self.trained = [method for method in chain.methods if is_trained(method)]
        for method in chain.methods:
            if (own := base_method(method)) is not None and own not in self.trained:
                raise InputError(
                    f"{method} reranks the policy of {own!r}, which this chain does not train",
                    where="methods",
                    remedy=f"add {own} to them" if own and is_trained(own) else "name a method that is trained",
                )
        if taken := [method for method in chain.methods if method in BASE_STAGES]:
            raise InputError(f"{taken[0]} is no method", where="methods", remedy="leave it out: every chain trains it")
        self.stages = [*BASE_STAGES, *self.trained]
        named = [*chain.stages, *(stage for stage in overrides if stage is not None)]
        if unknown := [stage for stage in named if stage not in self.stages]:
            raise InputError(
                f"this chain trains no {unknown[0]!r}", where="stages", remedy=f"it trains: {', '.join(self.stages)}"
            )

    def _log(self, file: Path) -> Path:
        named = self.chain.log
        for path in (self.conf / "data" / f"{named}.yaml", Path(named), file.parent / named):
            if path.is_file():
                return path
        logs = ", ".join(sorted(path.stem for path in (self.conf / "data").glob("*.yaml")))
        raise InputError(
            f"there is no log {named!r}", where="log", remedy=f"give the path of its YAML, or one of: {logs}"
        )

    @property
    def folder(self) -> Path:
        """The chain's run folder."""
        return Path(self.chain.root) / self.name

    def data_root(self, seed: int) -> Path:
        """Where the world of a seed lies."""
        return self.folder / "worlds" / str(seed)

    def parsed(self, stage: str, seed: int, settings: Settings | None = None) -> ParsedStage:
        """The command that runs one stage alone, with the checkpoints that are there now.

        Args:
            stage: or method.
            seed: of everything.
            settings: what was chosen for it, over its YAML and what the chain gives.
        """
        run = RunConfig(stage, self.chain.root, self.name)
        return self._parse(self._argv(stage, seed, settings or {}, run)).renewed()

    def trial(self, method: str, seed: int, name: str, settings: Settings) -> ParsedStage:
        """The same for one setting that is tried: in a folder below the method's, from the chain's own checkpoints."""
        run = RunConfig(name, str(self.folder / method), "trials")
        upstream = self.parsed(method, seed, settings).upstream
        return parse_stage(self._argv(method, seed, settings, run) + [f"--{one.key}={one.path}" for one in upstream])

    def trial_folder(self, method: str, seed: int, name: str) -> Path:
        """Where a trial lies."""
        return RunFolder.of(RunConfig(name, str(self.folder / method)), "trials", seed).path

    def _argv(self, stage: str, seed: int, settings: Settings | None, run: RunConfig) -> list[str]:
        """None for settings: not even what the chain sets for this stage alone."""
        words = ["fit", "--config", str(self._yaml(stage)), "--config", str(self.log), f"--seed_everything={seed}"]
        words += [f"--run.name={run.name}", f"--run.root={run.root}", f"--run.chain={run.chain}"]
        if stage == "judge_select":
            words.append("--data.users=B1")
        if stage in self.trained:
            words.append(f"--model.keep={json.dumps(self.chain.keep)}")
        if self.chain.world:
            words.append(f"--data.root={self.data_root(seed)}")
        return words + self._settings(stage if settings is not None else None) + flatten(settings or {})

    def data(self, seed: int) -> RewardData:
        """What all methods of a seed are evaluated on: users A of the log, as the chain gives it to every stage.

        What is set for single stages is theirs alone: a reward model that sees less of a history than the policies must
        not shorten what these are tested on.
        """
        return self._every_stage(seed).datamodule()  # type: ignore[return-value]

    def device(self) -> torch.device:
        """Where methods are evaluated: on the machine that the chain names for every stage."""
        with quiet():
            return self._every_stage(self.chain.seeds[0]).bare_trainer().strategy.root_device

    def _every_stage(self, seed: int) -> ParsedStage:
        """A stage with nothing that the chain sets for it alone."""
        return self._parse(self._argv("reward", seed, None, RunConfig("reward", self.chain.root, self.name)))

    def given(self, stage: str, key: str = "") -> dict[str, str]:
        """What the chain's YAML and the command line set for a stage, by key, as text.

        A class, or all of its arguments, may be set in one: then each of them is set.

        Args:
            stage: or method.
            key: only what is set at this key or below it.
        """
        words = (word.removeprefix("--").partition("=") for word in self._settings(stage))
        every = dict(one for name, _, value in words for one in _singly(name, value))
        return {name: value for name, value in every.items() if f"{name}.".startswith(key and f"{key}.")}

    def _settings(self, stage: str | None) -> list[str]:
        """Options that the chain's YAML and the command line give to a stage, or to all; later ones over earlier ones.

        A placebo copies a method but for one thing, so what is set for that method is set for its placebos too.
        """
        chain = self.chain
        stages = [chain.placebos[stage], stage] if stage in chain.placebos else [stage]
        words = flatten({"trainer": chain.trainer, "data": chain.data})
        for one in stages:
            words += flatten(chain.stages.get(one or "", {}))
        for one in dict.fromkeys((None, *stages)):
            words += self.overrides.get(one, [])
        return words

    def _yaml(self, stage: str) -> Path:
        name = "judge" if stage.startswith("judge_") else stage
        for path in (self.conf / f"{name}.yaml", self.conf / "posttrain" / f"{name}.yaml"):
            if path.is_file():
                return path
        known = sorted({*UNTRAINED, "asft", *(p.stem for p in (self.conf / "posttrain").glob("*.yaml"))})
        meant = nearest(stage, known)
        remedy = f"did you mean {meant}?" if meant else f"there are: {', '.join(known)}, and those trained + _rerank"
        raise InputError(f"there is no method {stage!r}", where="methods", remedy=remedy)

    def parse(self) -> dict[str, ParsedStage]:
        """Every stage's command, parsed with the first seed, before anything runs.

        Raises:
            InputError: a key, value or file that does not exist.
        """
        return {stage: self._checked(stage) for stage in self.stages}

    def _parse(self, argv: list[str]) -> ParsedStage:
        """Once for every command: it takes a quarter of a second."""
        if tuple(argv) not in self._once:
            self._once[tuple(argv)] = parse_stage(argv)
        return self._once[tuple(argv)]

    def _checked(self, stage: str) -> ParsedStage:
        for key in (*OWN, "data.root") if self.chain.world else OWN:
            for own, value in self.given(stage, key).items():
                where = f"{stage}, --{own}={value}"
                raise InputError("the chain sets this itself", where=where, remedy="leave it out")
        try:
            parsed = self.parsed(stage, self.chain.seeds[0])
            _require_training(parsed.config["trainer"])
            return parsed
        except InputError as error:
            where = f"{stage}, {error.where}" if error.where else stage
            raise InputError(error.what, where=where, remedy=error.remedy) from error


def _require_training(trainer: dict[str, Any]) -> None:
    """Refuse what leaves a chain nothing to go on with: stages that are not trained, or not validated."""
    for key in ("max_epochs", "max_steps", "limit_train_batches", "limit_val_batches"):
        if trainer.get(key) == 0:
            what = f"{trainer[key]}, and a chain trains and validates every stage"
            raise InputError(what, where=f"trainer.{key}", remedy="give more, or null")
    if trainer.get("fast_dev_run"):
        raise InputError("a chain cannot do with a dry run", where="trainer.fast_dev_run", remedy="use max_epochs: 1")


def _conf(file: Path) -> Path:
    """The folder of the stages' YAML files, for a chain's that lies in it or elsewhere."""
    for folder in (file.parent.parent, Path("conf")):
        if (folder / "recommender.yaml").is_file():
            return folder
    raise InputError(
        "there are no stages to run", where=str(file), remedy="start in the folder that holds conf/recommender.yaml"
    )


def flatten(settings: dict[str, Any], prefix: str = "") -> list[str]:
    """Nested settings as words of a command line: ``{"model": {"lr": 0.1}}`` -> ``["--model.lr=0.1"]``."""
    words = []
    for key, value in settings.items():
        if isinstance(value, dict) and "class_path" not in value:
            words += flatten(value, f"{prefix}{key}.")
        else:
            words.append(f"--{prefix}{key}={value if isinstance(value, str) else json.dumps(value)}")
    return words


def _singly(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """Each setting that one word sets: a class and its arguments may stand in it, or in a file that it names."""
    if isinstance(value, str):
        with suppress(OSError, ValueError, yaml.YAMLError):  # what it cannot read, the stage's own parser names
            text = Path(value).read_text(encoding="utf-8") if value.endswith((".yaml", ".yml", ".json")) else value
            found = yaml.safe_load(text)
            value = found if isinstance(found, dict) else value
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _singly(key if name in ("class_path", "init_args") else f"{key}.{name}", each)
    else:
        yield key.replace(".init_args.", "."), value if isinstance(value, str) else json.dumps(value)
