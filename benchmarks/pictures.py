"""What the benchmark scripts draw."""

from __future__ import annotations

import io
from typing import Any

import matplotlib
import numpy as np
from forms import Figures
from matplotlib.figure import Figure

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "recalign",
    "font.size": 9,
    "axes.grid": True,
    "grid.linewidth": 0.4,
}
FORM = "asft, "  # forms of A-SFT beside its own: in the table alone


def frontier(ways: dict[str, dict[float, list[Figures]]], value: str, text: str) -> str:
    """Value against the share of ``all/ndcg@10`` that is kept, and against the KL to the start, as SVG; a line each.

    Args:
        ways: each family's figures in every world, by reach, as `rays.paths` gives them.
        value: which metric.
        text: what to call it.
    """
    drawn = {name: way for name, way in ways.items() if not name.startswith(FORM)}
    colours = matplotlib.colormaps["tab20"](np.linspace(0, 1, len(drawn)))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.6), layout="constrained", facecolor="white")
        panels = figure.subplots(1, 2, sharey=True)
        for (name, way), colour in zip(drawn.items(), colours, strict=True):
            means = {metric: _means(way, metric) for metric in (value, "kept", "policy/kl")}
            own = {"asft": ("black", 2.2), "rerank": ("crimson", 2.2)}
            paint, width = own.get(name, (colour, 1.0))
            for panel, across in zip(panels, ("kept", "policy/kl"), strict=True):
                panel.plot(means[across], means[value], "o-", color=paint, linewidth=width, markersize=3, label=name)
        panels[0].set(xlabel="kept of all/ndcg@10", ylabel=f"{text} of the ten shown", xlim=(0.8, None))
        panels[0].axvline(0.97, color="grey", linewidth=0.8, linestyle="--")
        panels[1].set(xlabel="KL to the start, nats", xlim=(0, 0.5))
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8)
        svg = io.StringIO()
        figure.savefig(svg, format="svg", metadata={"Date": None})
    return svg.getvalue()


def _means(way: dict[float, list[Figures]], metric: str) -> list[float]:
    """The mean over worlds at each reach."""
    return [sum(world[metric] for world in worlds) / len(worlds) for worlds in way.values()]
