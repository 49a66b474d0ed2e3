"""The report's section on reward models: verdicts, the averages that they must beat, and where they err."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
    """What the page shows of ``trust.json`` by stage and seed; without any, ``seeds`` is empty.

    Figures are means over seeds, and so are the ends of their intervals, which are over users.
    """
    reports = trust["reward"]
    parts = [_judged(report) for report in reports.values()]
    rows = [(label, parts, name) for name, label in NAMES.items()]
    rows += [(label, [_judged(report) for report in trust[stage].values()], "model") for stage, label in JUDGES.items()]
    calibration = [part["calibration"]["bins"] for part in parts]
    spread = [part["spread"]["bins"] for part in parts if part["spread"]]
    drawn = [
        _lines(calibration, "predicted", "observed", "predictions in tenths", diagonal=True),
        _lines(spread, "spread", "rmse", "is it right to be unsure?"),
    ]
    return {
        "seeds": list(reports),
        "verdicts": verdicts(reports),
        "columns": FIGURES,
        "table": [
            (label, [_cell([part["table"][name][figure] for part in each]) for figure in FIGURES])
            for label, each, name in rows
            if each
        ],
        "follows": (
            ["what follows", *(f"seed {seed}" for seed in reports)],
            [[name, *(figure(report) for report in reports.values())] for name, figure in FOLLOWS.items()],
        ),
        "groups": list(_groups(parts[0])) if parts else [],
        "plots": [plot for plot in drawn if plot],
    }


def verdicts(reports: Reports) -> list[tuple[list[str], str, str]]:
    """Seeds, their verdict, and what it implies."""
    said: dict[tuple[str, str], list[str]] = {}
    for seed, report in reports.items():
        said.setdefault((report["verdict"].replace("_", " "), report["implication"]), []).append(seed)
    return [(seeds, verdict, implication) for (verdict, implication), seeds in said.items()]


def _judged(report: dict[str, Any]) -> dict[str, Any]:
    """The part that the verdict is about."""
    return report[report["judged_on"]]


def _cell(estimates: list[list[float | None]]) -> tuple[str, str]:
    """A figure and its interval."""
    if any(value is None for estimate in estimates for value in estimate):
        return "–", ""
    value, low, high = np.mean(np.array(estimates, dtype=float), axis=0)
    return f"{value:.3f}", f"{low:.3f} – {high:.3f}"


KINDS = {"repeats": "repeated events", "floor": "at most"}
FOLLOWS: dict[str, Callable[[dict[str, Any]], str]] = {
    "pairwise is measured on": lambda report: report.get("ordered_on") or "–",
    "reliability (R2, at least 0)": lambda report: f"{report['reliability']:.3f}",
    "recommended temperature, in sd of the reward": lambda report: (
        f"{report['recommended']['temperature']:g} (ESS {report['recommended']['ess']:.0%})"
    ),
    "noise of a reward": lambda report: f"{report['noise']['sd']:.3f} ({KINDS[report['noise']['source']]})",
    "calibration error, in the reward's unit": lambda report: f"{_judged(report)['calibration']['error']:.3f}",
}
"""What follows from the verdict, for one seed."""


def _groups(part: dict[str, Any]) -> Iterator[list[str]]:
    """Kind of group, group, events, RMSE, that of the best average, difference and interval."""
    for kind, rows in part["by"].items():
        for row in rows:
            errors = [f"{row[name]:.3f}" for name in ("rmse", f"rmse_{part['best_average']}")]
            difference, interval = _cell([row["difference"]])
            yield [kind, str(row["group"]), f"{row['events']:,}", *errors, f"{difference} ({interval})"]


def _lines(bins: list[list[dict[str, float]]], x: str, y: str, title: str, diagonal: bool = False) -> Markup | None:
    """A line for each seed; None without any."""

    def draw(figure: Figure, axes: Axes) -> None:
        if diagonal:
            plots.diagonal(axes)
        for rows in bins:
            points = [row[x] for row in rows], [row[y] for row in rows]
            axes.plot(*points, "o-", color=plots.ACCENT, markeredgecolor=plots.CARD, markersize=5, lw=1, alpha=0.8)
        plots.finish(axes, title, x, y)

    return plots.drawn(f"{title}: {y} by {x}", 3.2, draw) if bins else None
