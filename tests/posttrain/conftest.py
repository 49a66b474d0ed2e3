"""What the tests of several methods share."""

from __future__ import annotations

import pytest
import small
from taste import Taste

from recalign.recommender.checkpoint import load_net
from recalign.reward import RewardData


@pytest.fixture(scope="module")
def start(cloned):
    """The cloned policy without its memory, which knows ``tastes.csv`` so well that methods add little."""
    policy = load_net(cloned, "policy").net.eval()
    policy.remember(None)
    return policy


@pytest.fixture(scope="module")
def taste(log_root):
    """A reward model that is right about ``tastes.csv``."""
    data = small.data_of(RewardData, log_root, "tastes")
    return Taste([int(item) % 2 for item in data.sequences.items.to_list()])
