"""Ranks of test events in `benchmarks.items.run`, and the figures made of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch
from scipy.sparse import csr_array

from benchmarks.lib import commit, frame, over_worlds
from recalign.data.sequences import Batch, EventDataModule
from recalign.nn import ranks_from_scores
from recalign.recommender import Policy
from recalign.recommender.rank_metrics import gain_ndcg

IDS, START = "ids", "start"
CUTS, TOP = (10, 50, 200), 10
LEAST_TARGETS, LEAST_ITEMS = 400, 100
DRAWS = 500
GROUPS: dict[str, pl.Expr] = {
    "known_users": pl.col("known"),
    "new_users": ~pl.col("known"),
    "cold_histories": pl.col("cold_history"),
    "warm_histories": ~pl.col("cold_history"),
}
"""Kinds of targets that stand apart in the saved rows."""


@torch.no_grad()
def measured(policy: Policy, data: EventDataModule, cold: pl.Series) -> pl.DataFrame:
    """Rank of every test event of all users over the catalogue, of cold ones among cold items too, and chance.

    Among cold items, those that were seen are not left out. `shown` is the share of the first ten that no training
    event has, `left_cold` such items in the catalogue.
    """
    sequences, parts = data.sequences, []
    cold_V = torch.from_numpy(sequences.items.is_in(cold.implode()).to_numpy())
    warm = sequences.features.warm if sequences.features else sequences.num_items
    for batch in data.loader(data.windows("test", "all")):
        state = policy.encode(batch)
        rank_T = policy.ranks(state, batch.target_T, batch.seen_N)
        is_cold_T = cold_V[batch.target_T.clamp(min=1) - 1] & (batch.target_T > 0)
        seen_T = torch.bincount(batch.seen_N[0], minlength=len(rank_T))
        has_cold_B = (cold_V[batch.item_BL.clamp(min=1) - 1] & (batch.item_BL > 0)).any(dim=1)
        among_T = torch.zeros_like(rank_T)
        if is_cold_T.any():
            among_T[is_cold_T] = among(policy, batch.keep(is_cold_T), cold_V)
        columns = {
            "event": batch.event_T,
            "rank": rank_T,
            "among": among_T,
            "left": sequences.num_items - seen_T,
            "left_cold": torch.full_like(seen_T, sequences.num_items - warm),
            "shown": (policy.top_k(state, TOP, batch.seen_N)[1] > warm).double().mean(dim=1),
            "cold_history": has_cold_B[batch.row_T],
        }
        parts.append(pl.DataFrame({key: x.numpy() for key, x in columns.items()}))
    found = pl.concat(parts)
    own = sequences.frame.select("event", "user", "item").with_columns(pl.col("event").cast(pl.Int64))
    table = found.join(own, on="event", how="left", maintain_order="left")
    raw = data.table.items.gather(table["item"])
    known = pl.Series(sequences.train_count > 0).gather(table["user"])
    is_cold = raw.is_in(cold.implode())
    return table.with_columns(item=raw.cast(pl.String), known=known, cold=is_cold)


def among(policy: Policy, batch: Batch, cold_V: torch.Tensor) -> torch.Tensor:
    """Ranks of cold targets among cold items. Shape: -> int64 (T,)."""
    logp_TV = policy.log_probs(policy.encode(batch))
    return ranks_from_scores(logp_TV.masked_fill(~cold_V, -torch.inf), batch.target_T - 1)


def table(ranks: pl.DataFrame, log: str, seeds: Sequence[int]) -> pl.DataFrame:
    """All figures of all rows, as results are saved."""
    said, lines = " ".join(map(str, seeds)), []
    others = {
        f"minus_{row}": ranks.filter(pl.col("row") == row).select("seed", "event", rank_less="rank", shown_less="shown")
        for row in (IDS, START)
    }
    for row in ranks["row"].unique(maintain_order=True):
        own = ranks.filter(pl.col("row") == row)
        lines += [(log, row, metric, *end, said, commit()) for metric, end in ends_of(own, figures(), log)]
        for name, other in others.items():
            if len(other) and name != f"minus_{row}":
                both = own.join(other, on=["seed", "event"], how="left").with_columns(pl.col("rank_less").fill_null(0))
                found = ends_of(both, differences(), log)
                lines += [(log, row, f"{metric}/{name}", *end, said, commit()) for metric, end in found]
    return frame(lines)


Figure = tuple[pl.Expr, pl.Expr, bool]
"""Which events, the gain of one, and whether items rather than events are averaged."""
Ends = tuple[float, float | None, float, float]


def figures() -> dict[str, Figure]:
    """Each figure of a row."""
    cold, every = pl.col("cold"), pl.col("rank").is_not_null()
    found: dict[str, Figure] = {f"cold/hr@{k}": (cold, hits("rank", k), False) for k in CUTS}
    for name, group in GROUPS.items():
        found[f"cold/{name}/hr@50"] = cold & group, hits("rank", 50), False
        found[f"warm/{name}/ndcg@10"] = ~cold & group, ndcg("rank"), False
    found["cold/ndcg@10"] = cold, ndcg("rank"), False
    found["cold/hr@50/items"] = cold, hits("rank", 50), True
    found["cold/among/hr@10"] = cold, hits("among", 10), False
    for k in CUTS:
        inside = pl.col("rank") > 0  # the catalogue of `ids` has no cold item
        found[f"chance/hr@{k}"] = cold, (k / pl.col("left")).clip(upper_bound=1.0) * inside, False
    found["shown"] = every, pl.col("shown"), False
    found["chance/shown"] = every, pl.col("left_cold") / pl.col("left"), False
    for name, chosen in (("all", every), ("warm", ~cold)):
        found[f"{name}/ndcg@10"] = chosen, ndcg("rank"), False
    return found


def differences() -> dict[str, Figure]:
    """What a row has over another one, event by event."""
    cold, every = pl.col("cold"), pl.col("rank").is_not_null()
    less = ndcg("rank") - ndcg("rank_less")
    return {
        "cold/hr@50": (cold, hits("rank", 50) - hits("rank_less", 50), False),
        "cold/ndcg@10": (cold, less, False),
        "all/ndcg@10": (every, less, False),
        "warm/ndcg@10": (~cold, less, False),
        "shown": (every, pl.col("shown") - pl.col("shown_less"), False),
    }


def hits(column: str, k: int) -> pl.Expr:
    return pl.col(column).is_between(1, k).cast(pl.Float64)


def ndcg(column: str) -> pl.Expr:
    def gain(rank: pl.Series) -> pl.Series:
        return pl.Series(gain_ndcg(rank.to_numpy(), 10))

    return pl.col(column).map_batches(gain, return_dtype=pl.Float64)


def ends_of(own: pl.DataFrame, asked: dict[str, Figure], log: str) -> list[tuple[str, Ends]]:
    """Figures of one row; those without an event are left out. In ``world`` each seed has people of its own."""
    found = []
    for metric, (chosen, gain, by_item) in asked.items():
        events = own.filter(chosen).select("seed", "user", "item", value=gain)
        if len(events):
            found.append((metric, ends(events, by_item, log == "world")))
    return found


def ends(events: pl.DataFrame, by_item: bool, worlds: bool) -> Ends:
    """Mean over seeds, sd between them, and an interval: Student's over worlds, else crossed over users and items."""
    if by_item:
        events = events.with_columns(weight=1 / pl.len().over("seed", "item"))
    else:
        events = events.with_columns(weight=pl.lit(1.0))
    weighted = (pl.col("value") * pl.col("weight")).sum() / pl.col("weight").sum()
    by_seed = events.group_by("seed", maintain_order=True).agg(value=weighted)["value"]
    if worlds:
        mean, sd, low, high = over_worlds(by_seed.to_numpy())
        return (mean, sd, low, high) if low is not None else (mean, None, *crossed(events))  # type: ignore[return-value]
    low, high = crossed(events)
    return float(by_seed.mean()), by_seed.std() if len(by_seed) > 1 else None, low, high  # type: ignore[arg-type, return-value]


