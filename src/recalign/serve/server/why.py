"""Explain an item's rank: the parts of its score, and how they differ from another bundle's.

A bundle's tables are inputs of its graph: a part is what the scores lose if its table is set to 0. Parts are in nats,
minus their mean over the items that pass the filters: an average item has 0 everywhere.

Shape suffixes: N = V + 1 items with the padding item at 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from recalign.serve.server.bundle import Bundle, log_softmax
from recalign.serve.server.catalogue import Encoded
from recalign.serve.server.request import Id

NETWORK, PRIOR, MEMORY, REWARD = "network", "prior", "memory", "reward"
TABLES = {PRIOR: ("bias", "popular"), MEMORY: ("memory_cosine",)}
"""The tables of each part. The tables of semantic ids (codes) do not separate into parts."""


@dataclass(frozen=True)
class Explained:
    """An item of a list, and why it stands there.

    Attributes:
        item, title, log_prob: as in `Shown`.
        parts: of its log-probability, in nats against the average item: the network's reading of the history, the item
            prior (popularity), the memory (co-occurrence with the history) and the reward of reranking. Only parts
            that the bundle has.
        place: its rank in the other bundle, from 1; null: there is no other bundle, or it lacks the item.
        more: of each part, its value minus that of the other bundle.
    """

    item: Id
    title: str
    log_prob: float
    parts: Mapping[str, float]
    place: int | None = None
    more: Mapping[str, float] | None = None


class Ranking:
    """The ranking of one bundle for one request, with its parts.

    Attributes:
        score_N: of the items that pass the filters; -inf elsewhere.
        parts: by name, the values of all items.
    """

    def __init__(self, bundle: Bundle, one: Encoded) -> None:
        self.bundle = bundle
        logit_N = bundle.run([one], ["logits"])[0][0]
        self.score_N = bundle.left(one, logit_N)
        left_N, parts = np.isfinite(self.score_N), {NETWORK: logit_N.astype(np.float64)}
        for name, tables in TABLES.items():
            if changed := {table: blank(known) for table in tables if (known := bundle.table(table)) is not None}:
                parts[name] = bundle.run([one], ["logits"], changed)[0][0]
        if bundle.about.strength is not None:
            parts[REWARD] = bundle.run([replace(one, strength=0.0)], ["logits"])[0][0]
        with np.errstate(invalid="ignore"):  # the padding item's scores are infinite
            for name in parts.keys() - {NETWORK}:
                parts[name] = logit_N - parts[name]
                parts[NETWORK] = parts[NETWORK] - parts[name]
        count = max(1, left_N.sum())
        self.parts = {name: x_N - x_N[left_N].sum() / count for name, x_N in parts.items()}

    def explained(self, item: Id, other: Ranking | None) -> Explained:
        """Explain an item, against the other bundle's ranking if there is one."""
        number, catalogue = self.bundle.catalogue.number[item], self.bundle.catalogue
        parts = {name: float(x_N[number]) for name, x_N in self.parts.items()}
        found = Explained(item, catalogue.titles[number - 1], float(log_softmax(self.score_N)[number]), parts)
        there = other and other.bundle.catalogue.number.get(item)
        if other is None or not there:
            return found
        names = dict.fromkeys([*self.parts, *other.parts])
        theirs = {name: float(x_N[there]) for name, x_N in other.parts.items()}
        more = {name: parts.get(name, 0.0) - theirs.get(name, 0.0) for name in names}
        return replace(found, place=int((other.score_N > other.score_N[there]).sum()) + 1, more=more)


def blank(table: np.ndarray) -> np.ndarray:
    """A table with 0 for every finite value: the padding item stays infinite."""
    return np.where(np.isfinite(table), 0, table).astype(table.dtype)


def explain(
    bundles: Sequence[Bundle], encoded: Sequence[Encoded], lists: Sequence[Sequence[Id]]
) -> list[list[Explained]]:
    """Explain the lists of one or two bundles.

    Args:
        encoded: the request, encoded by each bundle.
        lists: the items of each bundle's list.
    """
    ranked = [Ranking(*one) for one in zip(bundles, encoded, strict=True)]
    others = [*reversed(ranked)] if len(ranked) == 2 else [None] * len(ranked)
    return [
        [own.explained(item, other) for item in items] for own, other, items in zip(ranked, others, lists, strict=True)
    ]
