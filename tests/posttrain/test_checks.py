"""Settings that no training can make anything of are refused, by name, before there is one."""

from __future__ import annotations

import pytest
import small
from taste import Taste

from recalign.errors import InputError
from recalign.posttrain import (
    AWAC,
    CQL,
    GRPO,
    IQL,
    KTO,
    PPO,
    WBC,
    PairData,
    PostTrainingData,
    Preferences,
    Reinforce,
    WeightedSFT,
)
from recalign.recommender import RecommenderData
from recalign.reward import RewardData

NOTHING = [
    (WeightedSFT, {"temperature": 0.0}),
    (WeightedSFT, {"temperature": -0.3}),
    (WeightedSFT, {"temperature": float("nan")}),
    (WeightedSFT, {"clip": 0.0}),
    (WeightedSFT, {"lr": -1e-3}),
    (Preferences, {"beta": 0.0, "loss": "ipo"}),
    (KTO, {"beta": -1.0}),
    (CQL, {"temperature": 0.0}),
    (IQL, {"beta": -1.0}),
    (IQL, {"expectile": 1.0}),
    (AWAC, {"beta": -1.0}),
    (AWAC, {"samples": 0}),
    (Reinforce, {"k": 0}),
    (Reinforce, {"cap": 0.0}),
    (PPO, {"refresh": 0}),
    (PPO, {"candidates": 0}),
    (PPO, {"clip": 0.0}),
    (PPO, {"samples": 0}),
    (GRPO, {"samples": 1}),
    (WBC, {"negatives": 0}),
    (GRPO, {"early": 0.0}),
    (WeightedSFT, {"top_k": 0}),
]


@pytest.mark.parametrize(("method", "settings"), NOTHING, ids=lambda each: getattr(each, "__name__", str(each)))
def test_what_leads_nowhere_is_refused_before_anything_is_read(start, log_root, tmp_path, method, settings):
    own = {"reward_net": Taste([0, 1])} if method in (PPO, GRPO) else {}
    module = small.free(method, policy=start, **own, **settings)
    with pytest.raises(InputError, match=rf"model\.{next(iter(settings))}: "):
        small.fit(module, small.data_of(RewardData, log_root, "tastes"), tmp_path)


def test_a_negative_width_of_intervals_is_refused(log_root):
    with pytest.raises(InputError, match=r"data\.width: -1\.0 is not 0 or above"):
        small.data_of(PairData, log_root, pairs="ensemble", width=-1.0)


def test_a_soft_baseline_needs_a_lambda(log_root):
    with pytest.raises(InputError, match=r"data\.soft: 0\.0 is not above 0"):
        small.data_of(PostTrainingData, log_root, baseline="soft", soft=0.0)


@pytest.mark.parametrize(
    ("method", "kind", "needed"),
    [
        (WeightedSFT, RecommenderData, "PostTrainingData"),
        (WeightedSFT, RewardData, "PostTrainingData"),
        (CQL, RecommenderData, "PostTrainingData"),
        (Reinforce, RecommenderData, "PostTrainingData"),
        (KTO, PairData, "PostTrainingData"),
        (Preferences, PostTrainingData, "PairData"),
        (PPO, RecommenderData, "RewardData"),
    ],
)
def test_data_that_a_method_cannot_learn_from_is_refused(log_root, start, tmp_path, method, kind, needed):
    own = {"reward_net": Taste([0, 1])} if method is PPO else {}
    data = small.data_of(kind, log_root, "tastes")
    with pytest.raises(InputError, match=rf"cannot learn from {kind.__name__}\n  -> give recalign\.\w+\.{needed},"):
        small.fit(small.free(method, policy=start, **own), data, tmp_path)
