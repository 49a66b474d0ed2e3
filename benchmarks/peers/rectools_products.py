"""RecTools' logits of positives and negatives by products with the whole catalogue.

RecTools gathers an embedding for each candidate (128 users x 200 events x 129 candidates x 50 floats: 660 MB a step)
and sums each one's gradient into its row; that takes three quarters of a step on a CPU. Here a chunk of states is
multiplied with all items, and the candidates' logits are picked out of the products: the same numbers from the same
parameters, by products that a CPU is fast at (`check` compares values and gradients before a run). Padded positions,
which no loss counts, get the logit 0.

Shape suffixes:
    B  histories      L  events      N  positions that are not padded, or a chunk of them
    K  candidates     V  items       D  width
"""

from __future__ import annotations

from typing import Any

import torch
from rectools.models.nn.transformers.similarity import DistanceSimilarityModule
from torch import Tensor

CHUNK = 1024  # positions whose products with the catalogue are held at once
PADDING = 0  # RecTools' id


class Products(DistanceSimilarityModule):
    """A drop-in for RecTools' own similarity: `similarity_module_type=Products`."""

    def _get_pos_neg_logits(self, session_embs: Tensor, item_embs: Tensor, candidate_item_ids: Tensor) -> Tensor:
        # In validation there are candidates for the last position alone, and the others' logits are not looked at.
        session_embs = session_embs[:, -candidate_item_ids.shape[1] :]
        valid_BL = candidate_item_ids[..., 0] != PADDING
        picked_NK = picked_products(session_embs[valid_BL], item_embs, candidate_item_ids[valid_BL])
        return picked_NK.new_zeros(candidate_item_ids.shape).masked_scatter(valid_BL.unsqueeze(-1), picked_NK)


def picked_products(state_ND: Tensor, item_VD: Tensor, candidate_NK: Tensor) -> Tensor:
    """state_n . item_candidate[n, k]: (N, K)."""
    return _PickedProducts.apply(state_ND, item_VD, candidate_NK)


class _PickedProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, state_ND: Tensor, item_VD: Tensor, candidate_NK: Tensor) -> Tensor:
        ctx.save_for_backward(state_ND, item_VD, candidate_NK)
        chunks = zip(state_ND.split(CHUNK), candidate_NK.split(CHUNK), strict=True)
        return torch.cat([(state_nD @ item_VD.T).gather(1, candidate_nK) for state_nD, candidate_nK in chunks])

    @staticmethod
    def backward(ctx: Any, grad_NK: Tensor) -> tuple[Tensor, Tensor, None]:
        state_ND, item_VD, candidate_NK = ctx.saved_tensors
        dstate_ND, ditem_VD = torch.empty_like(state_ND), torch.zeros_like(item_VD)
        for first in range(0, len(state_ND), CHUNK):
            n = slice(first, first + CHUNK)
            grad_nV = grad_NK.new_zeros(len(grad_NK[n]), len(item_VD)).scatter_add_(1, candidate_NK[n], grad_NK[n])
            dstate_ND[n] = grad_nV @ item_VD
            ditem_VD.addmm_(grad_nV.T, state_ND[n])
        return dstate_ND, ditem_VD, None


def check() -> None:
    """Values and gradients beside RecTools' own, in float64. Raises AssertionError where they differ."""
    draw = torch.Generator().manual_seed(0)
    state_BLD = torch.randn(3, CHUNK, 5, dtype=torch.float64, generator=draw, requires_grad=True)
    item_VD = torch.randn(11, 5, dtype=torch.float64, generator=draw, requires_grad=True)
    candidate_BLK = torch.randint(PADDING + 1, 11, (3, CHUNK, 4), generator=draw)
    weight_BLK = torch.randn(3, CHUNK, 4, dtype=torch.float64, generator=draw)
    found = []
    for similarity in (DistanceSimilarityModule("cosine"), Products("cosine")):
        logit_BLK = similarity(state_BLD, item_VD, candidate_BLK)
        found.append((logit_BLK, *torch.autograd.grad((logit_BLK * weight_BLK).sum(), (state_BLD, item_VD))))
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
