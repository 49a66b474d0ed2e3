"""Baselines that a reward model has to beat besides averages: ridge regression on user + item, matrix factorisation.

Both are fits of `recalign.reward.matrix_factorization` to the training rows, of rank 0 and `RANK`. A reward model also
sees the user's rewards since training, so here the user's bias is updated by the shrunk mean of those residuals.

Suffix: N events.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from recalign.data.sequences.splits import TRAIN
from recalign.reward.matrix_factorization import fit_variational_mf

RANK = 8


def fit_baselines(frame: pl.DataFrame, num_items: int) -> pl.DataFrame:
    """Predict rewards by ridge regression and by matrix factorisation.

    Args:
        frame: the events of a group of users in order, with ``event``, ``user``, ``item_id``, ``split``, ``reward``.
        num_items: V.

    Returns:
        ``event``, ``ridge`` and ``factors`` (f64), a row an event; the same with ``_fixed``, before the users' biases
        were updated.
    """
    user_N = np.unique(frame["user"].to_numpy(), return_inverse=True)[1]
    item_N, size = frame["item_id"].to_numpy(), (int(user_N.max()) + 1, num_items + 1)
    fit_N = ((frame["split"] == TRAIN) & frame["reward"].is_not_null()).to_numpy()
    rated = user_N[fit_N], item_N[fit_N], frame["reward"].cast(pl.Float64).to_numpy()[fit_N]
    columns = {}
    for name, rank in (("ridge", 0), ("factors", RANK)):
        fitted = fit_variational_mf(*rated, size, rank)
        columns[f"{name}_fixed"] = fixed = pl.Series(fitted.expected(user_N, item_N))
        columns[name] = _update_biases(frame, fixed, float(fitted.ridge_F[0]))
    return frame.select("event", **columns)


def _update_biases(frame: pl.DataFrame, expected: pl.Series, ridge: float) -> pl.Series:
    """Add the shrunk mean of the user's earlier residuals since training."""
    known = pl.col("reward").is_not_null()
    residual = pl.when(known & (pl.col("split") > TRAIN)).then(pl.col("reward") - pl.col("expected")).otherwise(0.0)
    before = [x.cum_sum().shift(1, fill_value=0.0).over("user") for x in (residual, known.cast(pl.Float64))]
    columns = frame.select("user", "reward", "split", expected=expected)
    return columns.select(pl.col("expected") + before[0] / (before[1] + ridge)).to_series()
