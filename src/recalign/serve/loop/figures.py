"""Figures of what one version served, window by window: each is made of ratios of sums over users.

- ``unknown``: share of the outcomes whose item the version does not know.
- ``list``: mean over lists of the rewards of what was chosen, summed; a choice whose reward nobody knows adds nothing.
- ``chosen``: mean reward of a chosen item.
- ``order``: of pairs of items in one list that earned differently, the share in which the better one is the one that
  the policy put first; .5 is chance. Drawn items are ordered by their log-probability among all, which the logged ones
  tell: x_k = log p_k + sum_{j<k} log(1 - p_j). Others are ordered by their place.
- ``item_corr``: correlation over chosen items of the reward's rank with the item's mean rank in the first half of the
  reference, shrunk to the middle by `SHRINK` more: the simplest reward model. If rewards reach other items than their
  own, it falls, though no mean changes. It is compared with the other half: item means of the whole reference would be
  correlated with the very rewards that they were computed from.
- ``promised``: mean over chosen items of the reward less a prediction; 0 if the mean is right.
- ``rank_corr``: correlation over chosen items of the ranks of prediction and reward (Spearman 1904).
- ``drift``: mean of log p - log p_start of the first items of drawn lists, p the served policy: an unbiased estimate
  of the Kullback-Leibler divergence of what is served from the start.
- ``concentration``: the chance that an item shown to one user is the one shown to another, each drawn from what was
  shown: sum_i sum_{u != v} n_ui n_vi over the pairs of shown items of different users (Simpson 1949). 1 / concentration
  is an effective number of items (Hill 1973, of order 2). Unlike exp(entropy) it does not grow with the lists counted.

Ranks are shares of the reference's values that are smaller, or equal by half: a few large rewards do not decide.

Suffixes: C sums, W windows with the reference at 0, U users, D draws, L lists, K places.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from recalign.bootstrap import CrossedBootstrap, Estimate, correlation

BY = ["user", "at"]
SHRINK = 10.0
"""Ranks in the middle that are added to those of an item."""


@dataclass(frozen=True)
class Figure:
    """What a figure is computed from.

    Attributes:
        rows: columns ``user`` (0 .. U - 1), ``at`` (0 .. W - 1), ``count`` and one or more to sum.
        of: the figure from the ratios of sums. Shape: (C, ...) -> (...).
        degree: 2 where sums are over pairs of users: by the projection of Hoeffding (1948), draws deviate twice as far.
    """

    rows: pl.DataFrame
    of: Callable[[np.ndarray], np.ndarray] = lambda mean_C: mean_C[0]
    degree: int = 1

    def estimates(self, draws: CrossedBootstrap, windows: int) -> tuple[list[Estimate], np.ndarray]:
        """The figure of each window, users drawn together in all of them, and how many users it rests on.

        Shape: W estimates, int64 (W,).
        """
        names = [name for name in self.rows.columns if name not in (*BY, "count")]
        place_N = self.rows["at"].to_numpy() * draws.users + self.rows["user"].to_numpy()

        def summed(name: str) -> np.ndarray:
            sums = np.bincount(place_N, self.rows[name].to_numpy(), minlength=windows * draws.users)
            return sums.reshape(windows, draws.users)

        count_WU = summed("count")
        total_RU = np.concatenate([summed(name) for name in names])
        value_R, drawn_DR = draws.ratios(total_RU, np.tile(count_WU, (len(names), 1)))
        value_W = self.of(value_R.reshape(len(names), windows))
        drawn_WD = self.of(drawn_DR.T.reshape(len(names), windows, -1))
        drawn_WD = value_W[:, None] + self.degree * (drawn_WD - value_W[:, None])
        found = [Estimate(float(value), drawn_D) for value, drawn_D in zip(value_W, drawn_WD, strict=True)]
        return found, (count_WU > 0).sum(axis=1)


def figures(
    rows: pl.DataFrame, known: Collection[Any] | None, drift: pl.DataFrame | None = None
) -> tuple[dict[str, Figure], dict[str, str]]:
    """All figures that a version's rows allow, and why others are left out.

    Args:
        rows: of `recalign feedback`, with ``at``, ``early`` (in the first half of the reference) and users by number;
            ``predicted``, where there are predictions.
        known: ids of the version's items; None: nobody knows them.
        drift: ``decision``, and ``value`` of its list.
    """
    shown = rows.filter("shown")
    chosen = _ranked(shown.filter("chosen", pl.col("reward").is_not_null()), "reward")
    earned = pl.when("chosen").then("reward").fill_null(0.0).sum()
    found = {
        "list": Figure(shown.group_by(*BY, "decision").agg(value=earned, count=1).drop("decision")),
        "chosen": Figure(chosen.select(*BY, value="reward", count=1)),
        "order": Figure(_pairs(shown)),
        "item_corr": _correlation(_expected(chosen), "expected"),
        "concentration": Figure(_shared(shown), degree=2),
    }
    why = {}
    if known is None:
        why["unknown"] = "no bundle of this version is named: --bundles"
    elif shown.height == rows.height:
        why["unknown"] = "no outcome without a list: there is none, --unshown was not given, or `where` left out lists"
    else:
        items, ids = pl.col("item").cast(pl.String), [str(one) for one in known]
        unknown = (~items.is_in(ids)).cast(pl.Float64)
        found = {"unknown": Figure(rows.filter("chosen").select(*BY, value=unknown, count=1))} | found
    if "predicted" in rows.columns:
        both = _ranked(chosen.filter(pl.col("predicted").is_not_null()), "predicted")
        found["promised"] = Figure(both.select(*BY, value=pl.col("reward") - pl.col("predicted"), count=1))
        found["rank_corr"] = _correlation(both, "predicted_rank")
    else:
        why["promised, rank_corr"] = "no predictions are named: --predicted"
    if drift is None:
        why["drift"] = "the start is not named: --start"
    else:
        of_list = shown.unique("decision", keep="first", maintain_order=True).join(drift, on="decision")
        found["drift"] = Figure(of_list.select(*BY, "value", count=1))
    return found, why


def _pairs(shown: pl.DataFrame) -> pl.DataFrame:
    """Of each list, how many pairs of items earned differently, and in how many the policy put the better one first."""
    drawn = shown.sort("decision", "position").filter(
        pl.col("log_prob").is_null() | (pl.col("position") > pl.col("fixed").fill_null(0))
    )
    rest = (1 - pl.col("log_prob").exp()).log().clip(-1e6)
    among = (pl.col("log_prob") + rest.cum_sum().shift(1, fill_value=0).over("decision")).fill_null(0.0)
    ordered = drawn.with_columns(among=among).sort("decision", -pl.col("among"), "position")
    ordered = ordered.with_columns(place=pl.int_range(pl.len()).over("decision"))
    lists = ordered.group_by("decision", maintain_order=True).agg(pl.col(*BY).first(), length=pl.len())
    reward_LK = np.full((lists.height, lists["length"].to_numpy().max(initial=0)), np.nan)
    of_list = np.repeat(np.arange(lists.height), lists["length"].to_numpy())
    reward_LK[of_list, ordered["place"].to_numpy()] = ordered["reward"].to_numpy()
    better_L, worse_L = np.zeros(lists.height), np.zeros(lists.height)
    for k in range(reward_LK.shape[1] - 1):  # a comparison with nan is false
        better_L += (reward_LK[:, k : k + 1] > reward_LK[:, k + 1 :]).sum(axis=1)
        worse_L += (reward_LK[:, k : k + 1] < reward_LK[:, k + 1 :]).sum(axis=1)
    return lists.select(*BY, value=pl.Series(better_L), count=pl.Series(better_L + worse_L))


def _shared(shown: pl.DataFrame) -> pl.DataFrame:
    """Of each user, pairs of an item shown to them and one shown to another, and those of the same item."""
    own = shown.group_by(*BY, "item").agg(n=pl.len().cast(pl.Float64))
    others = pl.col("n").sum().over("at", "item") - pl.col("n")
    own = own.with_columns(same=pl.col("n") * others).with_columns(all=pl.col("n").sum().over("at"))
    by_user = own.group_by(BY).agg(pl.col("n", "same").sum(), pl.col("all").first())
    return by_user.select(*BY, value="same", count=pl.col("n") * (pl.col("all") - pl.col("n")))


def _ranked(rows: pl.DataFrame, column: str) -> pl.DataFrame:
    """Rows with ``<column>_rank``, from 0 to 1 among the values of the reference."""
    value_N = rows[column].to_numpy()
    known = np.sort(value_N[(rows["at"] == 0).to_numpy()])
    below_N, up_to_N = np.searchsorted(known, value_N), np.searchsorted(known, value_N, "right")
    return rows.with_columns(pl.Series(f"{column}_rank", (below_N + up_to_N) / max(2 * len(known), 1)))


def _expected(chosen: pl.DataFrame) -> pl.DataFrame:
    """Choices after the first half of the reference, with what is ``expected`` of their item from that half."""
    of_item = chosen.filter("early").group_by("item").agg(total=pl.col("reward_rank").sum(), n=pl.len())
    rows = chosen.filter(~pl.col("early")).join(of_item, on="item", how="left")
    rows = rows.with_columns(pl.col("total", "n").fill_null(0))
    return rows.with_columns(expected=(pl.col("total") + SHRINK / 2) / (pl.col("n") + SHRINK))


def _correlation(chosen: pl.DataFrame, column: str) -> Figure:
    """Of the ranks of rewards with a column between 0 and 1."""
    p, r = pl.col(column), pl.col("reward_rank")
    means = {"x": p, "xx": p**2, "xy": p * r, "y": r, "yy": r**2}
    return Figure(chosen.select(*BY, **means, count=1), of=lambda mean_C: correlation(*mean_C))
