"""`recalign update`: the next day's policy. Continue a finished chain on its grown log."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from recalign import seals
from recalign.data.sequences.earlier import WHERE_ROWS_ARE, EarlierLog
from recalign.errors import InputError, require_positive
from recalign.evaluation.chain_comparison import RECORD
from recalign.files import read_object
from recalign.recommender.checkpoint import read_checkpoint
from recalign.recommender.grown import GROWS_FROM
from recalign.run.chain.command import IDS, run_chain, split_overrides
from recalign.run.chain.experiment import Chain, Evaluation
from recalign.run.chain.plan import EVALUATION, Overrides, Plan, Settings
from recalign.run.stage import Manifest, RunFolder
from recalign.run.stage.settings import instantiated, parse_call, set_keys

EARLIER_IDS = "ids-before"
"""The earlier chain's ids, in the new chain's folder."""
WARM_STARTED_STAGE = "recommender"
"""Only the recommender is warm-started: a warm-started judge would favour policies that it selected, and a
warm-started method lost most of its gain (docs/next-day.md)."""


@dataclass
class Update:
    """How a finished chain continues on a log that has grown.

    Attributes:
        run: folder of the chain to continue, such as runs/ml-100k.
        log: YAML of the grown log: the earlier events, and each user's new ones after them. It may be the chain's own,
            if its files have grown.
        name: name of the run folder, beside the earlier chain's; null: the earlier name and -update.
        epochs: the recommender's number of epochs, as a share of that of its first training.
        untouched: share of the users without new training events that the recommender is trained on.
        workers: number of parallel tasks, as in `recalign chain`; null: as in the earlier chain.
        verbose: whether each stage prints its command, duration and checkpoint.
    """

    run: str
    log: str
    name: str | None = None
    epochs: float = 0.25
    untouched: float = 1.0
    workers: int | None = None
    verbose: bool = False


def update(argv: Sequence[str]) -> Path:
    """Continue a finished chain on its log, which has grown since. Ids and groups of users stay as they are.

    Any stage's settings can be given too: --trainer.KEY and --data.KEY for all stages, --stages.STAGE.KEY for one.

    Args:
        argv: the command-line arguments after ``recalign update``.

    Returns:
        The new chain's run folder.
    """
    words = list(argv)
    if words and not words[0].startswith("-"):
        words[0] = f"--run={words[0]}"
    own, overrides = split_overrides(words)
    description = " ".join((update.__doc__ or "").split("\n\n")[0].split())
    how = Update(**instantiated(*parse_call("update", description, Update, own)))
    plan, ids = update_plan(how, overrides), Path(how.run) / IDS
    data = plan.data(plan.seeds[0])
    EarlierLog(str(ids)).require_same(data.log_, data.reward_settings)
    # A copy: the new chain must not need the earlier one's folder.
    with seals.publish(plan.folder / EARLIER_IDS, seals.Seal.read(ids).key) as part:
        shutil.copytree(ids, part, dirs_exist_ok=True)
    return run_chain(plan)


def update_plan(how: Update, overrides: Overrides) -> Plan:
    """The plan of a chain whose stages have the configuration of an earlier chain's, and go on from its checkpoints.

    Args:
        how: the arguments of ``recalign update``.
        overrides: settings of the command line.

    Raises:
        InputError: there is no finished chain, or it cannot go on.
    """
    require_positive("", asdict(how), "epochs", "workers")
    run = Path(how.run) if Path(how.run).name.strip(".") else Path(how.run).resolve()  # "." has no name
    record, name = read_object(run / RECORD), how.name or f"{run.name}-update"
    if not record:
        what = f"holds no {RECORD}, so it is not a chain that can be updated"
        raise InputError(what, where=how.run, remedy="name the folder of a chain that has finished")
    if any(not isinstance(given, list) for _, given in record["overrides"]):
        remedy = "run the chain again, with the same arguments: what has not changed is not repeated"
        raise InputError(f"its {RECORD} is of another version of recalign", where=how.run, remedy=remedy)
    before = Chain(**record["chain"] | {"evaluation": Evaluation(**record["chain"]["evaluation"])})
    if before.world:
        what = "each of its seeds has a simulated world of its own, whose log cannot grow"
        raise InputError(what, where=how.run, remedy="run a new chain on the new log")
    if (run.parent / name).resolve() == run.resolve():
        what = "an update cannot be written to the folder of the chain that it updates"
        raise InputError(what, where="name", remedy="give another --name")
    # Each stage's configuration file has its settings, a search's choice too. Only those of the data are given again:
    # the new log's YAML would override them.
    data = {key.removeprefix("data."): value for key, value in _of_data({"data": before.data}).items()}
    stages = {stage: _of_data(own) for stage, own in before.stages.items()}
    chain = replace(before, log=how.log, name=name, root=str(run.parent), verbose=how.verbose)
    chain = replace(chain, workers=how.workers or before.workers, trials=0, stages=stages, trainer={}, data=data)
    for stage, settings in record["overrides"]:
        overrides[stage] = [_of_data(*settings), *overrides.get(stage, [])]
    epochs: dict[str, int] = {}  # of the warm-started stage when it was first trained, by seed
    begin_with = partial(_from_earlier, run, how, epochs)
    plan = Plan(chain, run / RECORD, overrides, begin_with, {"epochs": epochs, "goes_on_from": str(run)})
    for seed in chain.seeds:
        for stage in plan.stages:
            folder = RunFolder(run / stage / f"seed-{seed}")
            manifest = Manifest.read(folder)
            if manifest is None or manifest.status != "finished":
                remedy = "let its chain finish: recalign chain, with the same arguments"
                raise InputError("is not finished", where=str(folder.path), remedy=remedy)
            if stage == WARM_STARTED_STAGE:
                key = f"{stage}/seed-{seed}"
                epochs[key] = record.get("epochs", {}).get(key) or read_checkpoint(folder.last)["epoch"] + 1
    return plan


def _from_earlier(
    run: Path, how: Update, epochs: dict[str, int], plan: Plan, stage: str | None, seed: int
) -> tuple[Path, Settings]:
    folder = RunFolder(run / (stage or "reward") / f"seed-{seed}")
    manifest = Manifest.read(folder)
    assert manifest is not None  # `update_plan` has read it
    own: dict[str, Any] = dict.fromkeys(manifest.upstream)  # None: those of the new chain's stages
    own[f"data.{GROWS_FROM}"] = plan.folder / EARLIER_IDS
    if stage == WARM_STARTED_STAGE:
        own |= {f"model.{GROWS_FROM}": folder.path / str(manifest.checkpoint), "data.untouched": how.untouched}
        own["trainer.max_epochs"] = math.ceil(how.epochs * epochs[f"{stage}/seed-{seed}"])
    return folder.config if stage else run / EVALUATION.format(seed), own


def _of_data(*settings: Settings) -> dict[str, Any]:
    """Settings of the data, except where its rows are: those come from the new log, else the earlier stage."""
    where, given = ("data.root", *(f"data.log.{name}" for name in WHERE_ROWS_ARE)), set_keys(*settings).items()
    return {key: value for key, value in given if key.startswith("data.") and not key.startswith(where)}
