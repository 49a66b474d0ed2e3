"""Train torch-rechub's HSTU in turns, by its own trainer and DataLoader.

    python -m benchmarks.peers.torch_rechub_hstu EVENTS.npz [--precision bf16-mixed] [--compile] ...

EVENTS.npz holds int64 arrays user, item, timestamp: the training events, in order. The package makes no histories from
events; they are made here as its trainer wants them: padded at the left, the last event the last target.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

import numpy as np
import torch
from torch_rechub.models.generative.hstu import HSTUModel
from torch_rechub.trainers.seq_trainer import SeqTrainer
from torch_rechub.utils.data import SequenceDataGenerator

from benchmarks.peers.turns import Turns, peer_options


class Paced:
    """A DataLoader whose steps end with `Turns`: when the next batch is asked for, the step before it is over."""

    def __init__(self, loader: torch.utils.data.DataLoader, turns: Turns) -> None:
        self.loader, self.turns = loader, turns

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        while True:
            for batch in self.loader:
                yield batch
                tokens_BL = batch[0]
                self.turns.step(int((tokens_BL != 0).sum()), tokens_BL.numel(), len(tokens_BL))


def histories(path: str, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """The newest events of each user: items (U, L), seconds until the last event (U, L), targets (U), and V."""
    with np.load(path) as events:
        user, item, time = (events[name] for name in ("user", "item", "timestamp"))
    items, item = np.unique(item, return_inverse=True)
    item = item + 1  # 0 is padding
    first = np.flatnonzero(np.concatenate([[True], user[1:] != user[:-1]]))
    last = np.append(first[1:], len(user)) - 1
    at = last[:, None] - np.arange(length, 0, -1)
    known = at >= first[:, None]
    at = np.maximum(at, 0)
    chosen = last > first  # who has a target
    tokens, gaps = np.where(known, item[at], 0), np.where(known, time[last][:, None] - time[at], 0)
    return tokens[chosen], gaps[chosen], item[last][chosen], len(items)


def main() -> None:
    arguments = peer_options(__doc__)
    device = "cuda" if arguments.accelerator == "gpu" else "cpu"
    torch.manual_seed(0)
    tokens, gaps, targets, items = histories(arguments.events, arguments.length)
    model = HSTUModel(
        vocab_size=items + 1,
        d_model=50,
        n_heads=1,
        n_layers=2,
        dqk=50,
        dv=50,
        max_seq_len=arguments.length,
        dropout=0.2,
        time_bucket_fn="log",
        time_bucket_divisor=0.301,
        time_bucket_unit="seconds",
        score_norm="l2",
        temperature=0.05,
        use_output_bias=False,
        scale_input_embedding=True,
    )
    if arguments.compile:
        model.compile()
    positions = np.broadcast_to(np.arange(arguments.length), tokens.shape)
    (loader,) = SequenceDataGenerator(tokens, positions, targets, gaps).generate_dataloader(arguments.users)
    turns = Turns(
        f"torch-rechub {version('torch-rechub')}, torch {torch.__version__}",
        arguments.warm_up,
        torch.cuda if device == "cuda" else None,
    )
    with torch.autocast(device, torch.bfloat16, enabled=arguments.precision == "bf16-mixed"):
        SeqTrainer(model, device=device).train_one_epoch(Paced(loader, turns))


if __name__ == "__main__":
    main()
