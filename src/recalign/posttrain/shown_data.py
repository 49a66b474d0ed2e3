"""Data of all shown rows, chosen or passed, with their rewards."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from recalign.posttrain.data import PostTrainingData, Source, StateValue


class ShownData(PostTrainingData):
    """All shown rows, chosen and passed, with their rewards as advantages.

    A passed row's history ends before its request.

    Args:
        source, baseline: as in `PostTrainingData`; by default A is the observed reward, in standard deviations.
        **data: arguments of `PostTrainingData`.
    """

    reads_passed = True
    passed_targets: Collection[str] = ("train",)

    def __init__(self, source: Source = "observed", baseline: StateValue = "none", **data: Any) -> None:
        super().__init__(source=source, baseline=baseline, **data)
