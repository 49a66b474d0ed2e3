"""Cloned policies without prior and memory, and their states before all targets of validation and test, in one file.

Suffixes: T targets, M events of a history, newest first, D width, V items, N pairs (target, item seen before it).
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor

from benchmarks.encoders.run import recipe_words
from recalign.data.sequences import EventDataModule
from recalign.nn import unit
from recalign.recommender import SequencePolicy
from recalign.recommender.checkpoint import load_net
from recalign.run.chain.plan import train
from recalign.run.stage import parse_stage

Split = Literal["validation", "test"]
SPLITS: tuple[Split, ...] = ("validation", "test")


@dataclass(frozen=True)
class Targets:
    """Targets of one split, their histories, and the policy's logits: ``state_TD @ item_VD.T``."""

    state_TD: Tensor
    item_VD: Tensor
    target_T: Tensor
    history_TM: Tensor
    seen_2N: Tensor


def cloned(log: str, seed: int, given: argparse.Namespace) -> tuple[dict[str, Targets], EventDataModule]:
    """Train a recommender as conf/ says, without prior, or read what was kept of it: targets by split, and the log."""
    words = recipe_words("recommender", "start", seed, argparse.Namespace(log=log, runs=given.runs))
    stage = parse_stage([*words, "--model.prior=false", *given.fit])
    data: EventDataModule = stage.datamodule()  # type: ignore[assignment]
    path = given.runs / log / f"start-{seed}.pt"
    if not path.is_file():
        policy: SequencePolicy = load_net(train(stage, verbose=True).checkpoint, "policy").net.eval()
        torch.save({split: asdict(_targets(policy, data, split)) for split in SPLITS}, path)
    return {split: Targets(**fields) for split, fields in torch.load(path, mmap=True).items()}, data


@torch.no_grad()
def _targets(policy: SequencePolicy, data: EventDataModule, split: Split) -> Targets:
    state, target, history, seen, count = [], [], [], [], 0
    for batch in data.loader(data.windows(split)):
        column_TM = batch.column_T[:, None] - torch.arange(data.max_length)
        state.append(unit(policy.encode(batch)))
        target.append(batch.target_T)
        history.append((batch.item_BL[batch.row_T[:, None], column_TM.clamp(min=0)] * (column_TM >= 0)).int())
        seen.append((batch.seen_N + torch.tensor([[count], [0]])).int())
        count += len(batch.target_T)
    item_VD = unit(policy.item_table()[1:]) / policy.temperature
    return Targets(torch.cat(state), item_VD, torch.cat(target), torch.cat(history), torch.cat(seen, dim=1))
