"""Data of reward models and judges: events with rewards, of one group of users."""

from __future__ import annotations

import copy
import dataclasses
import functools
from typing import Any, Literal, Self

import numpy as np
import polars as pl
from torch import nn

from recalign.data.events.checking import read_rewards
from recalign.data.events.expression import refuse_names
from recalign.data.events.log import PREPARED
from recalign.data.events.messages import SourceRows
from recalign.data.sequences import (
    EventDataModule,
    NextEvents,
    Windows,
    correlation_within_users,
    permuted_rewards,
    reward_means,
)
from recalign.data.sequences.means import SHRINKAGE
from recalign.data.sequences.placebo import CORRELATION
from recalign.data.sequences.splits import TRAIN, VALIDATION
from recalign.data.sequences.store import ADDED, Group, Part
from recalign.data.sequences.windows import training_windows
from recalign.errors import InputError
from recalign.recommender.cooccurrence import cooccurrence_embedding
from recalign.reward.matrix_factorization import VariationalMF, fit_variational_mf

TAKEN = ("reward", "event", "imitation", "loss", "test")
"""Names of terms, figures and columns that a reward model has anyway."""


class RewardData(EventDataModule):
    """The training events of one group of users, with their rewards.

    Args:
        auxiliary: auxiliary rewards by name, each Polars SQL over the log's columns. A reward model learns them in
            addition to ``reward``; nothing else reads them.
        users: the group that is trained on: A for reward models, B1 or B2 for judges.
        placebo: ``permuted``: a negative control. The rewards of training events are permuted over all users of the
            group (`recalign.data.sequences.permuted_rewards`), and all that is learned or averaged is made of these.
            The rewards in histories, those of validation and test, and ``auxiliary`` ones stay as logged.
        **data: arguments of `recalign.data.sequences.EventDataModule`.

    Raises (before training):
        InputError: no event of the training part has a reward, or all have the same.
    """

    def __init__(
        self,
        auxiliary: dict[str, str] | None = None,
        users: Group = "A",
        placebo: Literal["none", "permuted"] = "none",
        **data: Any,
    ) -> None:
        super().__init__(users=users, **data)
        self.placebo: str = placebo
        self.auxiliary = auxiliary or {}
        for name in self.auxiliary:
            if not name.isidentifier() or name in TAKEN or hasattr(nn.ModuleDict(), name):
                remedy = "use letters, digits and _, such as long_view; `reward`, `event` and the like are taken"
                raise InputError(f"{name!r} cannot name a reward", where="data.auxiliary", remedy=remedy)

    @functools.cached_property
    def observed(self) -> np.ndarray:
        """The logged reward of every event, NaN where there is none. Shape: float64 (events,)."""
        return self.sequences.frame["reward"].cast(pl.Float64).fill_null(float("nan")).to_numpy()

    @functools.cached_property
    def logged(self) -> pl.DataFrame:
        """The group's events as logged."""
        sequences = self.sequences
        chosen = pl.Series(sequences.users_in(self.users)).gather(sequences.frame["user"])
        return sequences.frame.filter(chosen)

    @functools.cached_property
    def frame(self) -> pl.DataFrame:
        """The group's events; under a placebo, those of training have permuted rewards."""
        if self.placebo != "permuted":
            return self.logged
        reward = self.permuted(self.observed)[self.logged["event"].to_numpy()]
        return self.logged.with_columns(pl.Series("reward", reward).fill_nan(None))

    def permuted(self, reward_E: np.ndarray) -> np.ndarray:
        """Permute rewards of the group's training events; others stay. Shape: (events,), NaN where there is none."""
        rated = self.logged.filter((pl.col("split") == TRAIN) & pl.col("reward").is_not_null())
        event, user = rated["event"].to_numpy(), rated["user"].to_numpy()
        out_E = reward_E.copy()
        out_E[event] = permuted_rewards(reward_E[event], user, self.seed)
        return out_E

    def as_placebo(self) -> Self:
        """The same data with permuted rewards."""
        other = copy.copy(self)
        other.placebo = "permuted"
        for made_of_rewards in ("frame", "rated", "means"):
            vars(other).pop(made_of_rewards, None)
        return other

    @property
    def correlation(self) -> float:
        """Correlation of the rewards that a placebo trains on with the logged ones, after user means are taken out."""
        event, user = self.rated["event"].to_numpy(), self.rated["user"].to_numpy()
        return correlation_within_users(self.observed[event], self.rated["reward"].to_numpy(), user)

    def facts(self) -> dict[str, Any]:
        return {CORRELATION: self.correlation} if self.placebo != "none" else {}

    @functools.cached_property
    def rated(self) -> pl.DataFrame:
        """The group's training events that have a reward."""
        rated = self.frame.filter((pl.col("split") == TRAIN) & pl.col("reward").is_not_null())
        self._require_variety(rated["reward"], "data.reward")
        return rated

    def _require_variety(self, rewards: pl.Series, key: str) -> None:
        if self.frame.is_empty():
            remedy = "give another share (A has it, B1 and B2 halve the rest), or a log of more users"
            raise InputError(f"there are no users {self.users} in this log", where="data.share_a", remedy=remedy)
        if rewards.n_unique() < 2:
            found = f"all rewards are {rewards[0]}" if len(rewards) else "no event has a reward"
            remedy = "give a reward expression that differs between events, or check data.split and data.users"
            raise InputError(f"{found} in the training part of users {self.users}", where=key, remedy=remedy)

    @functools.cached_property
    def auxiliary_rewards(self) -> pl.DataFrame:
        """Auxiliary rewards of every event: a f32 column each, null where there is none.

        Raises:
            InputError: an expression cannot be used, or has the same value for all training events of the group.
        """
        frame = self.sequences.frame
        columns = []
        for name, expression in self.auxiliary.items():
            refuse_names(expression, {*PREPARED, *ADDED}, f"data.auxiliary.{name}")
            values = read_rewards(frame, SourceRows(frame["row"]), expression, f"data.auxiliary.{name}")
            values = values.cast(pl.Float32).alias(name)
            rated = values.gather(self.frame.filter(pl.col("split") == TRAIN)["event"]).drop_nulls()
            self._require_variety(rated, f"data.auxiliary.{name}")
            columns.append(values)
        return pl.DataFrame(columns)

    @functools.cached_property
    def means(self) -> pl.DataFrame:
        """The group's events, their reward and what averages predict (`recalign.data.sequences.reward_means`)."""
        return pl.concat([self.frame.select("event", "reward"), reward_means(self.frame)], how="horizontal")

    def is_rated(self, part: Part) -> bool:
        """Whether any event of a part has a reward and an item known from training."""
        windows = self.windows(part)
        return not np.isnan(windows.reward[windows.target > 0]).all()

    def require_rated(self, part: Part) -> None:
        """Check that a reward model can be measured on a part.

        Raises:
            InputError: no event of the part has a reward and an item known from training.
        """
        if not self.is_rated(part):
            text = f"no event of the {part} part of users {self.users} has a reward to measure the model on"
            remedy = "choose another split, or a reward expression that is known for more events"
            raise InputError(text, where="data.split", remedy=remedy)

    def moments(self) -> tuple[float, float, np.ndarray]:
        """Mean and standard deviation of the training rewards, and each item's shrunk mean (V,)."""
        reward = self.rated["reward"].to_numpy()
        means_V = self.item_means(reward, self.rated["item_id"].to_numpy())
        return float(reward.mean()), float(reward.std(ddof=1)), means_V

    def item_means(self, reward: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Each item's mean reward, shrunk towards the global mean. Shape: (N,), int64 (N,) -> (V,)."""
        total = np.bincount(item - 1, reward, self.num_items) + SHRINKAGE * reward.mean()
        return (total / (np.bincount(item - 1, minlength=self.num_items) + SHRINKAGE)).astype(np.float32)

    def factorization(self, rank: int, features: int) -> VariationalMF:
        """Factorise the training rewards. Rank and item features are chosen by validation error.

        The candidates are ``rank``, a half and a quarter of it, all without item features, and ``rank`` with them. The
        error is measured on validation events of users seen in training, after refitting each user's bias, because the
        reward model refits it at every event.

        Args:
            rank: largest number of latent factors.
            features: dimensions of the item features, a co-occurrence embedding; 0: none. (With few users, each user's
                own choices make up too much of it, and it reveals who chose an item.)
        """
        size = (int(self.frame["user"].max()) + 1, self.num_items + 1)  # type: ignore[arg-type]
        candidates: list[tuple[int, np.ndarray | None]] = [
            (part, None) for part in sorted({rank, -(-rank // 2), -(-rank // 4)})
        ]
        candidates += [(rank, self.cooccurrence(features))] * bool(features)
        in_part = pl.col("reward").is_not_null() & (pl.col("item_id") > 0) & (pl.col("split") == VALIDATION)
        measured = self.frame.filter(in_part)
        seen = measured.filter(pl.col("user").is_in(self.rated["user"].unique().implode()))
        user, item, reward = _columns(seen if len(seen) else measured)

        def error(fitted: VariationalMF) -> float:
            residual_N = reward - fitted.expected(user, item)
            bias_U = np.bincount(user, residual_N) / (np.bincount(user) + fitted.ridge_F[0])
            return float(np.nan_to_num(np.square(residual_N - bias_U[user]).sum(), nan=np.inf))

        return min((fit_variational_mf(*_columns(self.rated), size, *each) for each in candidates), key=error)

    def cooccurrence(self, dimensions: int) -> np.ndarray:
        """Co-occurrence embeddings of the items in the group's training events. Shape: float64 (V + 1, dimensions)."""
        training = self.frame.filter(pl.col("split") == TRAIN)
        user_N, item_N = (training[name].cast(pl.Int64).to_numpy() for name in ("user", "item_id"))
        return cooccurrence_embedding(user_N, item_N, self.num_items + 1, dimensions)

    def self_influence(self, factorization: VariationalMF, rank: int) -> np.ndarray:
        """How far each event moved its item's bias and factors; 0 for events that the factorisation did not see.

        Shape: float32 (events, 1 + rank).
        """
        influence_NG = factorization.self_influence(*_columns(self.rated))
        out_EF = np.zeros((len(self.sequences.frame), 1 + rank), np.float32)
        out_EF[self.rated["event"].to_numpy(), : influence_NG.shape[1]] = influence_NG
        return out_EF

    def auxiliary_training(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Training values of an auxiliary reward, and their items 1..V. Shape: (N,), int64 (N,)."""
        train = self.frame.filter(pl.col("split") == TRAIN)
        reward = self.auxiliary_rewards[name].gather(train["event"])
        return reward.drop_nulls().to_numpy(), train["item_id"].filter(reward.is_not_null()).to_numpy()

    def expected_rewards(self, event: np.ndarray) -> pl.DataFrame:
        """Look up the rows of `means` for events, in the given order."""
        wanted = pl.DataFrame({"event": event}, schema={"event": pl.UInt32})
        return wanted.join(self.means, on="event", how="left", maintain_order="left")

    def of_others(self, most: int) -> Windows:
        """The training windows of users outside the group, whose rewards no target of the group's model shows.

        Args:
            most: users; of more, every so many-th is taken.
        """
        windows = training_windows(self.sequences, ~self.sequences.users_in(self.users), self.max_length)
        return windows.take(np.arange(0, len(windows), max(1, -(-len(windows) // most))))

    def training(self) -> Windows | NextEvents:
        self.rated  # noqa: B018 (raises if there is nothing to learn)
        windows = super().training()
        if self.placebo != "permuted":
            return windows
        windows = windows.in_memory()
        reward_T = self.permuted(self.observed)[windows.event]
        return dataclasses.replace(windows, reward=reward_T.astype(np.float32))


def _columns(frame: pl.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return frame["user"].to_numpy(), frame["item_id"].to_numpy(), frame["reward"].to_numpy()
