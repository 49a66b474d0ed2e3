"""Write `report.html`, a chain's page, from its `Sources`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import polars as pl

from recalign.evaluation import plots, trust_section
from recalign.evaluation.answer import ab_test, cards, limits
from recalign.evaluation.comparison import ALL, HIGH, VALUE
from recalign.evaluation.comparison_table import ComparisonTable, figure
from recalign.evaluation.decision import RULES
from recalign.evaluation.sources import Sources
from recalign.files import write_text
from recalign.recommender.interpolation import MIN_NDCG_RETAINED

MAIN = (
    *(ALL, HIGH, "high_users/ndcg@10", VALUE, "value/reward_model@10", "value/true@10"),
    *("value/true", "policy/kl", "policy/coverage@10", "policy/popularity@10"),
    *("tail/high/ndcg@10", "tail/value/judge@10", "cost/seconds"),
)
MEANINGS = {
    ALL: "NDCG@10 of the item that was really chosen, over the full catalogue, other items that the user had met left "
    "out. Imitating the log is rewarded here, its habits and trends included.",
    HIGH: "The same on the events that turned out well (a high reward). It selects on the outcome, so read it beside "
    "the others.",
    "high_users/ndcg@10": "The same on users whose mean reward in the test window is above the median.",
    VALUE: "Mean reward that independent judges expect of the ten unseen items shown. The judges learned from other "
    "users than the methods did.",
    "value/reward_model@10": "The same under the reward model that methods trained with: what they were told to like.",
    "gap/judge@10": "value/reward_model@10 less value/judge@10, event by event. Levels of raters are in it; what a "
    "method adds to the gap of start is over-optimisation.",
    "value/true@10": "The true mean reward of the ten items shown, known in a simulated log.",
    "value/true": "The true reward expected of an item drawn from the policy among unseen ones.",
    "policy/kl": "KL(policy || start), mean over test histories: how far training moved the policy.",
    "policy/entropy": "Entropy of the policy over the catalogue, in nats.",
    "policy/coverage@10": "Share of the catalogue that is shown to anybody.",
    "policy/popularity@10": "Mean popularity percentile of the items shown.",
    "tail/high/ndcg@10": "high/ndcg@10 on the test events whose item has fewer training events than the median target.",
    "tail/value/judge@10": "value/judge@10 of what is shown before these events.",
    "cost/seconds": "Training time of the method's own stage.",
}
ALL_VALIDATED = f"rank/{ALL}"
FILE = "report.html"
Plain = tuple[list[str], list[list[Any]]]
"""Heads and rows of a table."""
Section = tuple[str, str, list[Any]]
"""Title, what to see, and the plots, as inline SVG, without those whose figures are missing."""


def write_page(folder: Path, sources: Sources) -> Path:
    """Draw the page of a chain's folder. Returns its path."""
    table, validation, decision = sources.table(), sources.table("validation"), sources.decision
    text = Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["number"] = _number
    html = environment.from_string(text).render(
        vars(sources)
        | {
            "rules": RULES,
            "comparison": table,
            "cards": list(cards(decision, table, sources.trust)) if decision else [],
            "ab_test": ab_test(decision, table) if decision else None,
            "limits": limits(sources.trust),
            "table": _table(table),
            "validation": _table(validation),
            "seeds": _seed_table(sources.comparison, table),
            "examples": list(zip(*sources.examples, strict=False)),
            "plots": plot_sections(sources),
            "training": _training(sources),
            "trust": trust_section.section(sources.trust),
            "prior": _prior(sources.curves.get("recommender", {})),
            "ids": _ids(sources.tokens),
            "levels": _levels(sources.tokens),
            "codes": next(iter(sources.tokens.values()), {}).get("examples", []),
            "runs": _runs(sources.manifests),
            "left": _runs(sources.left),
            "meanings": {metric: text for metric, text in MEANINGS.items() if metric in table.metrics},
        }
    )
    write_text(folder / FILE, html + "\n")
    return folder / FILE


def plot_sections(sources: Sources) -> list[Section]:
    """The sections of the comparison and of the search that have plots."""
    table = sources.table()
    baseline = table.better_baseline(ALL)
    shade = plots.below(MIN_NDCG_RETAINED * table.column(ALL)[baseline].value) if baseline else lambda axes: None
    gains = [f"diff_start/value/{name}" for name in ("reward_model@10", "judge@10", "true@10")]
    sections = [
        _section(
            "Who gains",
            "Difference to the better baseline. Thick: 95 % interval. Thin: widened by Holm, for as many methods as "
            "are compared. Left of zero is a loss.",
            plots.forest(table, HIGH),
            plots.forest(table, VALUE),
        ),
        _section(
            "What it costs",
            "Up is better value. First against imitation: in the shade more than 5 % of all/ndcg@10 is lost. Then "
            "against the distance from the start. Placebos are pale and have no name.",
            plots.scatter(table, ALL, VALUE, "value and imitation", shade),
            plots.scatter(table, "policy/kl", VALUE, "value and distance", log=True),
        ),
        _section(
            "Does the reward model fool anybody?",
            "Gain over start under the training reward model, and under who did not train with it. Below the dashed "
            "line the training reward model promises more than others see: over-optimisation. The last plot shows that "
            "excess against the distance from the start.",
            plots.scatter(table, gains[0], gains[1], "promised and judged", plots.cross),
            plots.scatter(table, gains[1], gains[2], "judged and true", plots.cross),
            plots.scatter(table, "policy/kl", "diff_start/gap/judge@10", "over-optimisation", log=True),
        ),
    ]
    sections = sections[:-1] if table.apart else sections  # of two rewards no difference tells anything
    return [section for section in sections if section[2]]


