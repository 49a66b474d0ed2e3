"""Log a chain's result to W&B as one run, in the group of its stages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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
    shown: dict[str, Any] = {"comparison": _table(_comparison(test)), "examples": _table(_examples(sources))}
    if searched:
        shown["search"] = _table(pl.read_csv(folder / SEARCH, glob=False).rows(named=True))
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


def _table(rows: Sequence[Mapping[str, Any]]) -> Any:
    import wandb

    return wandb.Table(columns=list[str | int](rows[0] if rows else ()), data=[list(row.values()) for row in rows])


def _comparison(test: ComparisonTable) -> list[dict[str, Any]]:
    """A row a method: the main figures of the test, each with the ends of its 95 % interval."""
    rows: list[dict[str, Any]] = [{"method": method} for method in test.methods]
    for row in rows:
        for metric in (metric for metric in MAIN if metric in test.metrics):
            ends = test.get(row["method"], metric) or (None, None, None)
            row |= dict(zip((metric, f"{metric} low", f"{metric} high"), ends, strict=False))
    return rows


def _examples(sources: Sources) -> list[dict[str, Any]]:
    """Users of the test: what they had met, with rewards, and what `start` and the aligned policy show them."""
    rows = []
    for before, after in zip(*sources.examples, strict=True):
        rewards = ("–" if one["reward"] is None else one["reward"] for one in before["history"])
        history = [f"{one['title']} ({reward})" for one, reward in zip(before["history"], rewards, strict=True)]
        texts = {"history": history, "before": before["shown"], "after": after["shown"]}
        rows.append({"user": before["user"], **{name: "\n".join(lines) for name, lines in texts.items()}})
    return rows
