"""Data of all shown rows, chosen or skipped, with their rewards."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from recalign.posttrain.data import PostTrainingData, Source, StateValue


class ShownData(PostTrainingData):
    """All shown rows, chosen and skipped, with their rewards as advantages.

    A skipped row's history ends before its request.

    Args:
        source, baseline: as in `PostTrainingData`; by default A is the observed reward, in standard deviations.
        **data: arguments of `PostTrainingData`.
    """

    reads_skipped = True
    skipped_targets: Collection[str] = ("train",)

    def __init__(self, source: Source = "observed", baseline: StateValue = "none", **data: Any) -> None:
        super().__init__(source=source, baseline=baseline, **data)
