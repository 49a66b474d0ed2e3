"""The report's plots, as inline SVG whose colours and fonts are the page's own.

Every colour here stands for one of the page's CSS variables, which `drawn` puts in its place, so that plots follow
light and dark pages. Text stays text: it can be selected, and is set in the page's font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recalign.evaluation.comparison_table import ComparisonTable, Interval
from recalign.evaluation.roles import NON_LEARNED_BASELINES, Roles
from recalign.evaluation.rows import UNTRAINED

VARIABLES = ("ink", "soft", "line", "card", "accent", "baseline", "plain", "placebo", "shade")
COLOURS = [f"#{digit}0{digit}0{digit}0" for digit in range(1, 10)]
INK, SOFT, LINE, CARD, ACCENT, BASELINE, PLAIN, PLACEBO, SHADE = COLOURS
# sides of a point on which its name may stand, and the distance in points
SIDES = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)] * 2)
FAR = np.repeat([7, 16], 8)[:, None]
TICKS = 5  # at most so many on an axis of 5 inches, so that their labels stand apart
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "recalign",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.facecolor": "none",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
}


def forest(table: ComparisonTable, metric: str) -> Markup | None:
    """Each method's difference to the better baseline: 95 % interval, and a thin line for Holm's wider one.

    `NON_LEARNED_BASELINES` may be far off and do not set the axis range: their figure is then written at the edge.
    """
    differences = _finite(table, f"diff_best_baseline/{metric}")
    if not differences:
        return None
    rows = list(reversed(differences))

    def draw(figure: Figure, axes: Axes) -> None:
        inside = [differences[row] for row in rows if row not in NON_LEARNED_BASELINES] or list(differences.values())
        low, high = min(0, *(cell.low for cell in inside)), max(0, *(cell.high for cell in inside))
        margin = 0.12 * (high - low) or 1.0
        left, right = low - margin, high + margin
        axes.axvline(0, color=INK, linewidth=0.8)
        for y, method in enumerate(rows):
            cell, colour = differences[method], _colour(table.roles, method)
            if not left <= cell.value <= right:
                x, side, text = (left, "left", "← {:+.3f}") if cell.value < left else (right, "right", "{:+.3f} →")
                axes.text(x, y, text.format(cell.value), ha=side, color=colour, va="center", fontsize=8)
            else:
                holm = table.get(method, f"holm_best_baseline/{metric}") or cell
                axes.plot([holm.low, holm.high], [y, y], color=colour, linewidth=0.9)
                axes.plot([cell.low, cell.high], [y, y], color=colour, linewidth=3, solid_capstyle="round")
                axes.plot(cell.value, y, "o", color=colour, markeredgecolor=CARD, markersize=6.5)
        axes.set(xlim=(left, right), ylim=(-0.7, len(rows) - 0.3))
        axes.set_yticks(range(len(rows)), rows)
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", nbins=TICKS)
        unit = ", sd of the reward" if table.in_sd(f"diff_best_baseline/{metric}") else ""
        finish(axes, metric, f"difference to {table.better_baseline(metric)}{unit}", grid="x")

    return drawn(f"{metric}: difference of each method to the better baseline", 0.27 * len(rows) + 0.95, draw)


def scatter(
    table: ComparisonTable,
    x: str,
    y: str,
    title: str,
    decorate: Callable[[Axes], None] = lambda axes: None,
    log: bool = False,
) -> Markup | None:
    """Methods by the metrics x and y, with both intervals; `NON_LEARNED_BASELINES` are too far off to draw.

    Placebos have a colour and no name. ``decorate`` draws what lies behind the points; ``log`` makes x logarithmic from
    0.1 on (a KL spans decades).
    """
    across, up = _finite(table, x), _finite(table, y)
    shown = [method for method in across if method in up and method not in NON_LEARNED_BASELINES]
    points = {method: (across[method], up[method]) for method in shown}
    if len(points) < 2:
        return None
    colours = {method: _colour(table.roles, method) for method in points}

    def draw(figure: Figure, axes: Axes) -> None:
        for method, (of_x, of_y) in points.items():
            line: Any = {"color": colours[method], "linewidth": 0.9, "alpha": 0.6}
            axes.plot([of_x.low, of_x.high], [of_y.value, of_y.value], **line)
            axes.plot([of_x.value, of_x.value], [of_y.low, of_y.high], **line)
            size = 8 if method == table.roles.highlight else 6
            axes.plot(of_x.value, of_y.value, "o", color=colours[method], markeredgecolor=CARD, markersize=size)
        axes.margins(0.12)
        if log and max(of_x.value for of_x, _ in points.values()) > 0.1:
            axes.set_xscale("symlog", linthresh=0.1)
        else:
            axes.locator_params(axis="x", nbins=TICKS)
        decorate(axes)
        labels = []
        for metric in (x, y):
            gained = metric.removeprefix("diff_start/")
            unit = ", sd" if table.in_sd(metric) else ""
            labels.append(metric if gained == metric else f"{gained}, gain over start{unit}")
        finish(axes, title, *labels)
        named = {method: both for method, both in points.items() if method not in table.roles.placebos}
        spots = [(method, of_x.value, of_y.value) for method, (of_x, of_y) in named.items()]
        _label(figure, axes, spots, colours)

    return drawn(f"{title}: methods by {x} and {y}", 3.5, draw)


def cross(axes: Axes) -> None:
    """The line on which both figures are the same, and those on which either is 0."""
    axes.axline((0, 0), slope=1, color=SOFT, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.axhline(0, color=LINE, linewidth=0.8)
    axes.axvline(0, color=LINE, linewidth=0.8)


def below(limit: float) -> Callable[[Axes], None]:
    """Shade the area left of a limit."""

    def shade(axes: Axes) -> None:
        left, right = axes.get_xlim()
        axes.axvspan(left, limit, color=SHADE, linewidth=0, zorder=0)
        axes.set_xlim(left, right)

    return shade


def finish(axes: Axes, title: str, x: str, y: str = "", grid: Any = "both") -> None:
    """Title, labels and grid."""
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(axis=grid)


def _finite(table: ComparisonTable, metric: str) -> dict[str, Interval]:
    """The cells of a metric, without those of diverged runs (not finite)."""
    return {method: cell for method, cell in table.column(metric).items() if np.isfinite(cell).all()}


def _colour(roles: Roles, method: str) -> str:
    if method == roles.highlight:
        return ACCENT
    if method in roles.placebos:
        return PLACEBO
    return BASELINE if method in (*roles.baselines, *UNTRAINED) else PLAIN


def _label(figure: Figure, axes: Axes, points: Sequence[tuple[str, float, float]], colours: dict[str, str]) -> None:
    """Place each name where it overlaps least: eight places around the point, nearer first."""
    figure.draw_without_rendering()  # so that the layout is settled
    figure.set_layout_engine("none")  # and stays
    corner, limit = axes.bbox.min, axes.bbox.size
    spots = axes.transData.transform([(x, y) for _, x, y in points]) - corner
    taken = [np.concatenate([spot - 4, spot + 4]) for spot in spots]
    for (name, _, _), spot in zip(points, spots, strict=True):
        size = np.array([4.7 * len(name), 9.0])  # of a text of 8 points, in points
        low = spot + FAR * SIDES - (1 - SIDES) / 2 * size
        box = np.concatenate([low, low + size], axis=1)  # a row per place: left, bottom, right, top
        other = np.array(taken)
        over = np.minimum(box[:, None, 2:], other[:, 2:]) - np.maximum(box[:, None, :2], other[:, :2])
        hidden = over.clip(0).prod(axis=2).sum(axis=1)
        outside = np.maximum(-low, 0).sum(axis=1) + np.maximum(low + size - limit, 0).sum(axis=1)
        best = box[np.argmin(hidden + 50 * outside + FAR[:, 0])]
        taken.append(best)
        x, y = axes.transData.inverted().transform(best[:2] + corner)
        axes.text(x, y, name, fontsize=8, color=colours[name], va="bottom", zorder=5, in_layout=False)


def drawn(description: str, height: float, draw: Callable[[Figure, Axes], None]) -> Markup:
    """A plot of 5 inches by `height`, as an SVG element."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5, height), dpi=72, layout="constrained")
        draw(figure, figure.subplots())
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.S)
    for colour, name in zip(COLOURS, VARIABLES, strict=True):
        text = text.replace(colour, f"var(--{name})")
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1))
