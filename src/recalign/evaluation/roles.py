"""Roles of a comparison's rows. A chain's YAML gives them; nothing in this package knows a method by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from recalign.errors import InputError
from recalign.evaluation.rows import row_of
from recalign.files import read_json, write_json

FILE = "roles.json"
BEST = "best_baseline"
"""Stands for the better baseline in the names of metrics: ``diff_best_baseline/all/ndcg@10``."""
START, RERANK = "start", "rerank"


@dataclass(frozen=True)
class Roles:
    """Roles of a comparison's rows. Rows that it does not have are ignored.

    Attributes:
        highlight: the method that is followed through tables and plots where no row is decided on; None: none is.
        placebos: methods that must gain nothing, each with the method that it copies but for one thing.
        baselines: a gain is measured against the better of these.
        references: rows that every other row is compared with, besides the better baseline and the highlight.
        reward_free: rows that read no reward, which a gain in value has to exceed; also compared with every other row.
        unpersonalised: rows that show everybody the same, and so are never shipped.
        knn: a recommender that takes no training, and shows what a baseline should at least come close to.
    """

    highlight: str | None = None
    placebos: dict[str, str] = field(default_factory=dict)
    baselines: list[str] = field(default_factory=lambda: [START, "bc"])
    references: list[str] = field(default_factory=lambda: [START, RERANK])
    reward_free: list[str] = field(default_factory=lambda: ["popularity_tilt"])
    unpersonalised: list[str] = field(default_factory=lambda: ["popularity", "popularity_high", "item_mean"])
    knn: str = "item_knn"

    @property
    def untrained(self) -> list[str]:
        """Rows that take no training at all: what is shipped has to rank better than each, or to have more value."""
        return [*self.unpersonalised, self.knn]

    def compared_with(self) -> list[str]:
        """The references of a comparison's differences, `BEST` first."""
        return list(
            dict.fromkeys([BEST, *self.references, *self.reward_free, *([self.highlight] if self.highlight else [])])
        )

    def candidates(self, rows: Iterable[str]) -> list[str]:
        """The rows that may be shipped: those that read rewards and know users, without baselines and placebos."""
        others = {*self.baselines, *self.placebos, *self.reward_free, *self.untrained}
        return [row for row in rows if row not in others and row_of(row).base not in self.placebos]

    def placebos_of(self, row: str) -> list[str]:
        """The placebos of a row; ``<method>_rerank`` has those of the method and those of reranking."""
        own = [placebo for placebo, copied in self.placebos.items() if copied == row]
        method = row_of(row).base
        return own + (self.placebos_of(method) + self.placebos_of(RERANK) if method else [])

    def without_placebo(self, row: str) -> list[str]:
        """What of a row has no placebo: the row; of ``<method>_rerank`` without its own, the method or reranking."""
        method = row_of(row).base
        if row in {*self.placebos.values(), *self.baselines, *self.reward_free}:  # the latter read no reward
            return []
        return [*self.without_placebo(method), *self.without_placebo(RERANK)] if method else [row]

    def better_baseline(self, values: Mapping[str, float]) -> str | None:
        """The baseline with the highest value; None where there is none."""
        return max((name for name in self.baselines if name in values), key=values.__getitem__, default=None)

    def save(self, chain_folder: Path, methods: Iterable[str]) -> None:
        """Write `roles.json`, with the order of the rows."""
        write_json(chain_folder / FILE, {**asdict(self), "methods": list(methods)})

    @classmethod
    def load(cls, chain_folder: Path) -> tuple[Roles, list[str]]:
        """The roles and the order of the rows that a chain's folder holds; without a file, defaults and no order.

        Raises:
            InputError: the file holds something else.
        """
        path = chain_folder / FILE
        content = read_json(path)
        given = content if isinstance(content, dict) else [type(content).__name__]
        if unknown := [name for name in given if name not in (*cls.__dataclass_fields__, "methods")]:
            remedy = "run `recalign chain` again, which writes it anew, or take them out"
            raise InputError(f"there is no role {', '.join(unknown)}", where=str(path), remedy=remedy)
        methods = content.pop("methods", [])
        return cls(**content), methods
