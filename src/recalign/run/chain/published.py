"""Weights & Biases: a chain's result as one run in the group of its stages, and `recalign dashboard`, a workspace."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from recalign.errors import InputError
from recalign.evaluation.comparison import JUDGE_VALUE, NDCG_ALL, NDCG_HIGH
from recalign.evaluation.comparison_table import ComparisonTable
from recalign.evaluation.page import MAIN
from recalign.evaluation.rows import UNTRAINED
from recalign.evaluation.selection import SEARCH, SELECT
from recalign.evaluation.sources import Sources
from recalign.files import sha256
from recalign.run import configs
from recalign.run.stage.loggers import PROJECT, wandb_log, wandb_name


def publish(folder: Path, page: Path, logger: Any, sources: Sources, searched: bool = False) -> None:
    """Log a chain's comparison, decision, trust, examples and report.

    The id of the run is the report's digest: a result that has been logged is not logged again.

    Args:
        folder: of the chain.
        page: its report.
        logger: ``trainer.logger`` of its stages. False logs nothing.
        sources: what the report is made of.
        searched: whether the chain searched settings; if not, a `search.csv` is of an earlier run.
    """
    number = sha256(page)[:8]
    if logger is False or any(folder.glob(f"wandb/*-{number}")):
        return
    if log := wandb_log(folder, id=number, group=folder.name, job_type="chain", name=folder.name):
        log.use(partial(_log, folder=folder, page=page, sources=sources, searched=searched))
        log.finish()


def _log(run: Any, folder: Path, page: Path, sources: Sources, searched: bool = False) -> None:
    import wandb

    test = sources.table()
    run.summary.update(_summary(test, sources))
    tables = {"comparison": _comparison(test), "examples": _examples(sources)}
    if searched:
        tables["search"] = pl.read_csv(folder / SEARCH, glob=False).rows(named=True)
    shown: dict[str, Any] = {"report": wandb.Html(page.read_text(encoding="utf-8"), inject=False)}
    for name, rows in tables.items():
        shown[name] = wandb.Table(
            columns=list[str | int](rows[0] if rows else ()), data=[list(row.values()) for row in rows]
        )
    run.log(shown)
    made_from = {f"{one['stage']}/seed-{one['seed']}": one["digests"] for one in sources.manifests}
    artifact = wandb.Artifact(wandb_name(f"{folder.name}-report"), type="report", metadata={"checkpoints": made_from})
    for file in (page, *(folder / name for name in ("comparison.csv", "check.json", *[SEARCH] * searched))):
        if file.is_file():
            artifact.add_file(str(file))
    run.log_artifact(artifact)


def _summary(test: ComparisonTable, sources: Sources) -> dict[str, Any]:
    said: dict[str, Any] = {"check/verdict": sources.check.get("verdict")}
    for stage, reports in sources.trust.items():
        said |= {f"trust/{stage}/seed-{seed}": report["verdict"] for seed, report in reports.items()}
    if decision := sources.decision:
        said |= {"decision/word": decision.outcome.text, "decision/policy": decision.policy}
        said |= {"decision/because": " ".join(decision.reasons), "decision/next": " ".join(decision.next_steps)}
    for metric in MAIN:
        said |= {f"test/{metric}/{method}": cell.value for method, cell in test.column(metric).items()}
    return said


def _comparison(test: ComparisonTable) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"method": method} for method in test.methods]
    for row in rows:
        for metric in (metric for metric in MAIN if metric in test.metrics):
            ends = test.get(row["method"], metric) or (None, None, None)
            row |= dict(zip((metric, f"{metric} low", f"{metric} high"), ends, strict=False))
    return rows


def _examples(sources: Sources) -> list[dict[str, Any]]:
    rows = []
    for before, after in zip(*sources.examples, strict=True):
        rewards = ("–" if one["reward"] is None else one["reward"] for one in before["history"])
        history = [f"{one['title']} ({reward})" for one, reward in zip(before["history"], rewards, strict=True)]
        texts = {"history": history, "before": before["shown"], "after": after["shown"]}
        rows.append({"user": before["user"], **{name: "\n".join(lines) for name, lines in texts.items()}})
    return rows


NAME = "recalign"
STEP = "trainer/global_step"
LINES = {
    "1. Recommender": (
        *("train/loss", "rank/nll", f"rank/{NDCG_ALL}", f"rank/{NDCG_HIGH}", "train/lr", "train/grad_norm"),
    ),
    "2. Reward model": ("reward/rmse", "reward/r2", "reward/mae"),
    "3. Post-training": (
        *("policy/kl", "policy/entropy", "policy/ndcg_retained", "policy/alpha", "advantage/ess", "advantage/clipped"),
        *("advantage/weights", "advantage/values", "pairs/accuracy", "pairs/margin", "sampled/reward", "value/td"),
    ),
    "Speed": ("speed/events_per_second", "speed/step_seconds", "speed/memory_gb"),
}
"""Sections with one panel per figure, by optimiser step."""


def dashboard(entity: str | None = None, project: str | None = None, dry_run: bool = False) -> None:
    """Make a workspace in Weights & Biases: the stages, the methods beside each other, over-optimisation, sweeps.

    Args:
        entity: whose project it is; null: your own.
        project: W&B project of the runs; null: WANDB_PROJECT, else recalign.
        dry_run: only list the panels.
    """
    project = project or os.environ.get("WANDB_PROJECT", PROJECT)
    made = workspace(entity or (NAME if dry_run else _own_entity()), project)
    if dry_run:
        for section in made.sections:
            print(section.name)
            for panel in section.panels:
                names = ("title", "media_keys", "columns", "table_name", "with_respect_to", "y")
                print(f"  {type(panel).__name__:<26}{next(filter(None, (getattr(panel, n, None) for n in names)), '')}")
        return
    try:
        print(made.save().url)
    except Exception as error:  # of wandb, its server or the network
        remedy = f"check that {made.entity}/{project} exists and that you may write to it"
        raise InputError(f"W&B refused the workspace ({error})", where="dashboard", remedy=remedy) from error


def workspace(entity: str, project: str) -> Any:
    """The workspace (`wandb_workspaces.workspaces.Workspace`), not saved."""
    try:
        from wandb_workspaces.workspaces import Section, Workspace, WorkspaceSettings
    except ImportError as error:
        remedy = "pip install 'recalign[dashboard]'"
        raise InputError("a dashboard needs wandb-workspaces", where="dashboard", remedy=remedy) from error
    from wandb_workspaces.reports import v2

    trained = [name.rpartition("/")[2] for name in configs.names() if name.startswith("methods/")]
    methods = (*UNTRAINED, *trained, "asft_rerank")

    def bars(figure: str) -> Any:
        return v2.BarPlot(title=figure, metrics=[f"test/{figure}/{method}" for method in methods])

    axes: list[Any] = [v2.Config(f"model.init_args.{name}") for name in ("temperature", "lr")]
    axes += [v2.SummaryMetric(name) for name in ("policy/ndcg_retained", SELECT)]
    panels: dict[str, list[Any]] = {
        name: [v2.LinePlot(x=STEP, y=[figure], title=figure) for figure in figures] for name, figures in LINES.items()
    }
    panels["Methods"] = [  # test figures, from a chain's W&B run
        *(bars(figure) for figure in (JUDGE_VALUE, NDCG_ALL, NDCG_HIGH, "value/true@10")),
        *(v2.WeavePanelSummaryTable(table_name=name) for name in ("comparison", "examples")),
        v2.MediaBrowser(media_keys=["report"]),
    ]
    panels["Over-optimisation"] = [  # the value by the reward model and by judges, and the KL
        *(bars(figure) for figure in ("value/reward_model@10", JUDGE_VALUE, "policy/kl")),
        v2.ScatterPlot(x="policy/kl", y=SELECT, log_x=True),
    ]
    panels["Sweep"] = [
        v2.ParallelCoordinatesPlot(columns=[v2.ParallelCoordinatesPlotColumn(metric=axis) for axis in axes]),
        v2.ParameterImportancePlot(with_respect_to=SELECT),
        v2.ScatterPlot(x="policy/ndcg_retained", y=SELECT),
    ]
    panels["Speed"] = panels.pop("Speed")  # at the end
    sections = [Section(name=name, panels=own, is_open=name != "Speed") for name, own in panels.items()]
    settings = WorkspaceSettings(x_axis=STEP)
    return Workspace(entity=entity, project=project, name=NAME, sections=sections, settings=settings)


def _own_entity() -> str:
    import wandb

    reason: object = "nobody is logged in"
    try:
        if wandb.login(prompt=False):
            return str(wandb.Api().default_entity)
    except wandb.Error as error:  # a key that is refused, or no network
        reason = error
    remedy = "run wandb login, or give --entity; --dry-run needs none"
    raise InputError(f"no W&B account can be used here ({reason})", where="dashboard", remedy=remedy)
