"""Feed-forward layers of a decoder: one SwiGLU, or several of which each token uses a few (a mixture of experts).

SwiGLU (https://arxiv.org/abs/2002.05202): W_down (SiLU(W_gate x) * W_up x). A mixture of experts is

    y = sum_{e in E(x)} g_e SwiGLU_e(x),    s = sigmoid(W x),    g = s / sum_{e in E(x)} s_e

where E(x) are the k experts with the largest s_e + b_e. After each training pass with gradients, b_e rises by a fixed
step if expert e was chosen less often than the mean, and falls if more often: balance without an auxiliary loss
(https://arxiv.org/abs/2408.15664, as OneRec V1 uses it, https://arxiv.org/abs/2506.13695).

Shape suffixes: N tokens, D width, F hidden width, E experts, K experts of a token, X = N K.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recalign.distributed import total
from recalign.errors import InputError

BALANCING_STEP = 1e-3


class SwiGLU(nn.Module):
    """One SwiGLU of hidden width ``hidden``."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate_up, self.down = nn.Linear(dim, 2 * hidden, bias=False), nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (..., D) -> (..., D)."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Experts(nn.Module):
    """A mixture of SwiGLUs; see the formula at the top.

    How many tokens each expert has is read back from the device once a pass. The biases balance the tokens of all
    processes, which therefore make the same number of passes in training.

    Args:
        dim: D.
        hidden: hidden width of each expert.
        experts: E.
        chosen: K, experts that a token uses.

    Raises:
        InputError: a token would use more experts than there are.
    """

    bias_E: Tensor

    def __init__(self, dim: int, hidden: int, experts: int, chosen: int) -> None:
        super().__init__()
        if not 1 <= chosen <= experts:
            text = f"{chosen} of {experts} experts a token"
            remedy = f"give 1 to {experts}, or set model.decoder.experts to 0 for one feed-forward layer"
            raise InputError(text, where="model.decoder.experts_per_token", remedy=remedy)
        self.chosen = chosen
        self.router = nn.Linear(dim, experts, bias=False)
        self.experts = nn.ModuleList(SwiGLU(dim, hidden) for _ in range(experts))
        self.register_buffer("bias_E", torch.zeros(experts))
        self.balances = True  # false in post-training, whose path from the start interpolates parameters alone

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (..., D) -> (..., D)."""
        x_ND = x.reshape(-1, x.shape[-1])
        affinity_NE = self.router(x_ND).float().sigmoid()
        expert_NK = (affinity_NE.detach() + self.bias_E).topk(self.chosen, dim=1).indices
        share_NK = affinity_NE.gather(1, expert_NK)
        share_NK = share_NK / share_NK.sum(dim=1, keepdim=True)
        if torch.compiler.is_exporting():  # an exported graph has no sizes that depend on what is in it
            share_NE = torch.zeros_like(affinity_NE).scatter(1, expert_NK, share_NK)
            out_NDE = torch.stack([expert(x_ND) for expert in self.experts], dim=-1)
            return (out_NDE @ share_NE.to(out_NDE.dtype)[..., None]).view_as(x)
        count_E = expert_NK.flatten().bincount(minlength=len(self.experts))
        if self.balances and self.training and torch.is_grad_enabled():
            all_E = total(count_E)
            self.bias_E += BALANCING_STEP * (all_E.float().mean() - all_E).sign()
        order_X = expert_NK.flatten().argsort(stable=True)
        token_X = order_X // self.chosen
        parts = x_ND.index_select(0, token_X).split(count_E.tolist())
        out_XD = torch.cat([expert(part) for expert, part in zip(self.experts, parts, strict=True)])
        out_XD = out_XD * share_NK.flatten()[order_X, None]
        return out_XD.new_zeros(x_ND.shape).index_add(0, token_X, out_XD).view_as(x)


def feed_forward(dim: int, hidden: int | None, experts: int = 0, chosen: int = 1) -> nn.Module:
    """One SwiGLU, or a mixture where there are experts. ``hidden``: of each, None for 8 / 3 of dim."""
    hidden = hidden or 8 * dim // 3
    return Experts(dim, hidden, experts, chosen) if experts else SwiGLU(dim, hidden)
