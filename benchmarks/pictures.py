"""Draw the pictures of README.md and docs/ into docs/pictures, and print README's table.

    python -m benchmarks.pictures

A picture a log (`LOGS`) and the table show rows of benchmarks/methods/rows.csv; run this again when they are new.
`growth.svg` shows rows of scale.csv and preprocessing.csv; a panel without rows is left out. The other pictures of
docs/pictures (stages, ray, direction) are sketches of ideas: they show nothing measured, and nothing makes them again.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from benchmarks.lib import FOLDER, save_picture
from recalign.evaluation.comparison import JUDGE_VALUE, NDCG_ALL, NDCG_HIGH
from recalign.files import digest

TRUE = "value/true@10"
ML_100K = ("ml-100k, not searched",)
LOGS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "methods": ("ML-100K, five seeds, value in standard deviations", ML_100K, JUDGE_VALUE),
    "ml-1m": ("ML-1M, three seeds, value in standard deviations", ("ml-1m, not searched",), JUDGE_VALUE),
    "kuairand-watch": (
        "KuaiRand excerpt by watch ratio, two seeds, value in standard deviations",
        ("kuairand-pure-excerpt, not searched",),
        JUDGE_VALUE,
    ),
    "kuairand-clicks": (
        "KuaiRand excerpt by clicks, three seeds, value in standard deviations",
        ("kuairand-pure-excerpt-clicked",),
        JUDGE_VALUE,
    ),
    "worlds": ("Five simulated worlds, value in standard deviations", ("simulated, not searched",), TRUE),
}
"""Pictures of logs: name -> title, logs of methods.csv (a row of the first that has it), which value."""
VALUES = {JUDGE_VALUE: "judges' value", TRUE: "true value"}
SHOWN = 0.9  # rows that retain less NDCG had no budget for it, and would set the scale
IN_README = ("start", "popularity_tilt", "reward_weighted", "asft", "rerank", "asft_rerank")
COLOURS = {"asft": "#c2410c", "start": "#111827", "rerank": "#1d4ed8"}
GREY = "#6b7280"
PALE = "#9ca3af"
STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "recalign", "font.size": 9, "font.family": "sans-serif"}
ENDS = ("mean", "ci_low", "ci_high")
GROWTH = {
    "events of a log, millions": {
        "read whole": r"random-(\d+)M / recalign / whole_s",
        "recalign prepare": r"random-(\d+)M / recalign / prepare_s",
    },
    "items": {
        "a step, full softmax": r"([\d,]+) items / full / seconds",
        "a step, 512 negatives": r"([\d,]+) items / sampled 512 / seconds",
        "rank for 1,000 users": r"([\d,]+) items / rank / seconds",
    },
    "users ranked for": {"10,000 items": r"10,000 items / users (\d+) / seconds"},
    "events of a history": {"a step of 3,200 events": r"10,000 items / history (\d+) / seconds"},
    "processes": {"a step on ML-1M": r"ML-1M / processes (\d+) / seconds"},
}
"""Panels of `growth`, and the rows of each of their curves (`_points`)."""


def main() -> None:
    for name, (title, logs, value) in LOGS.items():
        methods(name, title, gains(logs, value), value)
    growth()
    print(markdown(levels(ML_100K)))


def levels(logs: tuple[str, ...]) -> pl.DataFrame:
    """A row a method: its name, the share of the start's NDCG@10 that it retains on the test, and its other figures."""
    found = _saved(logs).pivot("metric", index="row", values="mean", maintain_order=True)
    start = found.filter(pl.col("row") == "start")[NDCG_ALL].item()
    return found.with_columns(retained=pl.col(NDCG_ALL) / start)


def markdown(rows: pl.DataFrame) -> str:
    """README's table."""
    lines = ["| method | NDCG retained | high/ndcg@10 | judges' value (stars) |", "|---|---|---|---|"]
    figures = {row["row"]: row for row in rows.iter_rows(named=True)}
    for name in IN_README:
        row = figures[name]
        lines.append(f"| `{name}` | {row['retained']:.1%} | {row[NDCG_HIGH]:.3f} | {row[JUDGE_VALUE]:.2f} |")
    return "\n".join(lines)


def gains(logs: tuple[str, ...], value: str) -> pl.DataFrame:
    """What methods gain over the better of start and bc, ``mean ci_low ci_high``, from the least value to the highest.

    Rows are ``row metric mean ci_low ci_high``; that of ``all/ndcg@10`` is the share of NDCG retained.
    """
    saved, prefix = _saved(logs), "holm_best_baseline/"
    best = saved.filter(pl.col("metric") == NDCG_ALL, pl.col("row").is_in(["start", "bc"]))["mean"].max()
    rows = saved.filter(pl.col("metric").is_in([prefix + metric for metric in (value, NDCG_HIGH, NDCG_ALL)]))
    rows = rows.with_columns(pl.col("metric").str.strip_prefix(prefix)).select("row", "metric", *ENDS)
    of_ndcg = pl.col("metric") == NDCG_ALL
    rows = rows.with_columns(pl.when(of_ndcg).then(1 + pl.col(end) / best).otherwise(end).alias(end) for end in ENDS)
    far = rows.filter(pl.col("metric") == NDCG_ALL, pl.col("mean") < SHOWN)["row"].to_list()
    order = rows.filter(pl.col("metric") == value).sort("mean", "row").select("row")
    return order.join(rows, on="row", how="left", maintain_order="left_right").filter(~pl.col("row").is_in(far))


