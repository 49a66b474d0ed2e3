"""Roles of a comparison's rows: trained methods are named by a chain's YAML, built-in baselines here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

BEST = "best_baseline"
"""Stands for the better baseline in the names of metrics: ``diff_best_baseline/all/ndcg@10``."""
START, RERANK, WITHOUT_MEMORY = "start", "rerank", "start_without_memory"
REWARD_FREE = ("popularity_tilt",)
"""Rows that read no reward. A shipped row needs more value than these; every row is compared with them."""
UNTRAINED_RANKINGS = ("item_knn", "transitions")
"""Untrained rows that rank by the history: a start that is worth aligning ranks no worse."""
NON_LEARNED_BASELINES = ("popularity", "popularity_high", "item_mean", *UNTRAINED_RANKINGS)
"""Rows that are counted from the log. A shipped row has to rank better than each, or have more value."""


def reranked_method(row: str) -> str | None:
    """The trained method that ``<method>_rerank`` reranks; None for other rows."""
    return row.removesuffix("_rerank") if row.endswith("_rerank") else None


@dataclass(frozen=True)
class Roles:
    """Roles of a comparison's rows. Rows that it does not have are ignored.

    Attributes:
        highlight: the method that tables and plots highlight if the decision is about no row; None: no method.
        placebos: methods that must gain nothing, each with the method that it copies except for one thing.
        baselines: a gain is measured against the better of these.
    """

    highlight: str | None = None
    placebos: dict[str, str] = field(default_factory=dict)
    baselines: list[str] = field(default_factory=lambda: [START, "bc"])

    def compared_with(self) -> list[str]:
        """The references of a comparison's differences, `BEST` first."""
        own = [self.highlight] if self.highlight else []
        return list(dict.fromkeys([BEST, START, RERANK, *REWARD_FREE, *own]))

    def candidates(self, rows: Iterable[str]) -> list[str]:
        """Rows that may be shipped: all but baselines, placebos, reward-free rows and rows without training."""
        others = {*self.baselines, *self.placebos, *REWARD_FREE, *NON_LEARNED_BASELINES, WITHOUT_MEMORY}
        return [row for row in rows if row not in others and reranked_method(row) not in self.placebos]

    def placebos_of(self, row: str) -> list[str]:
        """The placebos of a row; ``<method>_rerank`` has those of the method and those of reranking."""
        own = [placebo for placebo, copied in self.placebos.items() if copied == row]
        method = reranked_method(row)
        return own + (self.placebos_of(method) + self.placebos_of(RERANK) if method else [])

    def without_placebo(self, row: str) -> list[str]:
        """The parts of a row without a placebo: itself or, for ``<method>_rerank``, the method, reranking or both."""
        method = reranked_method(row)
        if row in {*self.placebos.values(), *self.baselines, *REWARD_FREE}:  # the last two need none
            return []
        return [*self.without_placebo(method), *self.without_placebo(RERANK)] if method else [row]

    def better_baseline(self, values: Mapping[str, float]) -> str | None:
        """The baseline with the highest value; None if no baseline has one."""
        return max((name for name in self.baselines if name in values), key=values.__getitem__, default=None)
