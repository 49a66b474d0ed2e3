"""What the tests of several methods share."""

from __future__ import annotations

import pytest
import small
from taste import Taste

from recalign.recommender.checkpoint import load_net
from recalign.reward import RewardData


@pytest.fixture(scope="module")
def start(cloned):
    """The cloned policy."""
    return load_net(cloned, "policy").net.eval()


@pytest.fixture(scope="module")
def taste(log_root):
    """A reward model that is right about ``tastes.csv``."""
    data = small.data_of(RewardData, log_root, "tastes")
    return Taste([int(item) % 2 for item in data.sequences.items.to_list()])
