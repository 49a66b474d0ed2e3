"""Initialisation of a reward model: a factorisation of the training rewards, chosen by validation error.

Suffixes as in `recalign.reward.net`; E events of the log, K item features.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recalign.data.sequences.splits import TRAIN, VALIDATION
from recalign.recommender.cooccurrence import cooccurrence_embedding
from recalign.reward.data import RewardData
from recalign.reward.matrix_factorization import VariationalMF, fit_variational_mf
from recalign.reward.net import RewardEnsemble, RewardNet


def initialise(reward: RewardEnsemble, data: RewardData, rank: int, features: int) -> Tensor:
    """Initialise the networks from a factorisation of the training rewards.

    Args:
        reward: the networks.
        data: the training rewards.
        rank, features: as in `choose_factorization`.

    Returns:
        The events' leave-one-out effects (`event_influence`).
    """
    factorization = choose_factorization(data, rank, features)
    for net in reward.nets:
        copy_factors(net, factorization)
    return event_influence(factorization, data, rank)


def event_influence(factorization: VariationalMF, data: RewardData, rank: int) -> Tensor:
    """Leave-one-out effect of each event (0 if not fitted) on its item's bias and factors. Shape: f32 (E, 1 + rank)."""
    influence_NG = factorization.self_influence(*_columns(data.rated_events))
    out_EF = np.zeros((len(data.logged_rewards), 1 + rank), np.float32)
    out_EF[data.rated_events["event"].to_numpy(), : influence_NG.shape[1]] = influence_NG
    return torch.from_numpy(out_EF)


def choose_factorization(data: RewardData, rank: int, features: int) -> VariationalMF:
    """Factorise the training rewards. Rank and item features are chosen by validation error.

    The candidates are ``rank``, a half and a quarter of it without item features, and ``rank`` with them. The
    error is measured on validation events of users seen in training, after refitting each user's bias, because the
    reward model refits it at every event.

    Args:
        data: the training rewards.
        rank: largest number of latent factors.
        features: dimensions of the item features, a co-occurrence embedding; 0: none. (With few users, each user's own
            choices make up too much of it, and it reveals who chose an item.)
    """
    size = (int(data.target_events["user"].max()) + 1, data.num_items + 1)  # type: ignore[arg-type]
    ranks = sorted({rank, -(-rank // 2), -(-rank // 4)})
    candidates: list[tuple[int, np.ndarray | None]] = [(part, None) for part in ranks]
    candidates += [(rank, item_features(data, features))] * bool(features)
    in_part = pl.col("reward").is_not_null() & (pl.col("item_id") > 0) & (pl.col("split") == VALIDATION)
    measured = data.target_events.filter(in_part)
    seen = measured.filter(pl.col("user").is_in(data.rated_events["user"].unique().implode()))
    user, item, reward = _columns(seen if len(seen) else measured)

    def error(fitted: VariationalMF) -> float:
        residual_N = reward - fitted.expected(user, item)
        bias_U = np.bincount(user, residual_N) / (np.bincount(user) + fitted.ridge_F[0])
        return float(np.nan_to_num(np.square(residual_N - bias_U[user]).sum(), nan=np.inf))

    return min((fit_variational_mf(*_columns(data.rated_events), size, *each) for each in candidates), key=error)


def copy_factors(net: RewardNet, factorization: VariationalMF) -> None:
    """Copy item biases, factors, variances and ridges; the network may have more factors and features."""
    items, features_VK = factorization.items, torch.from_numpy(factorization.features_RK[1:]).float()
    mean_VF, variance_VF = (torch.from_numpy(x_RF[1:]).float() for x_RF in (items.mean_RF, items.variance_RF))
    log_ridge = torch.from_numpy(factorization.ridge_F).float().log()
    parameters, behind = mean_VF.shape[1], slice(net.num_factors, net.num_factors + features_VK.shape[1])
    with torch.no_grad():
        net.item_bias[1:] = (factorization.mean - net.mean + mean_VF[:, :1, None]) / net.scale
        net.item_factors.weight[1:, : parameters - 1] = mean_VF[:, 1:]
        net.item_factors.weight[1:, behind] = features_VK
        net.factor_variance_VF[1:, 1:parameters] = variance_VF[:, 1:]
        net.log_ridge[:parameters], net.log_ridge[1:][behind] = log_ridge.tensor_split([parameters])


def item_features(data: RewardData, dimensions: int) -> np.ndarray:
    """Co-occurrence embeddings of the items in the group's training events. Shape: float64 (V + 1, dimensions)."""
    chosen = pl.col("event") < len(data.sequences.frame)  # skipped rows are no co-occurrences
    training = data.target_events.filter(chosen & (pl.col("split") == TRAIN))
    user_N, item_N = (training[name].cast(pl.Int64).to_numpy() for name in ("user", "item_id"))
    return cooccurrence_embedding(user_N, item_N, data.num_items + 1, dimensions)


def _columns(frame: pl.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return frame["user"].to_numpy(), frame["item_id"].to_numpy(), frame["reward"].to_numpy()
