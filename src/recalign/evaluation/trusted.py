"""The report's section on the reward models: their verdicts, their rivals, and where they err."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recalign.evaluation import plots
from recalign.reward.trust.measures import FIGURES

Reports = Mapping[str, dict[str, Any]]
NAMES = {
    "model": "reward model",
    "global": "mean of all",
    "user": "user's mean",
    "item": "item's mean",
    "user_item": "user and item mean",
    "ridge": "user + item, ridge",
    "factors": "matrix factorisation",
}


JUDGES = {"judge_select": "judges that select", "judge_report": "judges that report"}


def section(trust: Mapping[str, Reports]) -> dict[str, Any]:
    """What the page shows of ``trust.json`` of the reward model and the judges; without any, ``seeds`` is empty.

    Figures are means over seeds, and so are the ends of their intervals, which are over users.

    Args:
        trust: the reports by stage and seed.
    """
    reports, judges = trust["reward"], {label: trust[stage] for stage, label in JUDGES.items()}
    return {
        "seeds": list(reports),
        "verdicts": list(_verdicts(reports)),
        "columns": FIGURES,
        "table": [*_table(reports), *(_judge(label, each) for label, each in judges.items() if each)],
        "follows": list(_follows(reports)),
        "groups": list(_groups(reports)),
        "plots": [plot for plot in (_calibration(reports), _spread(reports)) if plot],
    }


def _judged(report: dict[str, Any]) -> dict[str, Any]:
    """The part that the verdict is about."""
    return report[report["judged_on"]]


def _verdicts(reports: Reports) -> Iterator[tuple[list[str], str, str]]:
    """Seeds, their verdict, and what it implies."""
    said: dict[tuple[str, str], list[str]] = {}
    for seed, report in reports.items():
        said.setdefault((report["verdict"].replace("_", " "), report["implication"]), []).append(seed)
    for (verdict, implication), seeds in said.items():
        yield seeds, verdict, implication


def _table(reports: Reports) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """A row a predictor: figure and interval."""
    parts = [_judged(report) for report in reports.values()]
    for name, label in NAMES.items() if parts else ():
        yield label, [_cell([part["table"][name][figure] for part in parts]) for figure in FIGURES]


def _judge(label: str, reports: Reports) -> tuple[str, list[tuple[str, str]]]:
    """The same row of a judge, on its own users."""
    rows = [_judged(report)["table"]["model"] for report in reports.values()]
    return label, [_cell([row[figure] for row in rows]) for figure in FIGURES]


def _cell(estimates: list[list[float | None]]) -> tuple[str, str]:
    if any(value is None for estimate in estimates for value in estimate):
        return "–", ""
    value, low, high = np.mean(np.array(estimates, dtype=float), axis=0)
    return f"{value:.3f}", f"{low:.3f} – {high:.3f}"


def _follows(reports: Reports) -> Iterator[tuple[str, list[str]]]:
    """What follows from the verdict, a column a seed."""
    kinds = {"repeats": "repeated events", "floor": "at most"}
    noise = [report["noise"] for report in reports.values()]
    yield "reliability (R2, at least 0)", [f"{report['reliability']:.3f}" for report in reports.values()]
    yield (
        "temperature of A-SFT, in sd of the reward",
        [f"{r['recommended']['temperature']:g} (ESS {r['recommended']['ess']:.0%})" for r in reports.values()],
    )
    yield "noise of a reward", [f"{one['sd']:.3f} ({kinds[one['source']]})" for one in noise]
    yield "λ of the published bound", [f"{report['theory']['lambda']:.1f}" for report in reports.values()]
    calibration = [_judged(report)["calibration"] for report in reports.values()]
    yield "calibration error, in the reward's unit", [f"{one['error']:.3f}" for one in calibration]


def _groups(reports: Reports) -> Iterator[tuple[str, str, str, str, str, str]]:
    """Of the first seed: kind of group, group, events, RMSE, that of the best average, difference and interval."""
    for report in list(reports.values())[:1]:
        part = _judged(report)
        for kind, rows in part["by"].items():
            for row in rows:
                figure, interval = _cell([row["difference"]])
                rmse, other = row["rmse"], row[f"rmse_{part['best_average']}"]
                yield (
                    kind,
                    str(row["group"]),
                    f"{row['events']:,}",
                    f"{rmse:.3f}",
                    f"{other:.3f}",
                    f"{figure} ({interval})",
                )


def _calibration(reports: Reports) -> Markup | None:
    bins = {seed: _judged(report)["calibration"]["bins"] for seed, report in reports.items()}

    def draw(figure: Figure, axes: Axes) -> None:
        plots.diagonal(axes, cross=False)
        _lines(axes, bins, "predicted", "observed", "predictions in tenths")

    return plots.drawn("predicted and observed rewards", 3.2, draw) if bins else None


def _spread(reports: Reports) -> Markup | None:
    spreads = {seed: _judged(report)["spread"] for seed, report in reports.items()}
    bins = {seed: spread["bins"] for seed, spread in spreads.items() if spread}

    def draw(figure: Figure, axes: Axes) -> None:
        _lines(axes, bins, "spread", "rmse", "is it right to be unsure?")

    return plots.drawn("the members' spread and the error", 3.2, draw) if bins else None


def _lines(axes: Axes, bins: Mapping[str, list[dict[str, float]]], x: str, y: str, title: str) -> None:
    for rows in bins.values():
        points = [row[x] for row in rows], [row[y] for row in rows]
        axes.plot(*points, "o-", color=plots.ACCENT, markeredgecolor=plots.CARD, markersize=5, linewidth=1, alpha=0.8)
    axes.grid()
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
