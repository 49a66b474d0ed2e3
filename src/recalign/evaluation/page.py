"""Write `report.html`, a chain's page, from its `Sources`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from recalign.data.sequences.audit import MIN_GAIN_SD
from recalign.evaluation import findings, plots
from recalign.evaluation.answer import REASONS, ab_test, cards, caveats, detectable_gain, heading, headline, more_value
from recalign.evaluation.comparison import JUDGE_VALUE, NDCG_ALL, NDCG_HIGH, SHOWN_AUC
from recalign.evaluation.comparison_table import ComparisonTable, figure
from recalign.evaluation.decision import CONDITIONS
from recalign.evaluation.names import names
from recalign.evaluation.sources import Sources
from recalign.files import write_text
from recalign.recommender.interpolation import MIN_NDCG_RETAINED
from recalign.reward.trust.measures import FIGURES

MAIN = (
    *(NDCG_ALL, NDCG_HIGH, "high_users/ndcg@10", JUDGE_VALUE, "value/reward_model@10", "value/true@10"),
    *(SHOWN_AUC, "value/true", "policy/kl", "policy/changed@10", "policy/coverage@10", "policy/popularity@10"),
    *("tail/high/ndcg@10", "tail/value/judge@10", "cost/seconds"),
)
CORE = (NDCG_ALL, NDCG_HIGH, JUDGE_VALUE, "value/reward_model@10", "value/true@10", "policy/kl")
"""Columns that are always shown: they fit on a screen."""
MEANINGS = {
    NDCG_ALL: "NDCG@10 of the item that was really chosen, over the full catalogue, other items that the user had met "
    "left out. Imitating the log is rewarded here, its habits and trends included.",
    NDCG_HIGH: "The same on the events that turned out well (a high reward). It selects on the outcome, so read it "
    "beside the others.",
    "high_users/ndcg@10": "The same on users whose mean reward in the test window is above the median.",
    JUDGE_VALUE: "Mean reward that independent judges expect of the ten unseen items shown. The judges learned from "
    "other users than the methods did.",
    "value/reward_model@10": "The same under the reward model that methods trained with: what they were told to like.",
    "gap/judge@10": "value/reward_model@10 less value/judge@10, event by event. Levels of raters are in it; what a "
    "method adds to the gap of start is over-optimisation.",
    "value/true@10": "The true mean reward of the ten items shown, known in a simulated log.",
    SHOWN_AUC: "Share of the pairs (chosen, passed) of a request that the policy ranks right, mean over requests: all "
    "candidates were shown, so what the platform liked to show gains nothing here.",
    "shown/ndcg": "NDCG of what was chosen among all that its request showed.",
    "value/true": "The true reward expected of an item drawn from the policy among unseen ones.",
    "policy/kl": "KL(policy || start), mean over test histories: how far training moved the policy.",
    "policy/changed@10": "Share of the ten items shown by start that are no longer shown.",
    "policy/entropy": "Entropy of the policy over the catalogue, in nats.",
    "policy/coverage@10": "Share of the catalogue that is shown to anybody.",
    "policy/popularity@10": "Mean popularity percentile of the items shown.",
    "tail/high/ndcg@10": "high/ndcg@10 on the test events whose item has fewer training events than the median target.",
    "tail/value/judge@10": "value/judge@10 of what is shown before these events.",
    "cost/seconds": "Training time of the method's own stage.",
}
FILE = "report.html"
CONTROLS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters of terminals and of text direction."""
Section = tuple[str, str, list[Any]]
"""Title, explanation, and the plots as inline SVG; a plot without figures is left out."""


def write_page(folder: Path, sources: Sources) -> Path:
    """Draw the page of a chain's folder. Returns its path."""
    table, decision = sources.table(), sources.decision
    text = Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"number": _number, "broken": lambda name: Markup("_<wbr>").join(name.split("_"))}
    answer: dict[str, Any] = {"cards": [], "headline": "", "names": {}}
    if decision:
        of = (decision, table, sources.trust, sources.unit)
        care = caveats(decision, sources.trust)
        shown = list(cards(*of))
        named = [decision.sentence, *care, *decision.reasons[:REASONS], *(card.text for card in shown)]
        answer = {
            "heading": heading(decision, sources.trust),
            "headline": headline(*of),
            "cards": shown,
            "caveats": care,
            "names": names(" ".join(named), table),
            "more_value": more_value(decision, table),
            "ab_test": ab_test(decision, table),
            "detectable_gain": detectable_gain(decision),
            "reasons_shown": REASONS,
            "least_gain": MIN_GAIN_SD,
        }
    html = environment.from_string(text).render(
        vars(sources)
        | answer
        | {
            "conditions": CONDITIONS,
            "comparison": table,
            "core": _table(table, CORE),
            "table": _table(table),
            "validation": _table(sources.table("validation")),
            "examples": list(zip(*sources.examples, strict=False)),
            "plots": plot_sections(table),
            "trust": _trust(sources.trust),
            "meanings": {metric: text for metric, text in MEANINGS.items() if metric in table.metrics},
        }
    )
    write_text(folder / FILE, CONTROLS.sub("\N{REPLACEMENT CHARACTER}", html) + "\n")
    return folder / FILE