def _saved(logs: tuple[str, ...]) -> pl.DataFrame:
    """Rows of methods.csv; of a row that several logs have, the first counts."""
    saved = pl.read_csv(FOLDER / "methods/rows.csv", schema_overrides={"seeds": pl.String, "commit": pl.String})
    every = pl.concat([saved.filter(pl.col("log") == log) for log in logs])
    return every.unique(["row", "metric"], keep="first", maintain_order=True)


def methods(name: str, title: str, rows: pl.DataFrame, value: str) -> None:
    """A line a method, a panel a figure, each with its interval."""
    names = rows["row"].unique(maintain_order=True).to_list()
    panels = {value: f"gain in {VALUES[value]}", NDCG_HIGH: "gain in high/ndcg@10", NDCG_ALL: "NDCG@10 retained"}
    title = f"{title}: over the better of start and bc, with 95 % intervals"
    with _picture(name, (8.4, 1.1 + 0.19 * len(names)), digest(rows.to_dicts()), columns=3, title=title) as all_axes:
        for axes, (metric, label) in zip(all_axes, panels.items(), strict=True):
            own = {row["row"]: row for row in rows.filter(pl.col("metric") == metric).iter_rows(named=True)}
            level = float(metric == NDCG_ALL)  # of the better of start and bc, which has no row
            for height, method in enumerate(names):
                mean, low, high = (own.get(method, {}).get(end, level) for end in ENDS)
                axes.plot([low, high], [height, height], color=_colour(method), linewidth=1.4)
                axes.plot(mean, height, "o", color=_colour(method), markersize=4)
            axes.axvline(level, color=GREY, linewidth=0.6, linestyle=":")
            axes.set(xlabel=label, ylim=(-0.7, len(names) - 0.3), yticks=range(len(names)))
            axes.set_yticklabels(names if axes is all_axes[0] else [], fontsize=8)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.grid(axis="y", color="#e5e7eb", linewidth=0.5)
            axes.set_axisbelow(True)
            axes.tick_params(axis="y", length=0)
            axes.spines[["top", "right", "left"]].set_visible(False)
        for label, method in zip(all_axes[0].get_yticklabels(), names, strict=True):
            label.set_color(_colour(method))
        all_axes[2].xaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _colour(method: str) -> str:
    """Placebos are pale."""
    return PALE if method.endswith(("_permuted", "_random")) else COLOURS.get(method, GREY)


def growth() -> None:
    """Seconds against what grows, a panel each, on logarithmic axes."""
    found = {title: {label: _points(row) for label, row in rows.items()} for title, rows in GROWTH.items()}
    known = {title: {label: points for label, points in curves.items() if points} for title, curves in found.items()}
    panels = {title: curves for title, curves in known.items() if curves}
    with _picture("growth", (3.1 * len(panels), 3.2), note=digest(panels), columns=len(panels)) as all_axes:
        for axes, (title, curves) in zip(all_axes, panels.items(), strict=True):
            for (label, points), colour in zip(curves.items(), COLOURS.values(), strict=False):
                axes.plot(*zip(*points, strict=True), "o-", color=colour, label=label, markersize=4, linewidth=1)
            axes.set(xscale="log", yscale="log", xlabel=title, ylabel="seconds")
            axes.set_xticks(sorted({size for points in curves.values() for size, _ in points}))
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_minor_locator(NullLocator())
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False, fontsize=8)


def _points(row: str) -> list[tuple[float, float]]:
    """Size and seconds of the saved rows "log / row / metric" that match; the size is the pattern's only group."""
    saved = (pl.read_csv(FOLDER / f"scale/{name}.csv", infer_schema=False) for name in ("preprocessing", "rows"))
    named = pl.concat_str("log", "row", "metric", separator=" / ").str.extract(f"^{row}$").str.replace_all(",", "")
    rows = pl.concat([one.select(size=named.cast(pl.Float64), mean=pl.col("mean").cast(pl.Float64)) for one in saved])
    return rows.drop_nulls().sort("size").rows()


@contextmanager
def _picture(
    name: str, size: tuple[float, float], note: str = "", columns: int | None = None, title: str | None = None
) -> Iterator[Any]:
    """An empty picture, or several beside each other, saved when drawn; ``note`` goes into the metadata."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained", facecolor="white")
        if title:
            figure.suptitle(title, fontsize=9)
        yield figure.subplots() if columns is None else figure.subplots(1, columns, squeeze=False)[0]
        svg = io.StringIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Title": name, "Description": note})
    save_picture(svg.getvalue(), name)


if __name__ == "__main__":
    main()
