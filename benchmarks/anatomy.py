"""Where a training step of ours goes, and how much of it the bare matrix products would take."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning import LightningModule, Trainer
from peers.recalign_hstu import Pace
from peers.turns import Turn
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from recalign.sequences import Batch

PARTS = ("loader", "encoder", "loss", "optimiser")
aten = torch.ops.aten
PRODUCTS: dict[Any, Callable[..., Tensor]] = {
    aten.mm: torch.mm,
    aten.bmm: torch.bmm,
    aten.addmm: torch.mm,
    aten.baddbmm: torch.bmm,
}
"""Matrix products as autograd leaves them -> the same without an addition."""

Factor = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]  # shape, strides, type of number


class Anatomy(Pace):
    """Times the parts of our step within `recalign fit`, on a CPU, and the bare products of the same batches beside it.

    The reported spans are seconds of the turn: ``loader``; ``encoder`` and ``loss``, each forward and backward;
    ``optimiser``; ``products``, what the matrix products of these steps take by themselves, and ``gflop``, how many
    operations they are. The loss's backward pass ends, and the encoder's begins, where the states have their gradient.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        policy: Any = pl_module.policy
        dataset: Any = trainer.train_dataloader.dataset  # type: ignore[union-attr]
        self.encode, self.weighted_nll = policy.encode, policy.weighted_nll
        self.rates = dict[int, tuple[float, float]]()  # by padded length
        dataset.make = self.timed("loader", dataset.make)
        policy.weighted_nll = self.timed("loss", self.weighted_nll)
        policy.encode = self.watched(self.timed("encoder", self.encode))
        (optimiser,) = trainer.optimizers
        optimiser.register_step_pre_hook(lambda *_: self.mark())
        optimiser.register_step_post_hook(lambda *_: self.add("optimiser"))

    def mark(self) -> None:
        self.at = time.perf_counter()

    def add(self, part: str) -> None:
        """What has passed since the last mark belongs to this part."""
        now = time.perf_counter()
        self.turns.spans[part] = self.turns.spans.get(part, 0.0) + now - self.at
        self.at = now

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            self.mark()
            result = function(*arguments, **named)
            self.add(part)
            return result

        return run

    def watched(self, encode: Callable[[Batch], Tensor]) -> Callable[[Batch], Tensor]:
        def run(batch: Batch) -> Tensor:
            state_TD = encode(batch)
            state_TD.register_hook(lambda grad_TD: self.add("loss"))
            return state_TD

        return run

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self.mark()

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.add("encoder")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        with self.left_out():
            seconds, flop = self.products_of(trainer, pl_module, batch)
        for name, value in (("products", seconds), ("gflop", flop / 1e9)):
            self.turns.spans[name] = self.turns.spans.get(name, 0.0) + value
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """Time that is no part of the turn."""
        began = time.perf_counter()
        yield
        self.turns.began += time.perf_counter() - began

    def products_of(self, trainer: Trainer, module: LightningModule, batch: Batch) -> tuple[float, float]:
        """Seconds and operations of a batch's products; measured once a padded length, and scaled to its size."""
        length, size = batch.item_BL.shape[1], batch.item_BL.numel()
        if length not in self.rates:
            found = Products()
            weight_T = torch.ones_like(batch.reward_T)
            with trainer.precision_plugin.forward_context(), found:
                loss = self.weighted_nll(self.encode(batch), batch.target_T, weight_T)
            with found:
                loss.backward()
            module.zero_grad()
            self.rates[length] = found.seconds() / size, found.flop() / size
        seconds, flop = self.rates[length]
        return seconds * size, flop * size


class Products(TorchDispatchMode):
    """Notes the matrix products that run under it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple[Callable[..., Tensor], Factor, Factor]] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        if product := PRODUCTS.get(function.overloadpacket):
            a, b = ((tuple(x.shape), x.stride(), x.dtype) for x in arguments[-2:])
            self.found[product, a, b] += 1
        return function(*arguments, **(named or {}))

    def flop(self) -> float:
        return sum(2.0 * torch.Size(a[0]).numel() * b[0][-1] * count for (_, a, b), count in self.found.items())

    def seconds(self, least: float = 0.02) -> float:
        """What they take one after another on numbers of their shapes, strides and types, written to memory in use."""
        return sum(count * alone(product, a, b, least) for (product, a, b), count in self.found.items())


def alone(product: Callable[..., Tensor], a: Factor, b: Factor, least: float) -> float:
    """The fastest of repeated runs of one product."""
    x, y = (numbers(*factor) for factor in (a, b))
    out, fastest, began = product(x, y), float("inf"), time.perf_counter()
    while time.perf_counter() - began < least:
        at = time.perf_counter()
        product(x, y, out=out)
        fastest = min(fastest, time.perf_counter() - at)
    return fastest


def numbers(shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    reach = 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    return torch.rand(reach).to(dtype).as_strided(shape, stride)


def describe(turn: Turn) -> str:
    """The parts of a turn's steps, in words."""
    step = turn.seconds / turn.steps
    parts = {part: turn.spans[part] / turn.steps for part in PARTS}
    parts["rest"] = step - sum(parts.values())
    shares = ", ".join(f"{part} {1e3 * spent:.1f} ({spent / step:.1%})" for part, spent in parts.items())
    bare, gflop = turn.spans["products"] / turn.steps, turn.spans["gflop"] / turn.steps
    return (
        f"{1e3 * step:.1f} ms for {turn.events / turn.steps:,.0f} events\n"
        f"  of it, in ms: {shares}\n"
        f"  the loader is {'under' if parts['loader'] < 0.05 * step else 'OVER'} 5 % of it\n"
        f"  its bare matrix products: {gflop:.1f} GFLOP at {gflop / bare:.0f} GFLOP/s = {1e3 * bare:.1f} ms "
        f"({bare / step:.0%} of the step)"
    )
