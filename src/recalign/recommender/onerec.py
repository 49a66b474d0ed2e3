"""Behaviour cloning of OneRec: a generative recommender over semantic ids."""

from __future__ import annotations

import copy
import math
from typing import Literal

import torch

from recalign.errors import InputError
from recalign.nn import Encoder, LazyDecoder
from recalign.recommender.code_table import CodeTable, random_codes, square
from recalign.recommender.codes import CodePolicy
from recalign.recommender.module import Cloning
from recalign.sequences import Batch


class OneRecRecommender(Cloning):
    """Behaviour cloning of a policy over semantic ids (`recalign.recommender.CodePolicy`).

    Args:
        num_items: V; linked from the data by the command.
        codes: a Parquet file with each item's codes (columns item, code_0, code_1, ...); null: random codes, which
            say nothing of an item.
        sizes: codes of each level, where they are random; null: two equal levels.
        decoder: writes the codes; copied; null: `recalign.nn.LazyDecoder` with its defaults.
        encoder: reads the history first, as in OneRec V1; copied; null: events do not see each other, as in V2.
        head: ``shared``: one output vector a code, as published; ``node``: one a node of the trie.
        targets: ``all`` events of a window are trained on in one pass, or its ``newest`` only, as in OneRec V2.
        beam: width of the beam search behind recommendations.
        feedback: whether the policy sees the rewards of earlier events, as in `Recommender`.
        lr: AdamW's learning rate.
        weight_decay: AdamW's, on matrices only.
        top_k: items a user that `predict` writes.
        init_from: checkpoint of a policy whose weights are loaded by name; mismatches are reported.

    Raises:
        InputError: the codes cannot be used, or are too few.
    """

    policy: CodePolicy

    def __init__(
        self,
        num_items: int,
        codes: str | None = None,
        sizes: list[int] | None = None,
        decoder: LazyDecoder | None = None,
        encoder: Encoder | None = None,
        head: Literal["shared", "node"] = "shared",
        targets: Literal["all", "newest"] = "all",
        beam: int = 50,
        feedback: bool = False,
        lr: float = 4e-3,
        weight_decay: float = 0.3,
        top_k: int = 10,
        init_from: str | None = None,
    ) -> None:
        self.table = CodeTable(codes) if codes else None
        sizes = self.table.sizes if self.table else sizes or square(num_items)
        if math.prod(sizes) < num_items:
            raise InputError(
                f"{num_items:,} items do not fit into {' x '.join(map(str, sizes))} codes",
                where="model.codes" if codes else "model.sizes",
                remedy="use more codes, or one more level",
            )
        decoder, encoder = copy.deepcopy(decoder) or LazyDecoder(), copy.deepcopy(encoder)
        policy = CodePolicy(decoder, num_items, sizes, head, encoder, feedback, beam)
        super().__init__(policy, lr, weight_decay, top_k, init_from)
        self.save_hyperparameters(logger=False, ignore=["top_k"])
        self.targets = targets

    def setup(self, stage: str) -> None:
        super().setup(stage)
        items = self.data.sequences.items
        codes_VS = self.table.of(items) if self.table else random_codes(len(items), self.policy.trie.sizes)
        self.policy.set_codes(codes_VS)

    def loss(self, batch: Batch) -> torch.Tensor:
        if self.targets == "newest":
            newest_B = torch.full_like(batch.length_B, -1).scatter_reduce(0, batch.row_T, batch.column_T, "amax")
            batch = batch.keep(batch.column_T == newest_B[batch.row_T])
        return super().loss(batch)