def plot_sections(table: ComparisonTable) -> Iterator[Section]:
    """The sections of the comparison that have plots."""
    baseline = table.better_baseline(NDCG_ALL)
    shade = plots.below(MIN_NDCG_RETAINED * table.column(NDCG_ALL)[baseline].value) if baseline else lambda axes: None
    promised, judged, true = (f"diff_start/value/{name}" for name in ("reward_model@10", "judge@10", "true@10"))
    sections: dict[str, tuple[Any, ...]] = {
        "Who gains": (
            "Difference to the better baseline. Thick: 95 % interval. Thin: widened by Holm, for as many methods as "
            "are compared. Left of zero is a loss.",
            plots.forest(table, NDCG_HIGH),
            plots.forest(table, JUDGE_VALUE),
        ),
        "What it costs": (
            "Up is better value. First against imitation: in the shade more than 5 % of the ranking is lost. Then "
            "against the distance from the start. Placebos are pale and have no name.",
            plots.scatter(table, NDCG_ALL, JUDGE_VALUE, "value and imitation", shade),
            plots.scatter(table, "policy/kl", JUDGE_VALUE, "value and distance", log=True),
        ),
        "Does the reward model fool anybody?": (
            "Gain over start under the training reward model, and under who did not train with it. Below the dashed "
            "line the training reward model promises more than others see: over-optimisation. The last plot shows that "
            "excess against the distance from the start.",
            plots.scatter(table, promised, judged, "promised and judged", plots.cross),
            plots.scatter(table, judged, true, "judged and true", plots.cross),
            plots.scatter(table, "policy/kl", "diff_start/gap/judge@10", "over-optimisation", log=True),
        ),
    }
    for title, (text, *drawn) in sections.items():
        if shown := [plot for plot in drawn if plot]:
            yield title, text, shown


def _number(value: Any) -> str:
    """Format a JSON value for a reader."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(table: ComparisonTable, metrics: Sequence[str] = MAIN) -> dict[str, Any]:
    """Columns, and for each method a row of cells, None for a missing figure.

    A cell has a figure, its interval, its mark (1 better, -1 worse, else 0), whether it is the best, and its tooltip.
    """
    columns = {metric: column for metric in metrics if (column := table.column(metric))}
    rows: dict[str, list[dict[str, Any] | None]] = {method: [] for method in table.methods}
    for metric, column in columns.items():
        higher_is_better = not metric.startswith(("policy/", "cost/"))
        best = max(column.items(), key=lambda of: of[1].value)[0] if higher_is_better else None
        for method, row in rows.items():
            if (cell := column.get(method)) is None:
                row.append(None)
                continue
            known = cell.low == cell.low and not metric.startswith("cost/")
            interval = f"{figure(metric, cell.low)} – {figure(metric, cell.high)}" if known else ""
            difference, p = (table.get(method, f"{kind}_best_baseline/{metric}") for kind in ("holm", "p"))
            more = difference and (difference.sd if table.in_sd(f"holm_best_baseline/{metric}") else difference)
            hint = f"{more} against {table.better_baseline(metric)}, p = {p.value:.3f} (Holm)" if p else ""
            shown = {"value": cell.value, "figure": figure(metric, cell.value), "interval": interval, "hint": hint}
            row.append(shown | {"mark": table.mark(method, metric), "best": method == best})
    return {"columns": list(columns), "rows": rows}


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


def _trust(trust: Mapping[str, findings.Reports]) -> dict[str, Any]:
    """What the page shows of ``trust.json`` by stage and seed; without any, ``seeds`` is empty.

    Figures are means over seeds, and so are the ends of their intervals, which are over users.
    """
    reports = trust["reward"]
    parts = {stage: [report[report["judged_on"]] for report in by_seed.values()] for stage, by_seed in trust.items()}
    rows = [(label, parts["reward"], name) for name, label in NAMES.items()]
    rows += [(label, parts[stage], "model") for stage, label in JUDGES.items()]
    return {
        "seeds": list(reports),
        "verdicts": findings.seeds_by_verdict(reports),
        "columns": FIGURES,
        "table": [
            (label, [_mean_cell([part["table"][name].get(figure, [None]) for part in each]) for figure in FIGURES])
            for label, each, name in rows
            if each
        ],
    }


def _mean_cell(estimates: list[list[float | None]]) -> tuple[str, str]:
    """Mean of a figure and of its interval, as text; a dash if any is missing, as in a report of an earlier version."""
    if any(value is None for estimate in estimates for value in estimate):
        return "–", ""
    value, low, high = np.mean(np.array(estimates, dtype=float), axis=0)
    return f"{value:.3f}", f"{low:.3f} – {high:.3f}"
