"""Baselines that a reward model has to beat besides averages: ridge regression on user + item, matrix factorisation.

Both are fitted by alternating least squares on the training rows (`recalign.reward.als`), with the ridge and the
rank of the smallest validation error. A reward model also sees the user's rewards since training, so here the user's
bias is updated by the shrunk mean of those residuals.

Suffix: N events.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from recalign.data.sequences.splits import TRAIN, VALIDATION
from recalign.reward.als import RIDGES, fit_als

RANKS = (2, 8)


def fit_baselines(frame: pl.DataFrame, num_items: int) -> tuple[pl.DataFrame, dict[str, dict[str, float]]]:
    """Predict rewards by ridge regression and by matrix factorisation.

    Args:
        frame: the events of a group of users in order, with ``event``, ``user``, ``item_id``, ``split``, ``reward``.
        num_items: V.

    Returns:
        ``event``, ``ridge`` and ``factors`` (f64), a row an event; the same with ``_fixed``, before the users' biases
        were updated; and the settings that validation chose for each.
    """
    columns, chosen = {}, {}
    for name, ranks in (("ridge", (0,)), ("factors", RANKS)):
        columns[name], columns[f"{name}_fixed"], chosen[name] = _best(frame, num_items, ranks)
    return frame.select("event", **{name: pl.Series(values) for name, values in columns.items()}), chosen


def _best(frame: pl.DataFrame, num_items: int, ranks: Sequence[int]) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    user_N = np.unique(frame["user"].to_numpy(), return_inverse=True)[1]
    item_N = frame["item_id"].to_numpy()
    reward_N = frame["reward"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    part_N, rated_N = frame["split"].to_numpy(), ~np.isnan(reward_N)
    fit_N, size = rated_N & (part_N == TRAIN), (int(user_N.max()) + 1, num_items + 1)
    measured_N = rated_N & (part_N == VALIDATION) & (item_N > 0)
    tried = []
    for rank in ranks:
        for ridge in RIDGES:
            fitted = fit_als(user_N[fit_N], item_N[fit_N], reward_N[fit_N], size, rank, ridge)
            fixed_N = fitted.expected(user_N, item_N)
            expected_N = _update_biases(frame, fixed_N, ridge)
            error = np.square(expected_N - reward_N)[measured_N].mean() if measured_N.any() else ridge
            tried.append((error, {"rank": rank, "ridge": ridge}, expected_N, fixed_N))
    _, settings, expected_N, fixed_N = min(tried, key=lambda one: one[0])
    return expected_N, fixed_N, settings


def _update_biases(frame: pl.DataFrame, expected_N: np.ndarray, ridge: float) -> np.ndarray:
    """Add the shrunk mean of the user's earlier residuals since training."""
    known = pl.col("reward").is_not_null()
    residual = pl.when(known & (pl.col("split") > TRAIN)).then(pl.col("reward") - pl.col("expected")).otherwise(0.0)
    before = [x.cum_sum().shift(1, fill_value=0.0).over("user") for x in (residual, known.cast(pl.Float64))]
    columns = frame.select("user", "reward", "split", expected=pl.Series(expected_N))
    return columns.select(pl.col("expected") + before[0] / (before[1] + ridge)).to_series().to_numpy()
