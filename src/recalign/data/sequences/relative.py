"""Rewards relative to those of similar events, such as watch time among videos of about the same length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from recalign.data.events.expression import refuse_names
from recalign.data.sequences.splits import RESERVED, TRAIN, training_bins
from recalign.errors import Positive, check_ranges


@dataclass(frozen=True)
class RelativeTo:
    """Replace each reward by its rank, in 0..1, among the training rewards in the same bin of a column.

    A rank of 0.8 is higher than four fifths of the training rewards in its bin; equal ones count half. Bins and ranks
    come from training rows alone. A rank within the duration's quantiles is the label of Zhan et al., "Deconfounding
    Duration Bias in Watch-time Prediction for Video Recommendation" (KDD 2022, arXiv 2206.06003).

    Attributes:
        column: a numeric column of the log, such as a video's duration. If it is null, so is the reward.
        bins: number of bins, of equal size on training rows.
    """

    column: str
    bins: Positive[int] = 10

    def __post_init__(self) -> None:
        check_ranges(RelativeTo, vars(self), "data.relative_to")

    def ranks(self, frame: pl.DataFrame, where: str = "data.relative_to.column") -> pl.Series:
        """The relative reward of each event: f64; null without a reward, a bin, or training rewards in the bin.

        ``frame`` has ``reward``, ``split`` and the column; ``where`` is the setting that names the column, for errors.

        Raises:
            InputError: as `training_bins`, or the column is named ``split``, which is reserved.
        """
        reward_N = frame["reward"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        refuse_names(self.column, RESERVED, where)
        in_training = frame["split"] == TRAIN
        bin_N = training_bins(frame, self.column, self.bins, in_training, where).fill_null(-1).to_numpy()
        rated_N, out_N = ~np.isnan(reward_N), np.full(len(frame), np.nan)
        for number in range(self.bins):
            inside_N = rated_N & (bin_N == number)
            training = np.sort(reward_N[inside_N & in_training.to_numpy()])
            if len(training):
                below, up_to = (np.searchsorted(training, reward_N[inside_N], side) for side in ("left", "right"))
                out_N[inside_N] = (below + up_to) / (2 * len(training))
        return pl.Series("reward", out_N).fill_nan(None)
