"""The arguments that constructors pass on, as editors read them, are those of the base class."""

from __future__ import annotations

from typing import Any, get_type_hints

import pytest
from jsonargparse import ArgumentParser
from lightning import LightningDataModule, LightningModule

from recalign.data.sequences.data import EventDataModule, LogSettings
from recalign.posttrain.actions import SampledActions, SampledSettings
from recalign.posttrain.base import PostTraining, TrainingSettings
from recalign.posttrain.data import PostTrainingData, UpstreamData, UpstreamSettings
from recalign.posttrain.rollout import OnlineSettings, OnlineTraining
from recalign.posttrain.values import ValueMethod, ValueSettings
from recalign.posttrain.weighted import WeightedSFT
from recalign.recommender.module import Cloning, CloningSettings
from recalign.reward.data import RewardData, RewardSettings

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


def defaults_of(kind: type) -> dict[str, Any]:
    """The arguments of a class and their defaults, as the command reads them."""
    parser = ArgumentParser()
    parser.add_class_arguments(kind, "own", fail_untyped=False)
    return vars(parser.get_defaults().own)


def hints_of(kind: type) -> dict[str, Any]:
    """The types of all arguments, those of base classes too."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if issubclass(base, (LightningModule, LightningDataModule)) and "__init__" in vars(base):
            found |= get_type_hints(base.__init__)
    return found


@pytest.mark.parametrize(("settings", "kind", "own"), PASSED_ON, ids=lambda one: getattr(one, "__name__", ""))
def test_settings_are_the_arguments_with_their_types(settings, kind, own):
    hints = hints_of(kind)
    assert {name: hints[name] for name in defaults_of(kind) if name not in own} == get_type_hints(settings)


def test_the_command_reads_defaults_where_they_are():
    assert defaults_of(WeightedSFT)["keep"] == defaults_of(PostTraining)["keep"] == 0.97
    assert defaults_of(PostTrainingData)["max_length"] == 200
