"""Compare policies in a table: ranking metrics, judges' value and KL to the start, with intervals."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console

from recalign.data.sequences.audit import audit_log, verdict
from recalign.errors import InputError, require_positive
from recalign.evaluation.answer import heading
from recalign.evaluation.chain_comparison import RECORD, RunsComparison
from recalign.evaluation.comparison_table import ComparisonTable
from recalign.evaluation.decision import Decision, decide
from recalign.evaluation.findings import Reports, better_than_chance
from recalign.evaluation.methods import BASE_STAGES, EVALUATION_SPLITS, BaseCheckpoints, MethodRun
from recalign.evaluation.report import reasons, terminal_table
from recalign.evaluation.reranking import RerankedRow
from recalign.evaluation.roles import Roles
from recalign.evaluation.rows import UNTRAINED, row_of
from recalign.evaluation.seed_evaluation import SeedEvaluation
from recalign.posttrain.base import KEEP
from recalign.recommender.checkpoint import read_checkpoint
from recalign.recommender.interpolation import require_share
from recalign.reward import RewardData
from recalign.reward.candidates import compare_log_rewards
from recalign.reward.trust.report import read_trust
from recalign.run.api.fit import data_of, data_settings, fit_judge, require_rewards, stage_of
from recalign.run.api.log import Log, require_kind
from recalign.run.api.trained import checkpoint_of
from recalign.seals import class_paths, code_digest

METRICS = ("all/ndcg@10", "high/ndcg@10", "value/judge@10", "value/reward_model@10", "policy/kl", "policy/coverage@10")


@dataclass(frozen=True)
class Comparison:
    """Policies compared on the test events of users A.

    Attributes:
        frame: long format, as in ``comparison.csv``: ``method, seed, split, metric, value, ci_low, ci_high``.
        methods: names of the rows, in order.
        roles: which rows are the baselines, and the placebos.
        decision: whether to ship a row, as in a chain's report: ``sentence``, ``policy``, ``reasons``, ``next_steps``,
            ``frame()``. None where only baselines were compared.
        trust: ``trust.json`` by stage and seed: how good the reward model and the reporting judge are.
    """

    frame: pl.DataFrame
    methods: list[str]
    roles: Roles
    decision: Decision | None = None
    trust: Mapping[str, Reports] = field(default_factory=dict)

    @property
    def table(self) -> pl.DataFrame:
        """One row per policy: test means, and the bounds of each metric's 95 % interval, if it has one."""
        table = pl.DataFrame({"method": self.methods})
        for metric in METRICS:
            names = {"value": metric, "ci_low": f"{metric} low", "ci_high": f"{metric} high"}
            figures = self.frame.filter(seed="all", split="test", metric=metric).select("method", *names).rename(names)
            table = table.join(figures, on="method", how="left", maintain_order="left")
        return table.select(column for column in table if not column.is_null().all())

    def __str__(self) -> str:
        console = Console(width=120, file=StringIO(), record=True, force_jupyter=False)
        judged = better_than_chance(self.trust.get("judge_report", {}))
        console.print(terminal_table(ComparisonTable(self.frame, self.roles, judged=judged)))
        table = console.export_text().rstrip()
        if self.decision is None:
            return table
        said = reasons(self.decision, self.trust, "see decision.reasons")
        return "\n- ".join([f"{table}\n\n{heading(self.decision, self.trust)}", *said])

    def _repr_html_(self) -> str:
        with pl.Config(tbl_cols=-1, tbl_rows=-1, float_precision=4):
            return self.table._repr_html_()


def compare(
    log: Log,
    policies: Mapping[str, Any],
    reward: Any,
    *,
    start: Any = None,
    judges: Sequence[Any] | None = None,
    seed: int = 0,
    draws: int = 2000,
    keep: float | None = KEEP,
    placebos: Mapping[str, str] | None = None,
) -> Comparison:
    """Evaluate policies on the test events and compare them.

    Args:
        log: the log to evaluate on.
        policies: by row name: what `fit_recommender` or `align` returned, a checkpoint, a run folder or a network. For
            rows that need no training (``popularity``, ``item_mean``, ``rerank``, ...) give None.
        reward: the training reward model: what `fit_reward` returned, or its path.
        start: the policy to which the KL is measured; None: the row ``start``, else the first row.
        judges: the selecting and the reporting judge (`fit_judge` on B1 and on B2); None: train them.
        seed: seed of the judges, and of the folder of the evaluations.
        draws: number of bootstrap draws.
        keep: the NDCG budget of rows that are tilted at serving (``rerank``, ``popularity_tilt``), like ``model.keep``
            of trained ones; None: no budget, at strength 1.
        placebos: rows that must gain nothing, each with the row that it copies (``{"asft_permuted": "asft"}``). Without
            one nothing is shipped.
    """
    require_policies(policies)
    require_positive("", {"draws": draws}, "draws")
    require_share(keep, "keep")
    seed, draws, keep = int(seed), int(draws), None if keep is None else float(keep)  # NumPy's too
    if (log.folder / RECORD).is_file():
        what = "is the folder of a chain, whose evaluations and table this would replace"
        remedy = "give the Log a folder of its own; runs here can be loaded from there too (load_policy, load_reward)"
        raise InputError(what, where=str(log.folder), remedy=remedy)
    stage = stage_of(log, "reward", seed=seed)
    data: RewardData = stage.datamodule()  # type: ignore[assignment]
    device = stage.bare_trainer().strategy.root_device
    paths = {name: checkpoint_of(one, "policy", log, data) for name, one in policies.items() if one is not None}
    base = base_checkpoints(log, data, policies, paths, start, reward, judges, seed)
    require_same_inputs(data, paths | {"start": base.start})
    trained = {name: path for name, path in paths.items() if (name, path) != ("start", base.start)}  # not twice
    runs = [MethodRun(name, trained.get(name), {}, row_of(name, keep=keep)) for name in policies]
    code = loaded_code({*vars(base).values(), *trained.values()})
    SeedEvaluation(log.folder, seed, runs, base, data, device=device, code=code).make()
    baselines = [name for name in Roles().baselines if name in policies] or [next(iter(paths))]
    roles = Roles(placebos=dict(placebos or {}), baselines=baselines)
    frame = RunsComparison(log.folder, draws, list(policies), [seed], roles).make()
    return decided(frame, list(policies), roles, base, data, seed)


