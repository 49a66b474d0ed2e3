"""Exact lists of the best items in bounded memory: a running top-k over blocks of scores.

Shape suffixes as in `recalign.nn.ranks`; K items kept, M candidates of a block.
"""

import torch
from torch import Tensor

from .ranks import Blocks, Pairs, dot_products, in_block, row_chunks


@torch.no_grad()
def top_k(query_TD: Tensor, item_VD: Tensor, k: int, seen: Pairs | None = None) -> tuple[Tensor, Tensor]:
    """The k items with the highest dot product with each query, best first: scores (T, K) and items (T, K), int64.

    Ties go to the lower item. If fewer than k are left, the rest have score -inf and item -1. NaN scores are left out.
    """
    return _top_k(dot_products(query_TD, item_VD), len(query_TD), k, seen, item_VD)


@torch.no_grad()
def top_k_from_scores(score_TV: Tensor, k: int, seen: Pairs | None = None) -> tuple[Tensor, Tensor]:
    """`top_k` for given scores (T, V)."""
    return _top_k(lambda rows: [(0, score_TV[rows])], len(score_TV), k, seen, score_TV)


def _top_k(blocks: Blocks, count: int, k: int, seen: Pairs | None, like: Tensor) -> tuple[Tensor, Tensor]:
    score_TK = like.new_full((count, k), -torch.inf)
    item_TK = torch.full((count, k), -1, device=like.device)
    for rows, seen_rows in row_chunks(count, seen, like.device):
        for start, score_CI in blocks(rows):
            # Ties stay in item order, as the items kept so far come first.
            candidate = torch.cat([score_TK[rows], score_CI], dim=1)
            row_N, place_N = in_block(seen_rows, start, score_CI)
            candidate[row_N, k + place_N] = -torch.inf
            place_CK = _stable_top_k(candidate, k)
            kept_CK = item_TK[rows].gather(1, place_CK.clamp(max=k - 1))
            item_TK[rows] = torch.where(place_CK < k, kept_CK, start + place_CK - k)
            score_TK[rows] = candidate.gather(1, place_CK)
    return score_TK, item_TK.masked_fill(score_TK == -torch.inf, -1)


def _stable_top_k(score_CI: Tensor, k: int) -> Tensor:
    """Indices of the k highest scores, best first; unlike `topk`, ties by index. NaN becomes -inf, in place."""
    score_CK, place_CK = score_CI.topk(min(k + 1, score_CI.shape[1]), dim=1)
    if score_CK[:, :1].isnan().any():  # `topk` puts NaN first; searching all scores for it takes longer
        return _stable_top_k(score_CI.nan_to_num_(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf), k)
    tied_C = (score_CK[:, 1:] == score_CK[:, :-1]).any(dim=1)  # few rows have ties; sort only these
    place_CK = place_CK[:, :k]
    place_CK[tied_C] = _sorted_top_k(score_CI[tied_C], k)
    return place_CK


def _sorted_top_k(score_CI: Tensor, k: int) -> Tensor:
    kth_score_C1 = score_CI.topk(k, dim=1).values[:, -1:]
    row_M, place_M = (score_CI >= kth_score_C1).nonzero(as_tuple=True)  # k per row, more if the k-th score is tied
    order_M = score_CI[row_M, place_M].sort(descending=True, stable=True).indices
    order_M = order_M[row_M[order_M].sort(stable=True).indices]
    first_C = torch.searchsorted(row_M, torch.arange(len(score_CI), device=row_M.device))
    return place_M[order_M][first_C[:, None] + torch.arange(k, device=row_M.device)]
