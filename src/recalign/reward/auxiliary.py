"""Further rewards that a reward model learns in addition to ``data.reward``; nothing else reads them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import polars as pl
import torch
from torch import Tensor, nn

from recalign.data.events.checking import read_rewards
from recalign.data.events.expression import refuse_names
from recalign.data.events.log import PREPARED
from recalign.data.events.messages import SourceRows
from recalign.data.sequences import Batch
from recalign.data.sequences.splits import TRAIN
from recalign.data.sequences.store import ADDED
from recalign.distributed import all_gather_rows
from recalign.errors import InputError
from recalign.ranges import NonNegative
from recalign.recommender.training import adamw
from recalign.reward.data import RewardData
from recalign.reward.heads import MeanHead
from recalign.reward.module import RewardModel, bagged_mean, prediction_errors
from recalign.reward.net import RewardNet, Scorer

TAKEN_NAMES = ("reward", "event", "imitation", "loss", "test")
"""Names of terms, figures and columns that a reward model has anyway."""


class AuxiliaryRewardData(RewardData):
    """`RewardData` with auxiliary rewards.

    Args:
        auxiliary: the auxiliary rewards by name, each Polars SQL over the log's columns.
        **data: arguments of `RewardData`.
    """

    def __init__(self, auxiliary: dict[str, str], **data: Any) -> None:
        super().__init__(**data)
        self.auxiliary = auxiliary
        for name in auxiliary:
            if not name.isidentifier() or name in TAKEN_NAMES or hasattr(nn.ModuleDict(), name):
                remedy = "use letters, digits and _, such as long_view; `reward`, `event` and the like are taken"
                raise InputError(f"{name!r} cannot name a reward", where="data.auxiliary", remedy=remedy)

    @functools.cached_property
    def auxiliary_rewards(self) -> pl.DataFrame:
        """Auxiliary rewards of every event: a f32 column each, null where there is none.

        Raises:
            InputError: an expression cannot be used, or has the same value for all training events of the group.
        """
        frame, columns = self.sequences.frame, []
        for name, expression in self.auxiliary.items():
            refuse_names(expression, {*PREPARED, *ADDED}, f"data.auxiliary.{name}")
            values = read_rewards(frame, SourceRows(frame["row"]), expression, f"data.auxiliary.{name}")
            values = values.cast(pl.Float32).alias(name)
            rated = values.gather(self.frame.filter(pl.col("split") == TRAIN)["event"]).drop_nulls()
            self.require_variety(rated, f"data.auxiliary.{name}")
            columns.append(values)
        return pl.DataFrame(columns)


class AuxiliaryRewardModel(RewardModel):
    """`RewardModel` that also learns `AuxiliaryRewardData.auxiliary`, each with a scorer of its own.

    Logs, besides what `RewardModel` does, ``train/<auxiliary>`` and ``reward/<auxiliary>/{rmse,r2}``.

    Args:
        num_items: V; linked from the data by the command.
        auxiliary_weight: weight of the auxiliary rewards' squared errors, in units of each reward's variance.
        **reward: arguments of `RewardModel`.
    """

    auxiliary_EA: Tensor

    def __init__(self, num_items: int, auxiliary_weight: NonNegative[float] = 1.0, **reward: Any) -> None:
        super().__init__(num_items, **reward)
        self.auxiliary_weight = auxiliary_weight
        self.auxiliary: list[Mapping[str, Scorer]] = nn.ModuleList()  # type: ignore[assignment]
        self.register_buffer("auxiliary_EA", torch.empty(0, 0), persistent=False)

    @property
    def auxiliary_data(self) -> AuxiliaryRewardData:
        if not isinstance(self.data, AuxiliaryRewardData):
            remedy = "give recalign.reward.AuxiliaryRewardData"
            raise InputError("there are no auxiliary rewards", where="data.class_path", remedy=remedy)
        return self.data

    def calibrate(self, data: RewardData) -> None:
        super().calibrate(data)
        rewards, train = self.auxiliary_data.auxiliary_rewards, data.frame.filter(pl.col("split") == TRAIN)
        self.auxiliary_EA = torch.tensor(rewards.fill_null(float("nan")).to_numpy())
        with torch.random.fork_rng(devices=[]):  # Lightning seeds anew where it starts several processes
            torch.manual_seed(data.seed)
            for net in self.reward.nets:
                make = functools.partial(Scorer, net.dim, net.num_items, net.members)
                self.auxiliary.append(nn.ModuleDict({name: make(MeanHead()) for name in rewards.columns}))
        for name, scorer in ((name, scorer) for scorers in self.auxiliary for name, scorer in scorers.items()):
            value = rewards[name].gather(train["event"])
            item = train["item_id"].filter(value.is_not_null()).to_numpy()
            value = value.drop_nulls().to_numpy()
            scorer.calibrate(value, data.item_means(value, item))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adamw(nn.ModuleList([self.reward, self.auxiliary]), self.lr, self.weight_decay)  # type: ignore[list-item]

    def further_losses(
        self, number: int, batch: Batch, summary_TD: Tensor, table_VD: Tensor, weight_TM: Tensor
    ) -> dict[str, Tensor]:
        losses = {}
        for a, (name, scorer) in enumerate(self.auxiliary[number].items()):
            reward_T = self.auxiliary_EA[batch.event_T, a]
            loss_MT = scorer.losses(scorer.project(summary_TD), table_VD, batch.target_T, reward_T)
            loss = bagged_mean(all_gather_rows(loss_MT.T).T, weight_TM.T, all_gather_rows(reward_T))
            losses[name] = self.auxiliary_weight * loss
        return losses

    def predicted(self, batch: Batch, item_T: Tensor) -> dict[str, Tensor]:
        def auxiliary(name: str, net: RewardNet, scorers: Mapping[str, Scorer]) -> Tensor:
            summary_TD, _ = net.summarise(batch, net.trunk.encode(batch))
            return scorers[name].predictions(scorers[name].project(summary_TD), net.table_VD, item_T)

        each = list(zip(self.reward.nets, self.auxiliary, strict=True))
        names = self.auxiliary_data.auxiliary
        found = {name: torch.cat([auxiliary(name, *both) for both in each]).mean(dim=0) for name in names}
        return super().predicted(batch, item_T) | found

    def further_figures(self, predicted: pl.DataFrame) -> dict[str, float]:
        figures = {}
        for name in self.auxiliary_data.auxiliary:
            reward = self.auxiliary_data.auxiliary_rewards[name].gather(predicted["event"])
            found = prediction_errors(reward, predicted[name])
            figures |= {f"{name}/{figure}": found[figure] for figure in ("rmse", "r2")}
        return figures
