"""What was shown, chosen or not, with its rewards."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from recalign.posttrain.data import PostTrainingData, Source, StateValue


class ShownData(PostTrainingData):
    """Rows that were shown, the chosen and the passed ones, with their rewards in place of advantages.

    A passed row stands at the history before its request.

    Args:
        source, baseline: as of `PostTrainingData`: A is the observed reward itself, in standard deviations.
        **data: arguments of `PostTrainingData`.
    """

    reads_passed = True
    passed_targets: Collection[str] = ("train",)

    def __init__(self, source: Source = "observed", baseline: StateValue = "none", **data: Any) -> None:
        super().__init__(source=source, baseline=baseline, **data)
