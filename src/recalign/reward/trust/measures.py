"""How good predictions of a reward are, with intervals over users and paired differences.

Every figure is a function of ratios of sums over users, so that a bootstrap of users (`recalign.metrics`) draws all
figures of all predictors at once. Two of them are linearised for that: ranks (Spearman) and placements among the other
class (AUC; DeLong, DeLong & Clarke-Pearson 1988) are those of the whole sample in every draw.

Suffixes: N events, U users, D draws.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from recalign.metrics.bootstrap import CrossedBootstrap, Estimate

FIGURES = ("rmse", "mae", "r2", "spearman", "auc", "pairwise")
"""What is measured; of the first two less is better, of the others more."""

Sums = dict[str, tuple[np.ndarray, np.ndarray]]
Table = dict[str, dict[str, Estimate]]


def measure(
    user_N: np.ndarray,
    reward_N: np.ndarray,
    high_N: np.ndarray,
    predicted: Mapping[str, np.ndarray],
    ahead: Mapping[str, np.ndarray],
    bootstrap: CrossedBootstrap,
) -> Table:
    """The figures of several predictors on the same events.

    - ``rmse``, ``mae``: in the reward's unit; ``r2``: 1 - MSE / variance;
    - ``spearman``: rank correlation over all events;
    - ``auc``: that a high reward is predicted higher than one that is not;
    - ``pairwise``: that of two rewards of one user that differ, the higher is predicted higher (ties count half), both
      from the history before the earlier of them: what a reward model says about a user's choice. (Predictions of
      different moments must not be compared: the later one has seen the earlier reward, and leans towards it.)

    Args:
        user_N: int64, from 0, ascending.
        reward_N: rewards.
        high_N: bool, whether each is high.
        predicted: by name, (N,) each.
        ahead: by the same names, (N, C): by how much the item of the C-th event after it is predicted to be better; nan
            where they are no pair.
        bootstrap: of as many users as there are.

    Returns:
        By predictor and figure; nan where a figure has no meaning (a rank correlation with a constant).
    """
    users = bootstrap.weight_DU.shape[1]

    def ratio(value_N: np.ndarray, chosen_N: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        where = slice(None) if chosen_N is None else chosen_N
        return np.bincount(user_N[where], value_N[where], users), np.bincount(user_N[where], minlength=users)

    rank_N = _ranks(reward_N)
    sums: Sums = {"r": ratio(reward_N), "rr": ratio(reward_N**2), "y": ratio(rank_N), "yy": ratio(rank_N**2)}
    for name, predicted_N in predicted.items():
        error_N, x_N = predicted_N - reward_N, _ranks(predicted_N)
        sums |= {f"{name}/se": ratio(error_N**2), f"{name}/ae": ratio(np.abs(error_N))}
        sums |= {f"{name}/x": ratio(x_N), f"{name}/xx": ratio(x_N**2), f"{name}/xy": ratio(x_N * rank_N)}
        placed_N = _placements(predicted_N, high_N)
        sums |= {f"{name}/high": ratio(placed_N, high_N), f"{name}/low": ratio(placed_N, ~high_N)}
        right_N, pairs_N = pairs(reward_N, ahead[name])
        sums[f"{name}/pair"] = np.bincount(user_N, right_N, users), np.bincount(user_N, pairs_N, users)
    value, drawn = ratios(sums, bootstrap)
    with np.errstate(invalid="ignore", divide="ignore"):
        values, draws = ({name: _figures(of, name) for name in predicted} for of in (value, drawn))
    return {name: {f: Estimate(float(values[name][f]), draws[name][f]) for f in FIGURES} for name in predicted}


def ratios(sums: Sums, bootstrap: CrossedBootstrap) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Ratios of sums over users, as they are and in each draw, by name."""
    total, count = (np.stack([pair[i] for pair in sums.values()]).astype(float) for i in (0, 1))
    value_R, drawn_DR = bootstrap.ratios(total, count)
    return dict(zip(sums, value_R, strict=True)), dict(zip(sums, drawn_DR.T, strict=True))


def minus(table: Table, model: str = "model") -> Table:
    """The model's figures minus those of each other predictor, draw by draw."""
    with np.errstate(invalid="ignore"):  # where a draw has no pair to order, say, there is no difference
        return {
            name: {
                f: Estimate(table[model][f].value - other.value, table[model][f].draws_D - other.draws_D)
                for f, other in figures.items()
            }
            for name, figures in table.items()
            if name != model
        }


def _figures(of: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Figures from ratios; one function for the sample and for its draws."""
    part = {key: of[f"{name}/{key}"] for key in ("se", "ae", "x", "xx", "xy", "high", "low", "pair")}
    variance = of["rr"] - of["r"] ** 2
    return {
        "rmse": np.sqrt(part["se"]),
        "mae": part["ae"],
        "r2": 1 - part["se"] / variance,
        "spearman": correlation(part["x"], part["xx"], part["xy"], of["y"], of["yy"]),
        "auc": part["high"] + part["low"],
        "pairwise": part["pair"],
    }


def correlation(x: np.ndarray, xx: np.ndarray, xy: np.ndarray, y: np.ndarray, yy: np.ndarray) -> np.ndarray:
    """From means of x, x^2, x y, y and y^2; nan where one of the two does not vary."""
    spread = (xx - x**2) * (yy - y**2)
    return np.where(spread > 1e-12, (xy - x * y) / np.sqrt(np.maximum(spread, 1e-300)), np.nan)


def _ranks(value_N: np.ndarray) -> np.ndarray:
    """Ranks, ties at their mean, scaled to -1..1."""
    return 2 * pl.Series(value_N).rank("average").to_numpy() / (len(value_N) + 1) - 1


def _placements(predicted_N: np.ndarray, high_N: np.ndarray) -> np.ndarray:
    """Whose means, of the high events and of the others, add up to the AUC.

    A high event's is the share of the others predicted below it; that of another the share of high ones predicted above
    it, less the AUC (ties count half). nan where there is only one class.
    """
    out_N = np.full(len(predicted_N), np.nan)
    if high_N.all() or not high_N.any():
        return out_N
    for own_N, sign in ((high_N, 1), (~high_N, -1)):
        other, value = np.sort(sign * predicted_N[~own_N]), sign * predicted_N[own_N]
        below = np.searchsorted(other, value) + np.searchsorted(other, value, side="right")
        out_N[own_N] = below / (2 * len(other))
    out_N[~high_N] -= out_N[high_N].mean()
    return out_N


def pairs(reward_N: np.ndarray, ahead_NC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs in the right order, and pairs, by their earlier event.

    Args:
        reward_N: rewards.
        ahead_NC: by how much the C-th event after each is predicted to be better; nan where they are no pair.

    Shape: (N,) each.
    """
    better_NC = later(reward_N, ahead_NC.shape[1]) - reward_N[:, None]
    pair_NC = ~np.isnan(ahead_NC) & ~np.isnan(better_NC) & (better_NC != 0)
    right_NC = np.where(pair_NC, (1 + np.sign(better_NC) * np.sign(ahead_NC)) / 2, 0)
    return right_NC.sum(axis=1), pair_NC.sum(axis=1)


def later(value_N: np.ndarray, count: int) -> np.ndarray:
    """The values of the next events, whoever's; nan behind the last. Shape: (N,) -> (N, count)."""
    padded = np.concatenate([value_N, np.full(count, np.nan)])
    return np.lib.stride_tricks.sliding_window_view(padded[1:], count)[: len(value_N)]