def _section(title: str, text: str, *drawn: Any) -> Section:
    return title, text, [plot for plot in drawn if plot]


def _number(value: Any) -> str:
    """Any value of a JSON file, for a person."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(table: ComparisonTable) -> dict[str, Any]:
    """Columns, and for each method a row of cells or None."""
    columns = {metric: column for metric in MAIN if (column := table.column(metric))}
    best = {
        metric: max(column.items(), key=lambda one: one[1].value)[0]
        for metric, column in columns.items()
        if not metric.startswith(("policy/", "cost/"))  # where more is better
    }
    rows = {m: [_cell(table, m, metric, m == best.get(metric)) for metric in columns] for m in table.methods}
    return {"columns": list(columns), "rows": rows}


def _cell(table: ComparisonTable, method: str, metric: str, best: bool) -> dict[str, Any] | None:
    """A figure, its interval, its mark (1 better, -1 worse, else 0), whether it is the best, and its tooltip."""
    cell = table.get(method, metric)
    if cell is None:
        return None
    known = cell.low == cell.low and not metric.startswith("cost/")
    interval = f"{figure(metric, cell.low)} – {figure(metric, cell.high)}" if known else ""
    difference, p = (table.get(method, f"{kind}_best_baseline/{metric}") for kind in ("holm", "p"))
    more = difference and table.in_words(f"holm_best_baseline/{metric}", difference)
    hint = f"{more} against {table.better_baseline(metric)}, p = {p.value:.3f} (Holm)" if p else ""
    shown = {"value": cell.value, "figure": figure(metric, cell.value), "interval": interval, "hint": hint}
    return shown | {"mark": table.mark(method, metric), "best": best}


def _seed_table(frame: pl.DataFrame, table: ComparisonTable) -> Plain:
    """A row for each method and seed with the main metrics of the test, in the units of the table."""
    chosen = frame.filter(pl.col("split") == "test", pl.col("seed") != "all", pl.col("metric").is_in(MAIN))
    wide = chosen.pivot("metric", index=["method", "seed"], values="value", maintain_order=True)
    columns = [metric for metric in MAIN if metric in wide.columns]
    rows = [
        [row["method"], row["seed"], *("–" if row[c] is None else figure(c, row[c]) for c in columns)]
        for row in wide.iter_rows(named=True)
    ]
    return ["method", "seed", *columns], rows


def _runs(manifests: list[dict[str, Any]]) -> Plain:
    rows = [
        [one["stage"], one["seed"], one["status"], f"{one['seconds']:.1f}", one["started"][:19].replace("T", " ")]
        for one in manifests
    ]
    return ["stage", "seed", "status", "seconds", "started"], rows


def _prior(curves: dict[str, pl.DataFrame]) -> Plain:
    """What `CalibratePrior` chose for each seed, and its gain on validation."""
    names = ("rank/prior", "rank/prior/ndcg@10_without", "rank/prior/ndcg@10")
    found = {seed: frame.select(names).drop_nulls() for seed, frame in curves.items() if {*names} <= {*frame.columns}}
    rows = [[seed, *map(_number, own.row(-1))] for seed, own in found.items() if len(own)]
    return ["seed", "strength", "NDCG@10 without", "with"], rows


def _levels(tokens: dict[str, dict[str, Any]]) -> Plain:
    """The use of each level's codes."""
    names = ("size", "used_share", "entropy_nats", "of_nats", "largest")
    rows = [
        [seed, f"code_{number}", *(_number(level[name]) for name in names)]
        for seed, one in tokens.items()
        for number, level in enumerate(one["levels"])
    ]
    return [
        "seed",
        "level",
        "codes",
        "share in use",
        "entropy in nats",
        "largest possible entropy",
        "items of the fullest",
    ], rows


def _ids(tokens: dict[str, dict[str, Any]]) -> Plain:
    """What `recalign tokenize` said of each seed's semantic ids."""
    figures = ["items", "free", "reconstruction_error", "moved", "verdict"]
    rows = [
        [
            seed,
            one["vectors"],
            " x ".join(str(level["size"]) for level in one["levels"]),
            *(_number(one[name]) for name in figures),
            *(_number(one["nearest"][name]) for name in ("unique_share", "largest_bucket")),
        ]
        for seed, one in tokens.items()
    ]
    heads = [name.replace("_", " ") for name in figures]
    return ["seed", "vectors", "sizes", *heads, "share alone", "fullest"], rows


def _training(sources: Sources) -> Section:
    base = {name: sources.curves.get(name, {}) for name in ("recommender", "reward")}
    methods = {name: runs for name, runs in sources.curves.items() if name not in base}
    return _section(
        "Training",
        "Figures of each stage by step, a line a seed. In post-training, epochs that may be handed over are validated "
        "at their place on the interpolation path; other epochs, and the distance, are those of the trained weights.",
        plots.curves(base, ALL_VALIDATED, sources.roles, "the cloned policy on validation"),
        plots.curves(base, "reward/rmse", sources.roles, "the reward model on validation"),
        plots.curves(methods, ALL_VALIDATED, sources.roles, "post-training on validation"),
        plots.curves(methods, "policy/kl", sources.roles, "distance from the start"),
    )
