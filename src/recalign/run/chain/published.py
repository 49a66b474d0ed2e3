"""Log a chain's result to W&B as one run, in the group of its stages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from recalign.evaluation.comparison_table import ComparisonTable
from recalign.evaluation.page import MAIN, plot_sections
from recalign.evaluation.selection import SEARCH
from recalign.evaluation.sources import Sources
from recalign.files import sha256
from recalign.run.stage.wandb_log import wandb_log, wandb_name


def publish(folder: Path, page: Path, logger: Any, sources: Sources, searched: bool = False) -> None:
    """Log a chain's comparison, decision, trust, plots, examples and report.

    The id of the run is the report's digest: a result that has been logged is not logged again.

    Args:
        folder: of the chain.
        page: its report.
        logger: ``trainer.logger`` of its stages. False logs nothing.
        sources: what the report is made of.
        searched: whether the chain searched; if not, a `search.csv` is of an earlier one.
    """
    number = sha256(page)[:8]
    if logger is False or any(folder.glob(f"wandb/*-{number}")):
        return
    own: dict[str, Any] = {"id": number, "group": folder.name, "job_type": "chain", "name": folder.name}
    log = wandb_log(folder, **own)
    if log:
        log.use(partial(_log, folder=folder, page=page, sources=sources, searched=searched))
        log.finish()


def _log(run: Any, folder: Path, page: Path, sources: Sources, searched: bool = False) -> None:
    import wandb

    test = sources.table()
    run.summary.update(_summary(test, sources))
    html = page.read_text(encoding="utf-8")
    shown: dict[str, Any] = {"comparison": _comparison(test), "examples": _examples(sources)}
    if searched:
        trials = pl.read_csv(folder / SEARCH, glob=False)
        columns = list[str | int](trials.columns)
        shown["search"] = wandb.Table(columns=columns, data=[list(row) for row in trials.rows()])
    style = html[html.index("<style>") : html.index("</style>")] + "</style>"  # plots have the page's colours
    for title, _, drawn in plot_sections(sources):
        section = re.sub(r"\W+", "-", title.lower()).strip("-")
        for number, plot in enumerate(drawn, 1):
            shown[f"plots/{section}/{number}"] = wandb.Html(style + str(plot), inject=False)
    run.log({**shown, "report": wandb.Html(html, inject=False)})
    made_from = {f"{one['stage']}/seed-{one['seed']}": one["digests"] for one in sources.manifests}
    artifact = wandb.Artifact(wandb_name(f"{folder.name}-report"), type="report", metadata={"checkpoints": made_from})
    for file in (page, *(folder / name for name in ("comparison.csv", "check.json", *[SEARCH] * searched))):
        if file.is_file():
            artifact.add_file(str(file))
    run.log_artifact(artifact)


def _summary(test: ComparisonTable, sources: Sources) -> dict[str, Any]:
    """The decision, the trust verdicts, and the test's main figures as ``test/<metric>/<method>``."""
    said: dict[str, Any] = {"check/verdict": sources.check.get("verdict")}
    for stage, reports in sources.trust.items():
        said |= {f"trust/{stage}/seed-{seed}": report["verdict"] for seed, report in reports.items()}
    if decision := sources.decision:
        said |= {"decision/word": decision.word, "decision/policy": decision.policy}
        said |= {"decision/because": " ".join(decision.because), "decision/next": " ".join(decision.would_decide)}
    for metric in MAIN:
        said |= {f"test/{metric}/{method}": cell.value for method, cell in test.column(metric).items()}
    return said


def _comparison(test: ComparisonTable) -> Any:
    """A row a method: the main figures of the test, each with the ends of its 95 % interval."""
    import wandb

    metrics = [metric for metric in MAIN if metric in test.metrics]
    columns: list[str | int] = [
        "method",
        *(name for metric in metrics for name in (metric, f"{metric} low", f"{metric} high")),
    ]
    missing = (None, None, None)
    rows = [[m, *(end for metric in metrics for end in test.get(m, metric) or missing)] for m in test.methods]
    return wandb.Table(columns=columns, data=rows)


def _examples(sources: Sources) -> Any:
    """Users of the test: what they had met, with rewards, and what `start` and the aligned policy show them."""
    import wandb

    rows = [
        [before["user"], _history(before["history"]), "\n".join(before["shown"]), "\n".join(after["shown"])]
        for before, after in zip(*sources.examples, strict=True)
    ]
    return wandb.Table(columns=["user", "history", "before", "after"], data=rows)


def _history(events: Iterable[Mapping[str, Any]]) -> str:
    return "\n".join(f"{one['title']} ({'–' if one['reward'] is None else one['reward']})" for one in events)
