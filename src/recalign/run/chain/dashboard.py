"""`recalign dashboard`: a workspace in Weights & Biases for all runs of a project, as code. An extra."""

from __future__ import annotations

import os
from typing import Any

from recalign.errors import InputError
from recalign.evaluation.comparison import ALL, HIGH, VALUE
from recalign.evaluation.rows import UNTRAINED
from recalign.evaluation.selection import SELECT
from recalign.run import configs
from recalign.run.stage.wandb_log import PROJECT

NAME = "recalign"
STEP = "trainer/global_step"
LINES = {
    "1. Recommender": ("train/loss", "rank/nll", f"rank/{ALL}", f"rank/{HIGH}", "train/lr", "train/grad_norm"),
    "2. Reward model": ("reward/rmse", "reward/r2", "reward/mae"),
    "3. Post-training": (
        *("policy/kl", "policy/entropy", "policy/ndcg_retained", "policy/alpha", "advantage/ess", "advantage/clipped"),
        *("advantage/weights", "advantage/values", "pairs/accuracy", "pairs/margin", "sampled/reward", "value/td"),
    ),
    "Speed": ("speed/events_per_second", "speed/step_seconds", "speed/memory_gb"),
}
"""Sections with a panel a figure, by optimiser step."""


def dashboard(entity: str | None = None, project: str | None = None, dry_run: bool = False) -> None:
    """Make a workspace in Weights & Biases: the stages, the methods beside each other, over-optimisation, sweeps.

    Args:
        entity: whose project it is; null: your own.
        project: of the runs; null: that of WANDB_PROJECT, or recalign.
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
        remedy = f"see that {made.entity}/{project} exists and that you may write to it"
        raise InputError(f"W&B does not take the workspace ({error})", where="dashboard", remedy=remedy) from error


def workspace(entity: str, project: str) -> Any:
    """The workspace (`wandb_workspaces.workspaces.Workspace`), not saved."""
    try:
        from wandb_workspaces.workspaces import Section, Workspace, WorkspaceSettings
    except ImportError as error:
        remedy = "pip install 'recalign[dashboard]'"
        raise InputError("a dashboard needs wandb-workspaces", where="dashboard", remedy=remedy) from error
    from wandb_workspaces.reports import v2

    trained = [name.rpartition("/")[2] for name in configs.names() if name.startswith("posttrain/")]
    methods = (*UNTRAINED, "asft", "asft_rerank", *trained)

    def bars(figure: str) -> Any:
        return v2.BarPlot(title=figure, metrics=[f"test/{figure}/{method}" for method in methods])

    def plots(section: str, *numbers: int) -> list[str]:
        return [f"plots/{section}/{number}" for number in numbers]

    axes: list[Any] = [v2.Config(f"model.init_args.{name}") for name in ("temperature", "lr")]
    axes += [v2.SummaryMetric(name) for name in ("policy/ndcg_retained", SELECT)]
    panels: dict[str, list[Any]] = {
        name: [v2.LinePlot(x=STEP, y=[figure], title=figure) for figure in figures] for name, figures in LINES.items()
    }
    panels["Methods"] = [  # the test's figures, from the run of a chain
        *(bars(figure) for figure in (VALUE, ALL, HIGH, "value/true@10")),
        *(v2.WeavePanelSummaryTable(table_name=name) for name in ("comparison", "examples")),
        v2.MediaBrowser(media_keys=[*plots("who-gains", 1, 2), *plots("what-it-costs", 1, 2)]),
        v2.MediaBrowser(media_keys=["report"]),
    ]
    panels["Over-optimisation"] = [  # what the reward model promises beside what judges see, and the distance
        v2.MediaBrowser(media_keys=plots("does-the-reward-model-fool-anybody", 1, 2, 3)),
        *(bars(figure) for figure in ("value/reward_model@10", VALUE, "policy/kl")),
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

    remedy = "run wandb login, or give --entity; --dry-run needs none"
    try:
        if wandb.login(prompt=False):
            return str(wandb.Api().default_entity)
    except wandb.Error as error:  # a key that is refused, or no network
        raise InputError(f"W&B does not know this account ({error})", where="dashboard", remedy=remedy) from error
    raise InputError("W&B has no account here", where="dashboard", remedy=remedy)
