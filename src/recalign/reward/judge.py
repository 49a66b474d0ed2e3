"""Judges: held-out reward models that evaluate policies."""

from __future__ import annotations

from typing import ClassVar, Literal

from recalign.errors import InputError
from recalign.nn import Encoder, Pooled
from recalign.reward.heads import Head
from recalign.reward.module import RewardModel


class Judge(RewardModel):
    """A held-out reward model that evaluates policies, trained from scratch on other users with another encoder.

    Args:
        num_items: V; linked from the data by the command.
        encoder: should differ from the training reward model's in architecture or size; null: `Pooled` of width 32.
            Copied.
        members: K, reward models in the ensemble.
        share: what members share. With a shared encoder all members would make the same mistakes.
        head: output head of the reward; null: `MeanHead`. Copied.
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
            cooccurrence_dim=0,  # with few users, each user's own choices make up too much of it
            lr=lr,
            weight_decay=weight_decay,
        )

    def setup(self, stage: str) -> None:
        if self.data.users not in ("B1", "B2"):
            text = f"a judge on users {self.data.users} would learn from the same rewards as the policies it evaluates"
            remedy = "train judges on users B1 (to select settings) or B2 (to report)"
            raise InputError(text, where="data.users", remedy=remedy)
        super().setup(stage)
