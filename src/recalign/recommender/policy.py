"""The policy protocol: the interface of a recommender for post-training and evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recalign.data.sequences import Batch
from recalign.distributed import all_gather_rows, row_counts
from recalign.errors import InputError
from recalign.nn import Rebuildable, ranks_from_scores
from recalign.nn.ranks import Pairs

ROWS = 512  # states whose scores over the whole catalogue are in memory at once, at most
SCORES = 2**25  # and their scores, at most

State = Any
"""A policy's encoding of T histories: a tensor (T, ...), or anything with ``len(state)`` and ``state[a:b]``."""


class Policy(Rebuildable, nn.Module, ABC):
    """pi(item | history) over a catalogue of items 1..V.

    `encode` turns the histories of a batch into a state for each of T targets; all other methods take states. Callers
    only slice states and take their ``len``. Subclasses write `encode` and `log_probs`, `hidden` if a state is not a
    tensor, and other methods that they can compute without T x V scores.

    An item prior (`recalign.recommender.prior`) and a memory (`recalign.recommender.memory`) affect every probability,
    rank and sample; at strength 0 they change nothing. Their counts and strengths are in the ``state_dict``.

    Attributes:
        memory: a `recalign.recommender.memory.Memory`, or None; None if the constructor does not take one.
    """

    PRIOR_STATE: ClassVar[Sequence[str]] = ()
    """Names in the state_dict that belong to the prior; a nested `ItemPrior` or `Memory` lists its own."""
    lists: ClassVar[Any]
    """The module with the top-k search; the package sets it to `recalign.nn.topk`."""
    num_items: int
    in_training_pass = False
    """Whether the softmax leaves out items without training events, and the memory is off (`training_pass`)."""

    def __init__(self) -> None:
        super().__init__()
        self.memory: Any = None

    def remember(self, memory: Any) -> None:
        """Set the memory, or None to remove it; the checkpoint's recipe changes with it."""
        self.memory = self.init_args["memory"] = memory

    @property
    def recalls(self) -> bool:
        """Whether the memory affects probabilities now."""
        return self.memory is not None and self.memory.strength != 0 and not self.in_training_pass

    def begin_step(self) -> None:
        """Begin a training step: set up caches that its forward passes share, and draw random parts."""

    def end_step(self) -> None:
        """End a training step, before weights change."""

    @property
    def num_warm(self) -> int:
        """The number of items with training events, which come first in the catalogue; training draws from them."""
        return self.num_items

    def set_counts(self, count_V: Tensor) -> None:
        """Set the item prior's counts before cloning; ignored without a prior. Shape: (V,)."""

    @property
    def prior_strength(self) -> float:
        """c, the weight of the item prior; 0: off. A policy without a prior accepts only 0."""
        return 0.0

    @prior_strength.setter
    def prior_strength(self, strength: float) -> None:
        if strength:
            remedy = "set model.prior to false, or use a policy that has one, such as SequencePolicy"
            raise InputError(f"{type(self).__name__} has no item prior", where="model.prior", remedy=remedy)

    @abstractmethod
    def encode(self, batch: Batch) -> State:
        """The state before each of the batch's T targets."""

    @abstractmethod
    def log_probs(self, state: State, items: Tensor | None = None) -> Tensor:
        """Log-probabilities over the catalogue, or over candidates.

        Shape: items int64 (T, C) or None -> (T, C), or (T, V) where column v - 1 is item v.
        """

    def logits(self, state: State) -> Tensor:
        """Log-probabilities over the catalogue, up to a constant per state. Shape: -> (T, V)."""
        return self.log_probs(state)

    def hidden(self, state: State) -> Tensor:
        """Features of a state for heads (values, critics). Shape: (T, D)."""
        return state.flatten(1)

    has_trunk = True
    """True if `trunk` reuses this policy's trained encoder; False if it returns a new, untrained one."""

    def trunk(self) -> Policy:
        """A policy over item ids, whose encoder and item table initialise a reward model.

        Raises:
            InputError: this policy has no item table.
        """
        text = f"a reward model cannot start from {type(self).__name__}, which has no item table"
        remedy = "use a policy that reads histories of item ids, such as SequencePolicy"
        raise InputError(text, where="model.init_from", remedy=remedy)

    def log_prob(self, state: State, item: Tensor) -> Tensor:
        """Log-probability of one item per state. Shape: int64 (T,) -> (T,)."""
        return self.log_probs(state, item[:, None])[:, 0]

    def weighted_nll(self, state: State, item: Tensor, weight: Tensor) -> Tensor:
        """sum_t weight_t * -log pi(item_t | state_t), a scalar. The weights carry no gradient."""
        return -(weight.detach() * self.log_prob(state, item)).sum()

    @torch.no_grad()
    def sample(self, state: State, count: int) -> Tensor:
        """Items drawn with replacement. Shape: -> int64 (T, count)."""
        return torch.cat([draw(self.log_probs(state[part]), count) for part in chunks(len(state), self.num_items)]) + 1

    @torch.no_grad()
    def top_k(self, state: State, k: int, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The k most probable items of each of T states, best first, without the pairs (target, item) in ``seen``.

        Shape: seen int64 (2, N) -> (T, k) log-probabilities (up to a constant per state), and int64 (T, k) items, 0 if
        fewer than k are left.
        """
        parts = [
            self.lists.top_k_from_scores(self.logits(state[part]), k, seen_within(seen, part))
            for part in chunks(len(state), self.num_items)
        ]
        return torch.cat([score for score, _ in parts]), torch.cat([column for _, column in parts]) + 1

    @torch.no_grad()
    def ranks(self, state: State, item: Tensor, seen: Tensor | None = None) -> Tensor:
        """Rank of one item per state among the unseen items: 1 is best; item 0 (unknown) has rank 0, a miss.

        Ties count against the target. A target is ranked even if it was seen. Shape: int64 (T,) -> int64 (T,).
        """
        ranks = [
            ranks_from_scores(self.logits(state[part]), item[part] - 1, seen_within(seen, part))
            for part in chunks(len(state), self.num_items)
        ]
        return torch.cat(ranks)

    def ranks_within(self, state: State, item: Tensor, k: int, seen: Tensor | None = None) -> Tensor:
        """Like `ranks`, but ranks above k need not be exact, only above k, which is faster for some policies."""
        return self.ranks(state, item, seen)

    def set_strengths(self, memory: float, prior: float) -> None:
        """Set the strengths of memory and prior."""
        self.prior_strength = prior
        if self.memory is not None:
            self.memory.strength = memory

    def ranks_by_strengths(
        self, state: State, item: Tensor, k: int, seen: Tensor, strengths: Iterable[tuple[float, float]]
    ) -> Iterator[Tensor]:
        """`ranks_within` under each pair of strengths, of memory and prior. The last pair stays set."""
        for memory, prior in strengths:
            self.set_strengths(memory, prior)
            yield self.ranks_within(state, item, k, seen)


def total_nll(policy: Policy, state: State, item_T: Tensor, weight_T: Tensor) -> Tensor:
    """sum_t weight_t * -log pi(item_t | state_t), summed over all processes; arguments are this process's targets."""
    return all_gather_rows(policy.weighted_nll(state, item_T, weight_T)[None]).sum()


def mean_nll(policy: Policy, state: State, item_T: Tensor) -> Tensor:
    """mean_t -log pi(item_t | state_t) over the targets of all processes, a scalar."""
    targets = sum(row_counts(len(item_T), item_T.device))
    return total_nll(policy, state, item_T, torch.full(item_T.shape, 1 / targets, device=item_T.device))


def chunks(states: int, num_items: int) -> list[slice]:
    """Split states into slices that are small enough to be scored over the whole catalogue at once."""
    rows = max(1, min(ROWS, SCORES // num_items))
    return [slice(first, min(first + rows, states)) for first in range(0, max(states, 1), rows)]


def draw(logp_TV: Tensor, count: int, uniform_TC: Tensor | None = None) -> Tensor:
    """Draw columns with replacement, by inverting the cumulative probabilities: int64 (T, count).

    Sums are float64: in float32, as in `torch.multinomial`, single items of a large catalogue are lost. ``uniform_TC``:
    the random numbers to use; None: new ones.
    """
    if uniform_TC is None:
        uniform_TC = torch.rand(len(logp_TV), count, dtype=torch.float64, device=logp_TV.device)
    cumulated_TV = logp_TV.double().exp_().cumsum_(dim=1)
    total_T1 = cumulated_TV[:, -1:]
    return torch.searchsorted(cumulated_TV, uniform_TC * total_T1, right=True).clamp_(max=logp_TV.shape[1] - 1)


def seen_within(seen: Tensor | None, part: slice) -> Pairs | None:
    """The seen pairs of some states, as (row in the part, item - 1); None: none. Shape: int64 (2, N)."""
    if seen is None:
        return None
    own = seen[:, (seen[0] >= part.start) & (seen[0] < part.stop)]
    return own[0] - part.start, own[1] - 1