def require_policies(policies: Mapping[str, Any]) -> None:
    """Refuse rows whose names cannot be used, and rows without a policy that need one."""
    remedy = 'give a dictionary with names without slashes: {"start": start, ...}'
    require_kind(policies, Mapping, "policies", remedy)
    for name in policies:
        if not isinstance(name, str) or not name.strip(". ") or {*name} & {*"/\\"}:
            raise InputError(f"{name!r} cannot name a row", where="policies", remedy=remedy)
        taken = name in {*UNTRAINED, *BASE_STAGES} - {"start"} or isinstance(row_of(name), RerankedRow)
        if policies[name] is not None and taken:
            raise InputError(f"{name!r} is the name of another row or stage", where="policies", remedy="choose another")
    unknown = [name for name, policy in policies.items() if policy is None and name not in UNTRAINED]
    if unknown or all(policy is None for policy in policies.values()):
        what = f"{unknown[0]!r} has no policy" if unknown else "there is no policy to compare"
        raise InputError(what, where="policies", remedy=f"give one; these need none: {', '.join(UNTRAINED)}")


def base_checkpoints(
    log: Log,
    data: RewardData,
    policies: Mapping[str, Any],
    paths: Mapping[str, Path],
    start: Any,
    reward: Any,
    judges: Sequence[Any] | None,
    seed: int,
) -> BaseCheckpoints:
    """Checkpoints of the start and of the reward models; trains judges if none are given."""
    if start is None and "start" in policies and "start" not in paths:
        raise InputError("the row 'start' has no policy", where="policies", remedy="give it one, or start=")
    if judges is not None and (not isinstance(judges, Sequence) or len(judges) != 2):
        remedy = "give [fit_judge(log, 'B1'), fit_judge(log, 'B2')], or None"
        raise InputError("must be a list of two judges", where="judges", remedy=remedy)
    given = None if start is None else checkpoint_of(start, "policy", log, data)
    first = given or paths.get("start", next(iter(paths.values())))
    select, report = judges or [fit_judge(log, users, seed=seed) for users in ("B1", "B2")]
    return BaseCheckpoints(first, *(checkpoint_of(one, "reward", log, data) for one in (reward, select, report)))


def require_same_inputs(data: RewardData, paths: Mapping[str, Path]) -> None:
    """Refuse policies that were trained with another `request_time`, or with rewards that the data do not have."""
    here = "known" if data.know_request else "last_event"
    for name, path in paths.items():
        if (read := data_settings(path).get("request_time", here)) != here:
            remedy = f"give the Log request_time={read!r}, or leave {name} out"
            raise InputError(f"{name} was trained with request_time: {read}", where="policies", remedy=remedy)
        require_rewards(path, data)


def loaded_code(paths: set[Path]) -> str:
    """Digest of the code of checkpoints' classes, if it is loaded: reading a checkpoint imports nothing."""
    recipes = [read_checkpoint(path).get("recipes", {}) for path in paths]
    return code_digest([{"class_path": one} for one in class_paths(recipes) if one.rpartition(".")[0] in sys.modules])


def decided(
    frame: pl.DataFrame, methods: list[str], roles: Roles, base: BaseCheckpoints, data: RewardData, seed: int
) -> Comparison:
    """A comparison, with the decision and what it needs: trust of the judges, and the check of the log."""
    known = {"reward": base.reward, "judge_report": base.judge_report}
    trust = {stage: {str(seed): said} for stage, path in known.items() if (said := read_trust(path.parents[1]))}
    sections = audit_log(data)
    check = {"verdict": str(verdict(sections, data.log_.time_unit)), **sections}
    judged = better_than_chance(trust.get("judge_report", {}))
    test, validation = (ComparisonTable(frame, roles, split, judged) for split in EVALUATION_SPLITS)
    return Comparison(frame, methods, roles, decide(test, validation, trust, check), trust)


def compare_rewards(log: Log, rewards: Mapping[str, Any] | None = None, *, against: str | None = None) -> pl.DataFrame:
    """Compare candidate rewards on training and validation events, as `recalign rewards` does (docs/rewards.md).

    Args:
        log: the log; its own reward is a candidate too.
        rewards: the candidates by name, each an expression over the log's columns, or its settings:
            ``{"reward": "seconds", "relative_to": {"column": "length"}}``.
        against: a numeric column that each is correlated with, such as a video's duration; None: the one that a
            candidate is relative to, else that of ``high``, else none.

    Returns:
        One row per figure: ``reward``, ``figure``, ``other`` (the judge, a correlation's second reward, or the column),
        ``value``, and ``ci_low`` and ``ci_high`` if it has an interval.
    """
    rewards = {} if rewards is None else rewards
    require_kind(rewards, Mapping, "rewards", 'give a dictionary, such as {"clicks": "clicked"}')
    return compare_log_rewards(data_of(log, "recommender"), rewards, against)
