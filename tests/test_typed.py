"""The arguments that constructors pass on, as editors read them, are those of the base class."""

from __future__ import annotations

from typing import get_type_hints

import pytest

from recalign.posttrain.actions import SampledActions, SampledSettings
from recalign.posttrain.base import PostTraining, TrainingSettings
from recalign.posttrain.data import PostTrainingData, UpstreamData, UpstreamSettings
from recalign.posttrain.rollout import OnlineSettings, OnlineTraining
from recalign.posttrain.values import ValueMethod, ValueSettings
from recalign.posttrain.weighted import WeightedSFT
from recalign.recommender.module import Cloning, CloningSettings
from recalign.reward.data import RewardData, RewardSettings
from recalign.sequences.data import EventDataModule, LogSettings
from recalign.stage.classes import arguments_of

PASSED_ON = [  # the settings, whose arguments they are, and those that every subclass has of its own
    (TrainingSettings, PostTraining, {"lr"}),
    (ValueSettings, ValueMethod, {"lr"}),
    (OnlineSettings, OnlineTraining, {"lr", "share"}),
    (SampledSettings, SampledActions, {"lr"}),
    (CloningSettings, Cloning, {"lr", "policy"}),
    (LogSettings, EventDataModule, {"users"}),
    (RewardSettings, RewardData, {"placebo"}),
    (UpstreamSettings, UpstreamData, {"placebo"}),
]


@pytest.mark.parametrize(("settings", "kind", "own"), PASSED_ON, ids=lambda one: getattr(one, "__name__", ""))
def test_settings_are_the_arguments_with_their_types(settings, kind, own):
    found = arguments_of(kind)
    assert {name: found[name].hint for name in found if name not in own} == get_type_hints(settings)


def test_the_command_reads_defaults_where_they_are():
    assert arguments_of(WeightedSFT)["keep"].default == arguments_of(PostTraining)["keep"].default == 0.97
    assert arguments_of(PostTrainingData)["max_length"].default == 200
