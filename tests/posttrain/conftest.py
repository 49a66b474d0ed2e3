"""What the tests of several methods share."""

from __future__ import annotations

import pytest
from taste import Taste

from recalign.recommender.checkpoint import load_net


@pytest.fixture(scope="module")
def start(cloned):
    """The cloned policy."""
    return load_net(cloned, "policy").net.eval()


@pytest.fixture(scope="module")
def taste(data):
    """A reward model that is right, of the module's own ``data``."""
    return Taste([int(item) % 2 for item in data.sequences.items.to_list()])
