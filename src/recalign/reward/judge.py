"""Judges: reward models that score other models."""

from __future__ import annotations

from typing import ClassVar, Literal

from recalign.errors import InputError
from recalign.nn import Encoder, Pooled
from recalign.reward.heads import Head
from recalign.reward.module import RewardModel


class Judge(RewardModel):
    """A reward model that scores other models: trained from scratch, on other users, with another encoder.

    Args:
        num_items: V; linked from the data by the command.
        encoder: of another architecture or size than the training reward model's; null: `Pooled` of width 32. Copied.
        members: K, reward models in the ensemble.
        share: by default ``nothing``, because the mistakes of a shared encoder would be those of all members.
        head: of the reward; null: a mean. Copied.
        lr: AdamW's learning rate.
        weight_decay: AdamW's, on matrices only.
    """

    UPSTREAM: ClassVar[dict[str, str]] = {}

    def __init__(
        self,
        num_items: int,
        encoder: Encoder | None = None,
        members: int = 3,
        share: Literal["trunk", "nothing"] = "nothing",
        head: Head | None = None,
        lr: float = 3e-3,
        weight_decay: float = 0.1,
    ) -> None:
        super().__init__(
            num_items,
            encoder=Pooled(dim=32) if encoder is None else encoder,
            members=members,
            share=share,
            head=head,
            cooccurrence_dim=0,  # of few users' choices, each user's own are too large a part
            lr=lr,
            weight_decay=weight_decay,
        )

    def setup(self, stage: str) -> None:
        if self.data.users not in ("B1", "B2"):
            raise InputError(
                f"a judge on users {self.data.users} would have learned from the rewards that taught what it judges",
                where="data.users",
                remedy="train judges on B1 (they select settings) or B2 (they report)",
            )
        super().setup(stage)
