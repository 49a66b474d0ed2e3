"""Plan a chain: which stages it has, and the command of each."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from recalign.artifacts import get_or_make
from recalign.data.events.log import WORLDS
from recalign.data.events.yaml_text import yaml_text
from recalign.data.sequences.placebo import CORRELATION
from recalign.errors import InputError, nearest
from recalign.evaluation.chain_comparison import RunsComparison
from recalign.evaluation.counted_rows import TableRow
from recalign.evaluation.methods import BASE_STAGES, BaseCheckpoints, MethodRun
from recalign.evaluation.reranking import READS_REWARD_MODEL
from recalign.evaluation.roles import START, Roles, reranked_method
from recalign.evaluation.rows import UNTRAINED, row_of
from recalign.evaluation.seed_evaluation import SeedEvaluation
from recalign.evaluation.selection_callback import SelectionValue
from recalign.files import write_text
from recalign.recommender.checkpoint import read_checkpoint
from recalign.reward import RewardData
from recalign.run import configs
from recalign.run.chain.experiment import Chain
from recalign.run.chain.steps import Results, step_name
from recalign.run.stage import FinishedRun, Stage, parse_stage
from recalign.run.stage.console import echo, quiet
from recalign.run.stage.settings import set_keys
from recalign.run.stage.upstream import TOKENS
from recalign.run.words import imported
from recalign.seals import class_paths, code_digest

EVERY_STAGE = ("trainer", "data")
"""Settings of a chain that go to every stage."""
EVALUATION = "evaluation-{}.yaml"
"""File in a chain's folder, by seed: the configuration of the stage on whose data methods are evaluated."""

Settings = Mapping[str, Any]
"""Settings of a stage, as `parse_stage` takes them: nested or by dotted key."""

Overrides = dict[str | None, list[Settings]]
"""Settings of the command line by stage, one per option; None: for every stage."""

Beginning = Callable[["Plan", str | None, int], tuple[Path, Settings]]
"""Gives a stage (None: the evaluation) of a plan, by seed, its first YAML, and settings that override it."""


