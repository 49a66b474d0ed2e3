"""Pooled: recency-weighted means of the history and one gated feed-forward block.

Not from the literature. Cheap and without attention, so that a judge with it makes other errors than HSTU or SASRec:

    m_ri = sum_{j <= i} exp(-a_r (i - j)) x_j / sum_{j <= i} exp(-a_r (i - j))      for each of R learned rates a_r > 0
    h_i  = LN(x_i + W_o Dropout(SiLU(W_g c_i) * W_u c_i))                           c_i = LN([m_1i ... m_Ri])

with x = Dropout(item * sqrt(D)). Times and absolute positions are not used.

Shape suffixes:
    B  sequences      L  length of the bucket      D  width of the model      R  rates of decay
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .encoder import Encoder, valid_rows
from .layers import Dropout

HALF_LIVES = (1.0, 4.0, 16.0, 64.0)  # initial values, in events


class Pooled(Encoder):
    """Recency-weighted means over item embeddings.

    Args:
        dim: width of the model, D.
        max_length: the longest history that the caller may send.
        dropout: on the input and inside the feed-forward block.
    """

    def __init__(self, dim: int = 50, max_length: int = 200, dropout: float = 0.2) -> None:
        super().__init__(dim, max_length, dropout=dropout)
        self.log_rate = nn.Parameter((torch.tensor(2.0).log() / torch.tensor(HALF_LIVES)).log())
        self.mean_norm = nn.LayerNorm(len(HALF_LIVES) * dim)
        self.gate_and_up = nn.Linear(len(HALF_LIVES) * dim, 2 * 2 * dim)
        self.output = nn.Linear(2 * dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def forward(self, x_BLD: Tensor, length_B: Tensor, time_BL: Tensor, request_time_BL: Tensor) -> Tensor:
        valid_BL1 = valid_rows(length_B, x_BLD.shape[1])
        x_BLD = self.dropout(x_BLD * self.dim**0.5).masked_fill(~valid_BL1, 0)
        mean_BRLD = self.decay(x_BLD.shape[1]) @ x_BLD[:, None]
        gate, up = self.gate_and_up(self.mean_norm(mean_BRLD.transpose(1, 2).flatten(2))).chunk(2, dim=-1)
        h_BLD = self.norm(x_BLD + self.output(self.dropout(F.silu(gate) * up)))
        return h_BLD.masked_fill(~valid_BL1, 0)

    def decay(self, rows: int) -> Tensor:
        """Weight of event j in the mean after event i: (R, L, L), each row adds up to 1."""
        index = torch.arange(rows, device=self.log_rate.device)
        age_LL = index[:, None] - index
        logit_RLL = -self.log_rate.exp()[:, None, None] * age_LL
        return logit_RLL.masked_fill(age_LL < 0, -torch.inf).softmax(dim=-1)
