"""A trained policy alone, for ``recalign validate|test|predict``."""

from __future__ import annotations

from recalign.recommender.checkpoint import load_net
from recalign.recommender.training import PolicyModule


class EvaluatedPolicy(PolicyModule):
    """The policy of a checkpoint, without what it was trained from: its start and its reward model may be gone.

    Args:
        checkpoint: of any stage that trains a policy.
        top_k: items a user that `predict` writes.
    """

    def __init__(self, checkpoint: str, top_k: int = 10) -> None:
        loaded = load_net(checkpoint, "policy")
        super().__init__(loaded.net, 0.0, 0.0, top_k)
        self.loaded = loaded

    def setup(self, stage: str) -> None:
        self.loaded.check(self.data)