class Plan:
    """The stages of a chain and their commands (`recalign.run.chain.steps.Experiment`).

    Args:
        chain: the experiment.
        file: its YAML; stages' YAML is searched beside and above it, then in conf/, then in the shipped files.
        overrides: settings of the command line.
        begin_with: gives stages another first YAML; None: their own.
        record: further entries of the chain's chain.json.

    Raises:
        InputError: a method, stage or log that does not exist, or one that is named twice.
    """

    def __init__(
        self,
        chain: Chain,
        file: Path,
        overrides: Overrides,
        begin_with: Beginning | None = None,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        self.chain, self.overrides, self.begin_with = chain, overrides, begin_with
        self.recorded = {"chain": asdict(chain), "overrides": list(overrides.items()), **(record or {})}
        self._once: dict[str, Stage] = {}
        self.name, self.seeds = chain.name or file.stem, chain.seeds
        both = {placebo: method for placebo, method in chain.placebos.items() if {placebo, method} <= {*chain.trained}}
        self.copied = {placebo: method for placebo, method in both.items() if method not in both}
        self.trained = sorted(chain.trained, key=lambda method: method in self.copied)
        self.folder = Path(chain.root) / self.name
        above, shipped = Path(os.path.normpath(file.parent / "..")), configs.shipped()
        own = [folder for folder in (file.parent, above) if not folder.resolve().is_relative_to(shipped.resolve())]
        self.folders = [*own, Path("conf"), shipped]
        logs = (self.found(f"logs/{chain.log}.yaml"), Path(chain.log), file.parent / chain.log)
        self.log = next((path for path in logs if path and path.is_file()), None) or configs.find(chain.log, "logs")
        chain.check()
        if chain.world and self.log.stem not in WORLDS:
            raise InputError(
                "only a simulated log has a world", where="world", remedy=f"set log: {' or '.join(WORLDS)}"
            )
        roles = {"placebos": [*chain.placebos, *chain.placebos.values()], "baselines": chain.baselines}
        roles["highlight"] = [chain.highlight or START]
        for where, rows in roles.items() if begin_with is None else ():  # an earlier chain has checked its own
            for row in sorted({*rows} - {*UNTRAINED, START}):
                self.yaml(reranked_method(row) or row, where)
        self.stages = [*BASE_STAGES, *self.trained]
        methods = {stage for stage in chain.stages if self.found(f"methods/{stage}.yaml")}  # `--methods` may omit some
        for stage in sorted(({*chain.stages} - methods | {*filter(None, overrides)}) - {TOKENS, *self.stages}):
            remedy = f"it trains: {', '.join(self.stages)}"
            raise InputError(f"this chain trains no {stage!r}", where="stages", remedy=remedy)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In another process: import the classes that the stages name, as parsing them did in the first one."""
        vars(self).update(state)
        for path in {path for one in self._once.values() for path in class_paths(one.config)}:
            with suppress(ImportError, AttributeError):  # defined in a notebook: `build` raises if it is needed
                imported(path)

    def parse(self) -> dict[str, Stage]:
        """Every stage's command, parsed with the first seed, before anything runs."""
        parsed: dict[str, Stage] = {}
        for stage in self.stages:
            try:
                parsed[stage] = self.parsed(stage, self.seeds[0])
            except InputError as error:
                where = f"{stage}, {error.where}" if error.where else stage
                raise InputError(error.what, where=where, remedy=error.remedy) from error
        return parsed

    def parsed(self, stage: str, seed: int, settings: Settings | None = None) -> Stage:
        """The command of one stage or method, with the checkpoints that exist now; ``settings`` override all others."""
        return self._parse(stage, seed, *self.settings(stage), settings or {}).with_upstreams()

    def _parse(self, stage: str | None, seed: int, *given: Settings) -> Stage:
        """Parse a command, with a cache: it takes 0.2 s. Stage None: the one on whose data methods are evaluated."""
        name = stage or "reward"
        file, first = self.begin_with(self, stage, seed) if self.begin_with else (self.yaml(name), {})
        files = [file, self.log]
        recipe = self.found(f"logs/{self.chain.recommender}/{self.log.name}")  # settings that it needs on this log
        if stage == "recommender" and recipe and not self.begin_with:
            files.append(recipe)
        run: dict[str, Any] = {"name": name, "root": self.chain.root, "chain": self.name}
        own = {"seed_everything": seed, "run": run}
        if self.chain.threads:
            own["threads"] = self.chain.threads
        if stage == "judge_select":
            own["data"] = {"users": "B1"}
        if stage in self.chain.post_trained and not self.begin_with:
            own["model"] = {"keep": self.chain.keep}
        words = ["fit", *(f"--config={file}" for file in files)]
        settings = [one for one in (first, own, self.world_root(seed), *given) if one]
        if stage not in (None, "recommender", TOKENS) and (modules := self.own_modules()):
            settings.append({"run": {"imports+": modules}})
        if (key := repr((words, settings))) not in self._once:
            self._once[key] = parse_stage(words, *settings)
        return self._once[key]

    def own_modules(self) -> list[str]:
        """The user's modules that define the recommender's classes: checkpoints of later stages hold these too."""
        recommender = self._parse("recommender", self.seeds[0], *self.settings("recommender"), {})
        modules = {path.rpartition(".")[0] for path in class_paths(recommender.config["model"])}
        return sorted(module for module in modules if module.partition(".")[0] != "recalign")

    def world_root(self, seed: int) -> Settings:
        """Where the world of a seed lies."""
        return {"data.root": self.folder / "worlds" / str(seed)} if self.chain.world else {}

    def upstream(self, stage: str) -> list[str]:
        """The stages of the chain that a stage starts from, and the method that a placebo copies."""
        parsed = self.parsed(stage, self.seeds[0])
        callbacks = str(parsed.config["trainer"]["callbacks"])  # one may read a judge from its path
        judged = ["judge_select"] if SelectionValue.__name__ in callbacks else []
        own = [one.stage for one in parsed.upstream if not one.named]
        return own + judged + [method for placebo, method in self.copied.items() if placebo == stage]

    def stage(self, name: str, seed: int, chosen: Mapping[str, Any] | None) -> Stage:
        """A stage or method to load or make, with the settings that a search chose.

        If a method's temperature is auto, its placebo takes the one that it found, unless it is given its own.
        """
        method, temperature = self.copied.get(name), {**self.given(name), **(chosen or {})}.get("model.temperature")
        if method and temperature in (None, "auto"):
            stage = self.parsed(method, seed)
            if stage.config["model"]["init_args"].get("temperature") == "auto":
                facts = read_checkpoint(stage.load().checkpoint)["facts"]
                found = {"model.temperature": facts["temperature"]} if "temperature" in facts else {}
                chosen = {**(chosen or {}), **found}
        return replace(self.parsed(name, seed, chosen), verbose=self.chain.verbose)

    def evaluation(self, seed: int, results: Results) -> SeedEvaluation:
        """The evaluation of a seed's methods, from the results of its steps; without methods still to be trained."""
        stage, runs = self.evaluation_stage(seed), []
        write_text(self.folder / EVALUATION.format(seed), yaml_text(stage.shareable))
        for method in self.chain.methods:
            own = reranked_method(method) or method
            trained = results.get(step_name(own, seed))
            if not trained and own in self.trained:
                continue
            row = row_of(method, self.chain.rerank, self.chain.keep)
            runs.append(method_run(trained, method, row) if trained else MethodRun(method, None, {}, row))
        data: RewardData = stage.datamodule()  # type: ignore[assignment]
        data.sample = self.chain.evaluation.users
        base, code = base_checkpoints(results, seed), code_digest()
        return SeedEvaluation(self.folder, seed, runs, base, data, self.device(), code)

    def comparison(self) -> RunsComparison:
        """The table of all methods over all seeds."""
        roles = Roles(self.chain.highlight, self.chain.placebos, self.chain.baselines)
        return RunsComparison(self.folder, methods=self.chain.methods, seeds=self.seeds, roles=roles)

    def evaluation_stage(self, seed: int) -> Stage:
        """The stage on whose data and device the methods of a seed are evaluated.

        Settings of single stages do not apply: a reward model that sees shorter histories must not shorten those that
        policies are tested on.
        """
        return self._parse(None, seed, *self.settings(None))

    def data(self, seed: int) -> RewardData:
        """The data of a seed's evaluation: users A of the log, with the chain's settings for every stage."""
        return self.evaluation_stage(seed).datamodule()  # type: ignore[return-value]

    def device(self) -> torch.device:
        """The device of evaluations: that of the chain's settings for every stage."""
        return self.evaluation_stage(self.seeds[0]).bare_trainer().strategy.root_device

    def given(self, stage: str | None, key: str = "") -> dict[str, Any]:
        """What the chain's YAML and the command line set for a stage (None: for all) at a key or below it."""
        every = set_keys(*self.settings(stage))
        return {name: value for name, value in every.items() if f"{name}.".startswith(key and f"{key}.")}

    def settings(self, stage: str | None) -> list[Settings]:
        """Settings of a stage, or of all, from the chain's YAML and then the command line, later ones over earlier.

        A placebo copies a method except for one thing, so that method's settings apply to its placebos too.
        """
        chain = self.chain
        stages = [chain.placebos[stage], stage] if stage in chain.placebos else [stage]
        every = {key: value for key, value in vars(chain).items() if key in EVERY_STAGE and value}
        typed = [one for name in dict.fromkeys((None, *stages)) for one in self.overrides.get(name, ())]
        return [every, *(chain.stages.get(one or "", {}) for one in stages), *typed]

    def found(self, *names: str) -> Path | None:
        """The first of these files that exists; the user's folders come before the shipped ones."""
        paths = (folder / name for folder in self.folders for name in names)
        return next((path for path in paths if path.is_file()), None)

    def yaml(self, stage: str, where: str = "methods") -> Path:
        name = "judge" if stage.startswith("judge_") else stage
        name = self.chain.recommender if stage == "recommender" else name
        if path := self.found(f"{name}.yaml", *(f"{folder}/{name}.yaml" for folder in configs.STAGES)):
            return path
        if stage == "recommender":  # the caller adds its name
            raise InputError(f"there is no {name!r}", remedy="there are: recommender, recommender-onerec")
        trained = [path.stem for folder in self.folders for path in (folder / "methods").glob("*.yaml")]
        meant = nearest(stage, known := sorted({*UNTRAINED, *trained}))
        remedy = f"did you mean {meant}?" if meant else f"there are: {', '.join(known)}, and trained methods + _rerank"
        remedy += "; a YAML of your own lies beside the chain's, and is named without .yaml"
        raise InputError(f"there is no method {stage!r}", where=where, remedy=remedy)


def train(stage: Stage, verbose: bool = False) -> FinishedRun:
    """Run a stage, unless its finished run is up to date."""
    with quiet():
        return get_or_make(replace(stage, verbose=verbose), echo)


def base_checkpoints(results: Results, seed: int) -> BaseCheckpoints:
    """The checkpoints that all methods of a seed share."""
    return BaseCheckpoints(*(results[step_name(stage, seed)].checkpoint for stage in BASE_STAGES))


def method_run(trained: FinishedRun, method: str, row: TableRow) -> MethodRun:
    """A trained method to evaluate, with its training cost and, for a placebo, how much of its signal is left."""
    content = read_checkpoint(trained.checkpoint)
    facts = content["facts"]
    figures = {"cost/seconds": trained.seconds, "cost/steps": content["global_step"], "cost/events": facts["events"]}
    figures |= {CORRELATION: facts[CORRELATION]} if CORRELATION in facts else {}
    return MethodRun(method, trained.checkpoint, figures | {READS_REWARD_MODEL: float(trained.reads_reward_model)}, row)