def crossed(events: pl.DataFrame, draws: int = DRAWS) -> tuple[float, float]:
    """95 % interval of the weighted mean of values, users and items drawn with replacement (Owen 2007)."""
    user_N, item_N = (events[name].rank("dense").to_numpy() - 1 for name in ("user", "item"))
    weight_N, sizes = events["weight"].to_numpy(), (int(user_N.max()) + 1, int(item_N.max()) + 1)
    random = np.random.default_rng(0)
    user_UD, item_ID = (random.multinomial(n, np.full(n, 1 / n), size=draws).T.astype(float) for n in sizes)
    sum_D, weight_D = (
        (user_UD * (csr_array((each_N, (user_N, item_N)), shape=sizes) @ item_ID)).sum(axis=0)
        for each_N in (weight_N * events["value"].to_numpy(), weight_N)
    )
    drawn = weight_D > 0
    low, high = np.quantile(sum_D[drawn] / weight_D[drawn], [0.025, 0.975])
    return float(low), float(high)


def said(ranks: pl.DataFrame) -> str:
    """How many cold targets and items the figures rest on, and whether that is enough."""
    cold = ranks.filter(pl.col("cold") & (pl.col("row") == IDS))
    targets, items = len(cold), cold.n_unique(["seed", "item"])
    enough = targets >= LEAST_TARGETS and items >= LEAST_ITEMS
    few = "" if enough else f". Under {LEAST_TARGETS} targets or {LEAST_ITEMS} items nothing is to be concluded"
    return f"{targets:,} cold targets of {items:,} items, all seeds{few}"
