"""The interface of sequence encoders, and the record from which a checkpoint rebuilds a network.

Shape suffixes, here and in the encoders (as in torchtitan):
    B  sequences of the batch          L  length of the bucket, at most max_length
    D  width of the model
"""

import inspect
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from recalign.errors import DROPOUT, InputError, require_positive


class Rebuildable:
    """Mixin that keeps the constructor's arguments in ``init_args``, so that a checkpoint can rebuild the network.

    It must be the first base of an `nn.Module`. Arguments must be plain values or other `Rebuildable` networks.
    """

    init_args: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> "Rebuildable":
        made = super().__new__(cls)
        # partial: copy.deepcopy passes no arguments and sets attributes afterwards
        bound = inspect.signature(cls).bind_partial(*args, **kwargs)
        bound.apply_defaults()
        object.__setattr__(made, "init_args", dict(bound.arguments))
        return made


class Encoder(Rebuildable, nn.Module, ABC):
    """Base class: a causal map from a history's embeddings to one state per event.

    Sequences start at row 0 and are padded at the end. Row i depends on events 0..i only, not on later events, other
    sequences, padding or the bucket's length.
    """

    def __init__(
        self, dim: int, max_length: int, heads: int = 1, head_dim: int | None = None, dropout: float = 0.0
    ) -> None:
        """Store the width D and the longest history. Raise an InputError for settings out of range."""
        super().__init__()
        sizes = {"dim": dim, "heads": heads, "head_dim": head_dim, "max_length": max_length}
        require_positive("model.encoder", sizes, *sizes)
        DROPOUT.require(dropout, "model.encoder.dropout")
        if head_dim is None and dim % heads:
            text = f"dim {dim} does not divide into {heads} heads"
            raise InputError(text, where="model.encoder.heads", remedy="choose a dim that is a multiple of heads")
        self.dim = dim
        self.max_length = max_length

    @abstractmethod
    def forward(self, x_BLD: Tensor, length_B: Tensor, time_BL: Tensor, request_time_BL: Tensor) -> Tensor:
        """Compute the state after each event, from which the next item is predicted.

        Shape:
            x_BLD: unscaled event embeddings (item, plus reward if used); the encoder scales them.
            length_B: number of events of each sequence, 0..L.
            time_BL: int64, time of each event in seconds.
            request_time_BL: int64, seconds; entry i is the time at which event i + 1 is requested.
            returns: (B, L, D), in the dtype of x_BLD also under autocast; rows past the end are zero.
        """


def valid_rows(length_B: Tensor, rows: int) -> Tensor:
    """Mask of the rows that hold an event: bool (B, rows, 1)."""
    return (torch.arange(rows, device=length_B.device) < length_B[:, None])[..., None]


def position_table(max_length: int, dim: int) -> nn.Parameter:
    """Learned absolute positions (max_length, dim), truncated normal with standard deviation dim ** -0.5."""
    deviation = dim**-0.5
    table = torch.empty(max_length, dim)
    return nn.Parameter(nn.init.trunc_normal_(table, std=deviation, a=-2 * deviation, b=2 * deviation))
