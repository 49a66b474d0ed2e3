"""The report's first screen: which row is best, what it gains and costs, and how far that can be believed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from recalign.evaluation.comparison import ALL, VALUE
from recalign.evaluation.comparison_table import ComparisonTable, figure
from recalign.evaluation.selection import KEPT
from recalign.evaluation.trusted import Reports, verdicts


@dataclass(frozen=True)
class Card:
    """One answer: a question, a few large words, and a sentence or two; sign is 1 for good news, -1 for bad, else 0."""

    question: str
    words: str
    text: str
    sign: int = 0


def answer(table: ComparisonTable, trust: Reports) -> list[Card]:
    """What a practitioner asks of a comparison of the test; empty where only baselines were measured."""
    roles = table.roles
    rows = [method for method in table.column(VALUE) if method not in (*roles.baselines, *roles.placebos)]
    if not rows or not table.better_baseline(VALUE):
        return []
    values = {method: cell.value for method, cell in table.column(VALUE).items() if math.isfinite(cell.value)}
    enough = {method: values[method] for method in rows if method in values and table.kept(method) >= KEPT}
    needed = f"{KEPT:.0%} of the {ALL} of {table.better_baseline(ALL)}"
    best = max(enough, key=enough.__getitem__, default=None)
    if best:
        found = f"The highest {VALUE}, {enough[best]:.3f}, of the {len(enough)} of {len(rows)} methods"
        text = f"{found} that keep {needed}."
        cards = [Card("Which is best?", best, text), _gain(table, best), _price(table, best)]
    else:
        cards = [Card("Which is best?", "none", f"No method keeps {needed}.", -1)]
    if roles.ours in values and roles.ours != best:
        cards.append(_ours(table, roles.ours, enough))
    cards += [
        Card("May the reward model be trusted?", verdict, f"{implication} (seed {', '.join(seeds)})")
        for seeds, verdict, implication in verdicts(trust)
    ]
    return [*cards, _seeds(len(table.seeds))]


def _gain(table: ComparisonTable, best: str) -> Card:
    baseline, gain = str(table.better_baseline(VALUE)), table.get(best, f"holm_best_bc/{VALUE}")
    assert gain is not None
    base = table.column(VALUE)[baseline].value
    share = f", {gain.value / abs(base):+.1%}" if base else ""
    text = f"{gain} over {baseline}{share}; the interval is corrected (Holm) for choosing among all rows."
    if not gain.sign:
        text += " It holds 0: this may be chance."
    return Card("What does it gain?", f"{gain.value:+.4f}", text, gain.sign)


def _price(table: ComparisonTable, best: str) -> Card:
    baseline, seconds = table.better_baseline(ALL), table.get(best, "cost/seconds")
    text = f"of the {ALL} of {baseline} is kept"
    if change := table.get(best, f"diff_best_bc/{ALL}"):
        text += f" ({change})"
    if seconds:
        text += f"; training takes {figure('cost/seconds', seconds.value)}"
    return Card("What does it cost?", f"{table.kept(best):.1%}", f"{text}.")


def _ours(table: ComparisonTable, ours: str, enough: dict[str, float]) -> Card:
    """Our method, and those that are better among the methods that keep enough."""
    value = table.column(VALUE)[ours].value
    better = sorted((m for m in enough if m != ours and enough[m] > value), key=lambda method: -enough[method])
    question, kept = f"And {ours}?", f"It keeps {table.kept(ours):.1%} and has {value:.3f}."
    if not better:
        return Card(question, "loses too much", f"{kept} No method that keeps enough has more.", -1)
    gains = (f"{method} {table.get(method, f'diff_{ours}/{VALUE}') or ''}".strip() for method in better)
    return Card(question, f"{len(better)} better", f"{kept} More have: {'; '.join(gains)}.", -1)


def _seeds(count: int) -> Card:
    if count == 1:
        text = "The intervals cover users alone. Another seed may give another order: run at least three."
        return Card("How sure is this?", "1 seed", text, -1)
    return Card("How sure is this?", f"{count} seeds", "The intervals cover users and seeds.")
