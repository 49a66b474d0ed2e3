"""Behaviour cloning of OneRec: a generative recommender over semantic ids.

The rest of OneRec: `onerec_policy` and `onerec_choices` in this package, ``onerec_*`` in `recalign.nn`, and semantic
ids in `recalign.recommender.semantic_ids`.
"""

from __future__ import annotations

import copy
import math
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from recalign.data.sequences import EventDataModule
from recalign.errors import InputError, Positive
from recalign.nn import LazyDecoder
from recalign.nn.onerec_trie import MAX_IDS
from recalign.recommender.checkpoint import Loaded
from recalign.recommender.module import CloningFromStart
from recalign.recommender.onerec_policy import CodePolicy
from recalign.recommender.semantic_ids.codes import CodesTable, load_codes


class OneRecRecommender(CloningFromStart):
    """Behaviour cloning of a policy over semantic ids (`recalign.recommender.CodePolicy`). Logs what `Cloning` does.

    Args:
        num_items: V; the command takes it from the data.
        codes: each item's codes, a file of `recalign tokenize` (`recalign.recommender.semantic_ids.codes`); null in a
            configuration: that of this log and seed, unless ``sizes`` are given; null in Python: random codes.
        sizes: number of codes at each level, for random codes; null: two equal levels.
        decoder: generates the codes, `recalign.nn.LazyDecoder`; copied; null: that with its defaults.
        temperature: of the softmax over cosines of the decoder's output and the nodes' vectors; null: over their
            dot products, as published.
        beam: width of the beam search behind recommendations; null: 50, or all items if they are fewer.
        widest: largest width of the search, which widens if a list may not be exact (`CodePolicy.top_k`); up to
            ``beam``: it never widens.
        feedback: whether the policy sees the rewards of earlier events, as in `Recommender`.
        lr: AdamW's learning rate.
        **cloning: arguments of `CloningFromStart`.

    Raises:
        InputError: the codes cannot be used or are too few.
    """

    policy: CodePolicy

    def __init__(
        self,
        num_items: int,
        codes: str | None = None,
        sizes: list[int] | None = None,
        decoder: LazyDecoder | None = None,
        temperature: Positive[float] | None = None,
        beam: Positive[int] | None = None,
        widest: int = 400,
        feedback: bool = False,
        lr: float = 4e-3,
        **cloning: Any,
    ) -> None:
        levels = list(CodesTable.read(codes).sizes) if codes else sizes or [math.isqrt(num_items - 1) + 1] * 2
        if min(levels) < 1 or not num_items <= math.prod(levels) < MAX_IDS:
            text = f"{num_items:,} items do not fit into {' x '.join(map(str, levels))} codes"
            remedy = "use more codes or one more level, such as [64, 32], with a product below 2^62"
            raise InputError(text, where="model.codes" if codes else "model.sizes", remedy=remedy)
        self.start_has_codes = False
        decoder, width = copy.deepcopy(decoder) or LazyDecoder(), beam or min(50, num_items)
        policy = CodePolicy(decoder, num_items, levels, feedback, width, widest, temperature)
        super().__init__(policy, lr=lr, **cloning)
        self.codes = codes

    def start_from(self, start: Loaded) -> None:
        super().start_from(start)
        self.start_has_codes = "sizes" in start.net.init_args

    def bind(self, data: EventDataModule) -> Self:
        if data.sequences.features is not None:
            text = "this recommender reads the codes of items, not their features"
            remedy = "remove the features, or train recommender (HSTU)"
            raise InputError(text, where="data.log.items.features", remedy=remedy)
        return super().bind(data)

    @classmethod
    def upstream(cls, init_args: dict[str, Any]) -> dict[str, str]:
        random = init_args.get("sizes") and not init_args.get("codes")
        return super().upstream(init_args) | ({} if random else {"codes": "tokens"})

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.codes is None:
            codes_VS = random_codes(self.policy.num_items, self.policy.trie.sizes)
        else:
            codes_VS = torch.from_numpy(load_codes(self.codes, self.data.sequences.items, self.data.log_.name).codes_NL)
        if self.start_metadata and self.start_has_codes and not codes_VS.equal(self.policy.trie.codes_VS):
            text = "it was trained with other codes of the items than those given here"
            remedy = "give the codes that it was trained with, or train anew, without model.init_from"
            raise InputError(text, where=f"model.init_from {self.start_metadata.where}", remedy=remedy)
        self.policy.set_codes(codes_VS)


def random_codes(num_items: int, sizes: list[int]) -> Tensor:
    """Codes drawn at random without repetition, with a fixed seed. Shape: -> int64 (V, S)."""
    leaf_V = np.random.default_rng(0).choice(math.prod(sizes), num_items, replace=False)
    return torch.from_numpy(np.stack(np.unravel_index(leaf_V, sizes), axis=1))
