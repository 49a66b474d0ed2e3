"""What a loss returns beside its scalar."""

from __future__ import annotations

from torch import Tensor

Figures = dict[str, Tensor]
"""Scalars to log, by name."""
