"""Data that is prepared with networks of earlier stages."""

from __future__ import annotations

from typing import Any

from recalign.recommender.checkpoint import Loaded, load_or_copy
from recalign.recommender.policy import Policy
from recalign.reward import RewardData, RewardEnsemble


class UpstreamData(RewardData):
    """Training events, and the starting policy and reward model that a subclass may need to prepare them.

    Args:
        init_from: checkpoint of the starting policy, where one is needed; null in a configuration: the newest.
        reward_model: checkpoint of the reward model, where one is needed; null in a configuration: the newest.
        policy: the starting policy itself, instead of a checkpoint (Python only); copied.
        reward_net: the reward model itself, instead of a checkpoint (Python only); copied. Predictions of training
            events need it as `Loaded`, with its self-influence (`StageModule.hand_over`).
        **log: what `recalign.reward.RewardData` takes.
    """

    def __init__(
        self,
        init_from: str | None = None,
        reward_model: str | None = None,
        policy: Policy | Loaded | None = None,
        reward_net: RewardEnsemble | Loaded | None = None,
        **log: Any,
    ) -> None:
        super().__init__(**log)
        self.upstreams = {
            "policy": ("data.init_from", init_from, policy),
            "reward": ("data.reward_model", reward_model, reward_net),
        }

    def network(self, name: str, needed_by: str) -> Loaded:
        """The ``policy`` or the ``reward`` model, in evaluation mode.

        Args:
            name: which.
            needed_by: the setting that needs it, for the message.

        Raises:
            InputError: there is none, it cannot be read, or it is of another catalogue or reward.
        """
        where, path, given = self.upstreams[name]
        loaded = load_or_copy(path, given, name, where=where, needed_by=needed_by)
        loaded.check(self)
        loaded.net.eval()
        return loaded
