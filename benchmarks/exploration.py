"""What lists that are drawn by chance lose against ranked ones, by temperature, fixed places and share of the requests.

    recalign chain ml-100k && recalign export runs/ml-100k/asft/seed-0
    python benchmarks/exploration.py runs/ml-100k/asft/seed-0

Every validation event is asked for as a request (`recalign.serve.export.exploration`). Errors are those of the paired
difference, each user's events together; intervals are 1.96 of them. Of a share of the requests it is that share.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import matplotlib
import polars as pl
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parent))
from tables import commit, frame, save, save_picture

from recalign.run.stage.opened import opened
from recalign.serve.export.exploration import Cost, costs, judge_of
from recalign.serve.server import Bundle

SHARES = (0.05, 0.2, 1.0)


def rows_of(log: str, name: str, fixed: int, cost: Cost, share: float) -> list[tuple]:
    """What a share loses, as lines of results."""
    row, rest = f"{name}, {fixed} fixed, temperature {cost.temperature:g}, share {share:g}", ("0", commit())
    lost = {"ndcg lost": (cost.lost, cost.error)}
    if cost.value_lost is not None and cost.value_error is not None:
        lost["value lost"] = cost.value_lost, cost.value_error
    return [
        (log, row, metric, share * x, None, share * (x - 1.96 * error), share * (x + 1.96 * error), *rest)
        for metric, (x, error) in lost.items()
    ]


def picture(found: dict[int, list[Cost]], title: str) -> str:
    """Loss by temperature, a line a number of fixed places. Returns: SVG."""
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "recalign", "font.size": 9}):
        valued = all(one.value_lost is not None for all_of in found.values() for one in all_of)
        figure = Figure(figsize=(7, 2.8), layout="constrained")
        figure.suptitle(title)
        for place, (label, lost, error) in enumerate(
            [("NDCG@10 lost", "lost", "error"), ("judges' value lost", "value_lost", "value_error")][: 1 + valued]
        ):
            axes = figure.add_subplot(1, 1 + valued, place + 1, xscale="log", xlabel="temperature", ylabel=label)
            axes.axhline(0, color="#9ca3af", linewidth=0.8)
            for fixed, own in found.items():
                spread = [1.96 * getattr(one, error) for one in own]
                heights = [getattr(one, lost) for one in own]
                axes.errorbar([one.temperature for one in own], heights, spread, marker=".", label=f"{fixed} fixed")
            axes.legend(frameon=False)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def main() -> None:
    """Measure what the words ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder with a bundle")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.25, 0.5, 1.0, 2.0, 4.0])
    parser.add_argument("--fixed", type=int, nargs="+", default=[0, 3])
    given = parser.parse_args()
    made, bundle = opened(given.run), Bundle(given.run / "bundles")
    judge = judge_of(made)
    found = {fixed: costs(made.data, bundle, given.temperatures, judge, fixed) for fixed in given.fixed}
    lines = [
        line
        for fixed, own in found.items()
        for one in own
        for share in SHARES
        for line in rows_of(bundle.about.log, made.row, fixed, one, share)
    ]
    table: pl.DataFrame = frame(lines)
    print(table.select("row", "metric", "mean", "ci_low", "ci_high"))
    print(save(table, "exploration", "log", "row"))
    print(save_picture(picture(found, f"{bundle.about.name}: lists drawn against ranked ones"), "exploration"))


if __name__ == "__main__":
    main()
