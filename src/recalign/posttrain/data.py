"""Logged events with advantages, computed once before training from the start and the reward model."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from recalign.data.sequences import Batch, Windows, reward_means
from recalign.errors import InputError, Positive
from recalign.recommender.checkpoint import Loaded, load_or_copy
from recalign.recommender.policy import Policy
from recalign.reward.data import RewardData
from recalign.reward.net import RewardEnsemble

Source = Literal["observed", "predicted", "shrunk"]
StateValue = Literal["none", "global", "user", "item", "user_item", "value", "soft"]


class PostTrainingData(RewardData):
    """Training events with an advantage A_e = r_e - V(s_e), in standard deviations of the log's rewards.

    The unit is not the advantage's own standard deviation: a weak reward model predicts nearly the same for all
    events, and its advantages should stay small. The defaults are A-SFT's recommended form.

    Args:
        source: the reward r: ``predicted`` by the reward model (events without a logged reward still do not count),
            ``observed``: the logged one, or ``shrunk``: rho r_hat + (1 - rho) r, rho the reward model's measured
            reliability. r_hat excludes the event's own influence on its item's factors, but not what the network
            memorised about it; rho, measured on other events, does not correct for that.
        baseline: the state value V: 0 (``none``), the mean reward (``global``), the user's earlier mean, the
            item's mean, both (``user_item``), the expected reward under the starting policy (``value``), or its
            soft form (``soft``).
        soft: lambda of the soft state value, in the unit of the reward.
        init_from: checkpoint of the starting policy, if needed; null in a configuration: the one of this log and seed.
        reward_model: checkpoint of the reward model, if needed; null in a configuration: the one of this log and seed.
        policy: the starting policy itself, instead of a checkpoint (Python only); copied.
        reward_net: the reward model itself, instead of a checkpoint (Python only); copied. Predictions of training
            events need it as `Loaded`, with its self-influence (`StageModule.hand_over`).
        **data: arguments of `recalign.reward.RewardData`.
    """

    reads_skipped = False
    state_values: ClassVar[Callable[[PostTrainingData, Windows], np.ndarray]]
    """Computes V for ``value`` and ``soft``; the package sets `recalign.posttrain.state_values`."""

    def __init__(
        self,
        source: Source = "predicted",
        baseline: StateValue = "user",
        soft: Positive[float] = 1.0,
        init_from: str | None = None,
        reward_model: str | None = None,
        policy: Policy | Loaded | None = None,
        reward_net: RewardEnsemble | Loaded | None = None,
        **data: Any,
    ) -> None:
        super().__init__(**data)
        self.check_settings({"soft": soft})
        self.source, self.baseline, self.soft = source, baseline, soft
        self.start_args, self.reward_args = (init_from, policy), (reward_model, reward_net)

    @classmethod
    def upstream(cls, init_args: dict[str, Any]) -> dict[str, str]:
        """The stages whose checkpoints these settings need, by argument name."""
        needs = {}
        if init_args["source"] != "observed" or init_args["baseline"] in ("value", "soft"):
            needs["reward_model"] = "reward"
        if init_args["baseline"] in ("value", "soft"):
            needs["init_from"] = "recommender"
        return needs

    def training_windows(self) -> Windows:
        """The training windows, before advantages are added."""
        return RewardData.training(self).in_memory()

    def training(self) -> Windows:
        windows = self.training_windows()
        return dataclasses.replace(windows, advantage=self.advantages[windows.event])

    @functools.cached_property
    def advantages(self) -> np.ndarray:
        """Advantages of training events in standard deviations of the reward; NaN for others. Shape: (events,)."""
        windows = self.training_windows()
        out_E = np.full(len(self.logged_rewards), np.nan, np.float32)
        out_E[windows.event] = self.unscaled_advantages(windows) / self.reward_moments().sd
        return out_E

    def unscaled_advantages(self, windows: Windows) -> np.ndarray:
        """r - V of each target, in the unit of the reward. Shape: float64 (T,)."""
        advantage_T = (self.rewards(windows) - self.values(windows))[windows.event]
        known_T = ~np.isnan(advantage_T)
        if not known_T.any() or np.ptp(advantage_T[known_T]) == 0:  # rounding may give equal values an sd above 0
            what = f"no two events differ in their advantage (source {self.source}, baseline {self.baseline})"
            remedy = "give a reward that differs between events, or another baseline"
            raise InputError(what, where="data.reward", remedy=remedy)
        return advantage_T

    @torch.no_grad()
    def rewards(self, windows: Windows) -> np.ndarray:
        """r of every event; predictions exclude the event's influence on its item. Shape: float64 (events,)."""
        if self.source == "observed":
            return self.logged_rewards
        loaded = self.loaded_reward_model(f"source {self.source!r}")
        if loaded.self_influence is None:
            text = "this reward model has no self-influence, which predictions for its own training events need"
            remedy = "give the reward model's checkpoint, or what module.hand_over('reward') returns"
            raise InputError(text, where=loaded.where, remedy=remedy)
        reward: RewardEnsemble = loaded.net
        out = torch.full((len(self.logged_rewards),), torch.nan)
        for batch in self.batches(windows):
            event_T = batch.event_T.cpu()
            influence_TF = loaded.self_influence[event_T].to(batch.event_T.device)
            out[event_T] = reward.predict(reward.states(batch), batch.target_T, influence_TF).cpu()
        predicted = out.double().numpy()
        if self.source == "predicted":
            return np.where(np.isnan(self.logged_rewards), np.nan, predicted)  # all methods train on the same events
        if "reliability" not in loaded.facts:
            text = "this reward model was never validated, so its reliability is not known"
            remedy = "train it with validation, or use source observed or predicted"
            raise InputError(text, where=loaded.where, remedy=remedy)
        rho = loaded.facts["reliability"]
        return rho * predicted + (1 - rho) * self.logged_rewards

    def values(self, windows: Windows) -> np.ndarray:
        """V of every event. Shape: float64 (events,)."""
        if self.baseline == "none":
            return np.zeros(len(self.logged_rewards))
        if self.baseline in ("value", "soft"):
            return self.state_values(windows)
        values = np.full(len(self.logged_rewards), np.nan)
        values[self.target_events["event"].to_numpy()] = reward_means(self.target_events)[self.baseline].to_numpy()
        return values

    def loaded_reward_model(self, needed_by: str) -> Loaded:
        """The reward model, on the trainer's device, in eval mode; refuses judges and models of other rewards."""
        loaded = load_or_copy(*self.reward_args, "reward", where="data.reward_model", needed_by=needed_by)
        loaded.check(self)
        loaded.refuse_judge(self)
        loaded.net.eval().to(self.device)
        return loaded

    def batches(self, windows: Windows) -> Iterator[Batch]:
        """Iterate once over all targets, on the trainer's device."""
        return (batch.to(self.device) for batch in self.loader(windows, seen=False))
