"""Train a stage of a chain or a trial of a search, and what evaluation needs to know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lightning.pytorch.callbacks import Callback

from recalign import artifacts
from recalign.data.sequences.placebo import CORRELATION
from recalign.evaluation.methods import BASE_STAGES, BaseCheckpoints, MethodRun
from recalign.evaluation.reranking import READS_REWARD_MODEL
from recalign.recommender.checkpoint import read_checkpoint
from recalign.run.stage import Stage, Trained, parse_stage
from recalign.run.stage.console import quiet, say


def train(parsed: Stage, *callbacks: Callback, verbose: bool = False) -> Trained:
    """Run one stage, unless its finished run is up to date. Arguments as of `Stage`.

    Raises:
        InputError: something that was given cannot be used.
        TrainingError: training cannot go on.
    """
    with quiet():
        return artifacts.once(replace(parsed, callbacks=callbacks, verbose=verbose), say)


def trial(parsed: Stage, name: str, group: str) -> Stage:
    """The same run as a trial: in ``<stage>/<group>/<name>/``, from the same checkpoints."""
    upstream = {one.key: str(one.path) for one in parsed.upstream}
    run = {"run.name": name, "run.root": str(parsed.folder.path.parent), "run.chain": group}
    return parse_stage(parsed.words, {**upstream, **run})


def named(stage: str, seed: int) -> str:
    """The name of the step that trains a stage or a method."""
    return f"{stage}/seed-{seed}"


def base_checkpoints(trained: Mapping[str, Trained]) -> BaseCheckpoints:
    """The checkpoints that all methods of a seed share."""
    return BaseCheckpoints(*(trained[stage].checkpoint for stage in BASE_STAGES))


def method_run(trained: Trained, method: str) -> MethodRun:
    """A trained method to evaluate, with its training cost and, of a placebo, how much of its signal is left."""
    content = read_checkpoint(trained.checkpoint)
    facts = content["facts"]
    figures = {"cost/seconds": trained.seconds, "cost/steps": content["global_step"], "cost/events": facts["events"]}
    figures |= {CORRELATION: facts[CORRELATION]} if CORRELATION in facts else {}
    return MethodRun(method, trained.checkpoint, figures | {READS_REWARD_MODEL: float(trained.reads_reward_model)})
