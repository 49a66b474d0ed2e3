"""A frozen reward model as the world that a policy acts in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recalign.errors import InputError
from recalign.posttrain.upstream import check_reward
from recalign.recommender.checkpoint import check_catalogue, load_net
from recalign.reward import RewardData, RewardEnsemble
from recalign.sequences import Batch, EventDataModule


class Environment(nn.Module):
    """What a reward model expects of items, in standard deviations from the mean of the training rewards.

    Args:
        path: checkpoint of the reward model.
        reward: a reward model instead of a checkpoint's.

    Raises:
        InputError: neither is given, or the checkpoint cannot be used.
    """

    def __init__(self, path: str | None, reward: RewardEnsemble | None) -> None:
        super().__init__()
        self.where, self.catalogue, self.facts = path or "model.reward", None, None
        if reward is None:
            if path is None:
                raise InputError(
                    "there is no reward model to ask what items are worth",
                    where="model.reward_model",
                    remedy="name a checkpoint, or run first: recalign fit --config conf/reward.yaml",
                )
            loaded = load_net(path, "reward")
            reward, self.catalogue, self.facts = loaded.net, loaded.catalogue, loaded.facts
        self.reward: RewardEnsemble = reward.requires_grad_(False)
        self.mean, self.scale = 0.0, 1.0

    def train(self, mode: bool = True) -> Environment:
        return super().train(False)  # it never learns

    def setup(self, data: EventDataModule) -> None:
        """Take the unit of the log's rewards, and make sure that the reward model predicts numbers for its items.

        Raises:
            InputError: it is of another catalogue or another reward, or what it predicts on the first training batch is
                no number.
        """
        assert isinstance(data, RewardData)
        check_catalogue(self.catalogue, data.sequences.catalogue, self.where)
        if self.facts is not None:
            check_reward(self.facts, data.reward, self.where)
        self.mean, self.scale, _ = data.moments()
        batch = next(iter(data.train_dataloader()))
        if not self.train()(batch, batch.target_T[:, None]).isfinite().all():
            raise InputError(
                "the reward model predicts what is no number",
                where=self.where,
                remedy="train it anew, with a lower learning rate or in fp32",
            )

    @torch.no_grad()
    def forward(self, batch: Batch, item_TS: Tensor) -> Tensor:
        """Expected rewards of some items at each state of a batch. Shape: (T, S) -> (T, S)."""
        predicted_TS = self.reward.predict(self.reward.states(batch), item_TS)
        return (predicted_TS - self.mean) / self.scale
