"""Log-probabilities of a softmax over the target and sampled negatives, for catalogues too large for a full softmax.

Shape suffixes:
    T  positions      D  width      N  negatives
"""

import torch
from torch import Tensor


def sampled_log_prob(
    query_TD: Tensor,
    target_TD: Tensor,
    negative_ND: Tensor,
    target_T: Tensor,
    negative_N: Tensor,
    scale: float,
    log_count_N: Tensor | None = None,
) -> Tensor:
    """log pi(target | query) over the target and sampled negatives; negatives equal to the target are masked: (T,).

    Args:
        query_TD: a query for each position.
        target_TD: embedding of each target.
        negative_ND: embeddings of negatives shared by all positions, or (T, N, D) for each position's own.
        target_T: item of each target.
        negative_N: items of the shared negatives, or (T, N) for each position's own.
        scale: factor on the dot products.
        log_count_N: logQ correction, shaped like `negative_N`: log of the expected number of draws, N q(item). It makes
            the sum over negatives an unbiased estimate of the sum over all items except the target.
    """
    with torch.autocast(query_TD.device.type, enabled=False):
        query_TD = query_TD.to(target_TD.dtype)
        positive_T1 = scale * (query_TD * target_TD).sum(dim=-1, keepdim=True)
        if negative_ND.dim() == 2:
            logit_TN = scale * (query_TD @ negative_ND.T)
        else:
            logit_TN = scale * (negative_ND @ query_TD[:, :, None]).squeeze(-1)
        if log_count_N is not None:
            logit_TN = logit_TN - log_count_N
        logit_TN = logit_TN.masked_fill(negative_N == target_T[:, None], -torch.inf)
        return torch.cat([positive_T1, logit_TN], dim=1).log_softmax(dim=1)[:, 0]
