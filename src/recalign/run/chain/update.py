"""`recalign update`: the next day's policy. A chain again, on its log as it has grown, each stage from where it was."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from recalign import artifacts
from recalign.data.sequences.earlier import FREE, EarlierLog
from recalign.errors import InputError, require_positive
from recalign.evaluation.comparison import RECORD
from recalign.files import read_json
from recalign.keys import call, settings_of, split
from recalign.recommender.checkpoint import class_path, read_checkpoint
from recalign.recommender.grown import GROWS_FROM
from recalign.recommender.sequence_policy import SequencePolicy
from recalign.run.chain.chain_command import split_overrides
from recalign.run.chain.experiment import Chain, Evaluation
from recalign.run.chain.plan import Overrides, Plan
from recalign.run.chain.run import IDS, run_chain
from recalign.run.chain.space import Settings
from recalign.run.stage import Manifest, RunFolder, Stage, parse_stage
from recalign.run.stage.settings import instantiated, parse_call

BEFORE = "ids-before"
"""The earlier chain's ids, in the new chain's folder."""
ANEW = "run a chain on the new log anew"
GOES_ON = "recommender"
"""The stage that goes on from its weights. The others begin anew. Judges and reward model are instruments: one that
went on from itself would agree with what was chosen by it. A method that went on lost most of its gain
(docs/loop.md)."""


@dataclass
class Update:
    """How a chain goes on.

    Attributes:
        run: folder of the chain that goes on, such as runs/ml-100k.
        log: YAML of the log as it has grown: the earlier events, and each user's new ones after them. It may be the
            chain's own, if its files have grown.
        name: names the run folder, beside the earlier chain's; null: that one's name and -update.
        epochs: of the recommender, as a share of those that it took when it was first trained.
        untouched: share of the users without new training events that it is trained on.
        workers: tasks at a time, as in `recalign chain`.
        verbose: whether each stage prints its own command, how long it took and what it hands over.
    """

    run: str
    log: str
    name: str | None = None
    epochs: float = 0.25
    untouched: float = 1.0
    workers: int | None = None
    verbose: bool = False


def update(argv: Sequence[str]) -> Path:
    """The next day: a finished chain goes on with its log as it has grown. Ids and groups of users stay as they are.

    Any stage's settings can be given too: --trainer.KEY and --data.KEY for all stages, --stages.STAGE.KEY for one.

    Args:
        argv: the words after ``recalign update``.

    Returns:
        The new chain's run folder.

    Raises:
        InputError: something that was given cannot be used.
    """
    words = list(argv)
    if words and not words[0].startswith("-"):
        words[0] = f"--run={words[0]}"
    own, overrides = split_overrides(words)
    if stray := [value for option, value, _ in split(own) if not option]:
        raise InputError(f"{stray[0]!r} belongs to no option", remedy="write: recalign update RUN --log LOG")
    description = " ".join((update.__doc__ or "").split("\n\n")[0].split())
    parser, parsed = parse_call("update", description, Update, own)
    plan = UpdatePlan(Update(**instantiated(parser, parsed)), overrides)
    plan.keep_ids()
    return run_chain(plan)


class UpdatePlan(Plan):
    """A plan whose stages have the configuration of an earlier chain's, and go on from its checkpoints.

    Args:
        how: which chain, and how.
        overrides: what the command line adds.

    Raises:
        InputError: there is no finished chain, or it cannot go on.
    """

    def __init__(self, how: Update, overrides: Overrides) -> None:
        require_positive("", asdict(how), "epochs")
        self.how, run = how, Path(how.run)
        self.run = run if run.name.strip(".") else run.resolve()  # "." has no name
        self.record = read_json(self.run / RECORD)
        if not self.record:
            what = f"holds no {RECORD}, so it is no chain that can go on"
            remedy = "name a chain's folder; one of an earlier version: run its chain again, which writes it"
            raise InputError(what, where=how.run, remedy=remedy)
        given = self.record["chain"]
        before = Chain(**given | {"evaluation": Evaluation(**given["evaluation"])})
        if before.world:
            what = "each of its seeds has a world of its own, and these do not grow"
            raise InputError(what, where=how.run, remedy=ANEW)
        name = how.name or f"{self.run.name}-update"
        # What stages were given stands in the configuration of each, what a search chose too. Only what a log's YAML
        # may have been overridden by has to come after it again.
        stages = {stage: _of_data(settings_of(own)) for stage, own in before.stages.items()}
        if (self.run.parent / name).resolve() == self.run.resolve():
            remedy = "give another --name"
            raise InputError("an update cannot lie in the folder that it goes on from", where="name", remedy=remedy)
        data = {key.removeprefix("data."): value for key, value in _of_data(settings_of({"data": before.data})).items()}
        own = replace(before, log=how.log, name=name, workers=how.workers, verbose=how.verbose, data=data)
        chain = replace(own, root=str(self.run.parent), trials=0, stages=stages, trainer={})
        for stage, settings in self.record["overrides"]:
            overrides[stage] = _of_data(settings.items()) | overrides.get(stage, {})
        self.epochs: dict[str, int] = {}
        super().__init__(chain, self.run / RECORD, overrides)
        for seed in chain.seeds:
            for stage in self.stages:
                self._require(stage, seed)

    def recorded(self) -> dict[str, Any]:
        return super().recorded() | {"epochs": self.epochs, "goes_on_from": str(self.run)}

    def keep_ids(self) -> None:
        """Copy the earlier ids: the new chain, which continues them, has to do when the earlier one is gone.

        Raises:
            InputError: there are none, or no log can continue them, or not this one; nothing is written then.
        """
        data = self.data(self.chain.seeds[0])
        EarlierLog.read(self.run / IDS).require_same(data.log_, data.reads_rewards)
        own, seal = self.folder / BEFORE, artifacts.Seal.read(self.run / IDS)
        if artifacts.check(own, seal.key).fresh and artifacts.Seal.read(own).digests == seal.digests:
            return
        with artifacts.publish(own, seal.key) as part:
            for name in seal.digests:
                shutil.copyfile(self.run / IDS / name, part / name)

    def _require_rows(self) -> None:
        """They were checked when the earlier chain was planned, perhaps beside YAML that is not here."""

    def _require(self, stage: str, seed: int) -> None:
        """Refuse a stage that has not finished; note how many epochs it took when it was first trained."""
        folder = self._earlier(stage, seed)
        manifest = Manifest.read(folder)
        if manifest is None or manifest.status != "finished":
            remedy = "let its chain finish: recalign chain, with the same words"
            raise InputError("is not finished", where=str(folder.path), remedy=remedy)
        if stage != GOES_ON:
            return
        last = read_checkpoint(folder.last)
        policy = last["recipes"].get("policy")
        if policy and policy["class_path"] != class_path(SequencePolicy):
            what = f"its policy is a {policy['class_path']}, and only a {SequencePolicy.__name__} can grow"
            raise InputError(what, where=str(folder.path), remedy=ANEW)
        key = f"{stage}/seed-{seed}"
        self.epochs[key] = self.record.get("epochs", {}).get(key) or int(last["epoch"]) + 1

    def _earlier(self, stage: str, seed: int) -> RunFolder:
        return RunFolder(self.run / stage / f"seed-{seed}")

    def files_of(self, stage: str, seed: int) -> list[Path]:
        return [self._earlier(stage, seed).config, self.log]

    def _every_stage(self, seed: int) -> Stage:
        """As in a chain; what the earlier one set for its reward model's data alone is as the log's YAML has it."""
        general = self._settings(None)
        own = self._settings("reward").keys() - general.keys()
        alone = {key.split(".")[1] for key in own if key.startswith("data.")}
        plain = parse_stage(["fit", *call(super().files_of("reward", seed), {})]).config["data"]["init_args"]
        return self._parse("reward", seed, {f"data.{name}": plain[name] for name in sorted(alone)} | general)

    def set_here(self, stage: str, seed: int) -> Settings:
        folder = self._earlier(stage, seed)
        manifest = Manifest.read(folder)
        assert manifest is not None  # `_require`
        own = super().set_here(stage, seed)
        own.pop("model.keep", None)  # it stands in the stage's configuration, which may have its own
        own |= dict.fromkeys(manifest.upstream)  # of the new chain's own stages
        own |= {f"data.{GROWS_FROM}": str(self.folder / BEFORE)}
        if stage == GOES_ON:
            own["data.untouched"] = self.how.untouched
            epochs = math.ceil(self.how.epochs * self.epochs[f"{stage}/seed-{seed}"])
            own |= {f"model.{GROWS_FROM}": str(folder.path / str(manifest.checkpoint)), "trainer.max_epochs": epochs}
        return own


def _of_data(settings: Iterable[tuple[str, Any]]) -> Settings:
    """What is said of data, but not where the rows are: that is the new log's to say, else the earlier stage's."""
    where = ("data.root", *(f"data.log.{name}" for name in FREE))
    return {key: value for key, value in settings if key.startswith("data.") and not key.startswith(where)}
