"""Row-wise sharding of the item table under DDP: each process holds, trains and ranks a part of the items.

The encoder and the item counts (4 bytes per item) are replicated in every process. Gradients of the rows never leave
their process; `recalign.nn.row_sharding` has the lookups and the softmax. A checkpoint holds the whole table and its
moments, which rank 0 assembles on disk, so that any number of processes can resume from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning import Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from recalign.distributed import is_distributed
from recalign.errors import InputError
from recalign.nn import row_sharding
from recalign.nn.row_sharding import gather_rows
from recalign.recommender.policy import State
from recalign.recommender.sequence_policy import SequencePolicy

TABLE = "item_embedding.weight"
"""The weights of a policy that are sharded."""


class ShardedTable(nn.Module):
    """This process's rows of an item table, with lookups in the whole table.

    Args:
        weight_VD: the whole table, the padding item first.
    """

    def __init__(self, weight_VD: Tensor) -> None:
        super().__init__()
        self.rows, self.part = len(weight_VD), row_sharding.part_of(len(weight_VD))
        self.weight = nn.Parameter(weight_VD.detach()[self.part].clone(), weight_VD.requires_grad)
        self.skipped = int(self.part.start == 0)  # the padding item is not in the softmax
        self.columns = slice(self.part.start - 1 + self.skipped, self.part.stop - 1)
        self.register_load_state_dict_pre_hook(keep_own_rows)

    def forward(self, item_N: Tensor) -> Tensor:
        """Rows of some items. Shape: int64 (N,) -> (N, D)."""
        return row_sharding.lookup(self.weight, item_N, self.rows)

    def index_select(self, dim: int, item_N: Tensor) -> Tensor:
        """Like `torch.Tensor.index_select` of a whole table."""
        return self(item_N)


def keep_own_rows(table: ShardedTable, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Replace the whole table in a ``state_dict`` by this process's rows."""
    name = f"{prefix}weight"
    if len(state_dict.get(name, ())) == table.rows:
        state_dict[name] = state_dict[name][table.part]


class RowShardedPolicy(SequencePolicy):
    """A `SequencePolicy` of which each process holds a part of the item table; all processes must call its methods.

    Results equal those of the unsharded policy up to rounding. Not supported: `sample`, gradients of `log_probs`,
    features, and a memory. `shard_rows` makes it; checkpoints hold the unsharded policy.
    """

    sharded_from = SequencePolicy  # the class in its recipe
    item_embedding: ShardedTable  # type: ignore[assignment]

    def item_table(self) -> Any:
        return self.item_embedding

    def log_probs(self, state: State, items: Tensor | None = None) -> Tensor:
        query_TX, item_VX = self._vectors(state)
        with torch.autocast(query_TX.device.type, enabled=False):
            logp_TV = row_sharding.scores(query_TX, item_VX).div(self.temperature).log_softmax(dim=-1)
        return logp_TV if items is None else logp_TV.gather(1, items - 1)

    def logits(self, state: State) -> Tensor:
        return self.log_probs(state)

    def sample(self, state: State, count: int) -> Tensor:
        raise NotImplementedError("processes with unlike numbers of states cannot sample together")

    def log_prob(self, state: State, item: Tensor) -> Tensor:
        vectors, first = self._vectors(state), self.item_embedding.columns.start
        return row_sharding.log_prob(*vectors, item - 1, first, 1 / self.temperature, self._bound())

    def weighted_nll(self, state: State, item: Tensor, weight: Tensor) -> Tensor:
        return -(weight.detach() * self.log_prob(state, item)).sum()

    @torch.no_grad()
    def top_k(self, state: State, k: int, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        pairs = None if seen is None else (seen[0], seen[1] - 1)
        first = self.item_embedding.columns.start
        score, column = row_sharding.sharded_top_k(*self._vectors(state), k, first, pairs)
        return score / self.temperature, column + 1

    @torch.no_grad()
    def ranks(self, state: State, item: Tensor, seen: Tensor | None = None) -> Tensor:
        pairs = None if seen is None else (seen[0], seen[1] - 1)
        first = self.item_embedding.columns.start
        return row_sharding.sharded_ranks(*self._vectors(state), item - 1, first, pairs)

    def _vectors(self, state: State) -> tuple[Tensor, Tensor]:
        """All states of this process, and its part of the items."""
        table = self.item_embedding
        return self._widened(state, table.weight[table.skipped :], table.columns)


def shard_rows(policy: SequencePolicy) -> None:
    """Keep only this process's rows of a policy's item table, in place. With a single process nothing changes.

    Raises:
        InputError: the policy has features or a memory, or fewer items than there are processes.
    """
    if not is_distributed() or isinstance(policy, RowShardedPolicy):
        return
    if policy.features is not None or policy.memory is not None:
        known = {"features": policy.features, "a memory": policy.memory}
        what = " and ".join(name for name, part in known.items() if part is not None)
        remedy = "give --trainer.strategy ddp, or train the recommender without them"
        raise InputError(f"a policy with {what} cannot be row-sharded", where="trainer.strategy", remedy=remedy)
    if policy.num_items + 1 < 2 * (processes := dist.get_world_size()):  # the padding item has a row too
        what = f"{policy.num_items} items cannot be sharded over {processes} processes"
        raise InputError(what, where="trainer.devices", remedy="use fewer processes")
    policy.item_embedding = ShardedTable(policy.item_embedding.weight)  # type: ignore[assignment]
    policy.__class__ = RowShardedPolicy


class RowSharding(DDPStrategy):
    """DDP with item tables sharded by rows over the processes; for modules with ``takes_row_sharding``.

    A run can resume with any number of processes, also without this strategy.

    Args:
        timeout: of collective operations, for a process that does not respond.
    """

    restore_checkpoint_after_setup = True  # each process reads its own rows

    def __init__(self, timeout: timedelta = timedelta(minutes=5), **kwargs: Any) -> None:
        super().__init__(broadcast_buffers=False, timeout=timeout, **kwargs)  # no buffer changes in training
        self._sharded: set[str] = set()

    def setup(self, trainer: Trainer) -> None:
        module: Any = self.lightning_module
        require_shardable(type(module), getattr(module, "memory", False))
        policies = {name: each for name, each in module.named_modules() if isinstance(each, SequencePolicy)}
        for policy in policies.values():
            shard_rows(policy)
        self._sharded = {f"{name}.{TABLE}" for name in policies} if is_distributed() else set()
        module._ddp_params_and_buffers_to_ignore = self._sharded
        self.precision_plugin.clip_grad_by_norm = self._clip_grad_by_norm  # type: ignore[method-assign]
        super().setup(trainer)

    def _clip_grad_by_norm(self, optimizer: torch.optim.Optimizer, clip_val: float) -> None:
        module: Any = self.lightning_module
        torch.nn.utils.clip_grads_with_norm_(module.parameters(), clip_val, gradient_norm(module))

    def optimizer_step(self, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
        output = super().optimizer_step(optimizer, *args, **kwargs)
        optimizer.zero_grad()  # frees memory for a checkpoint's whole table
        return output

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        if self._sharded:
            folder = Path(filepath).parent
            folder.mkdir(parents=True, exist_ok=True)
            # All processes need the same order: a set's order differs, which would swap the tables.
            for key in [key for key in ("state_dict", "current_model_state") if key in checkpoint]:
                weights = checkpoint[key].items()
                checkpoint[key] = {n: gather_rows(x, folder) if n in self._sharded else x for n, x in weights}
            if "optimizer_states" in checkpoint:
                checkpoint["optimizer_states"] = [*self._moments(checkpoint, lambda x, _: gather_rows(x, folder))]
        super().save_checkpoint(checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Memory-map the file: rows of other processes stay on disk."""
        found: dict[str, Any] = torch.load(checkpoint_path, map_location="cpu", mmap=True, weights_only=True)
        return found

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        found = [*self._moments(checkpoint, lambda x, part: x[part].clone())]
        super().load_optimizer_state_dict({"optimizer_states": found})

    def _moments(
        self, checkpoint: Mapping[str, Any], change: Callable[[Tensor, slice], Tensor | None]
    ) -> Iterator[dict[str, Any]]:
        """States of the optimisers in a checkpoint, with ``change`` applied to the moments of sharded tables."""
        module: Any = self.lightning_module
        parts = {id(each.weight): each.part for each in module.modules() if isinstance(each, ShardedTable)}
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            own = [parts.get(id(weight)) for group in optimizer.param_groups for weight in group["params"]]
            yield state | {
                "state": {
                    n: {name: change(x, part) if part and x.ndim else x for name, x in known.items()}
                    for n, known in state["state"].items()
                    for part in [own[n]]
                }
            }


def require_shardable(kind: type, memory: bool) -> None:
    """Refuse, with an InputError, a module whose item tables `RowSharding` cannot shard, or a memory.

    A module's class declares its support by ``takes_row_sharding``.
    """
    if not getattr(kind, "takes_row_sharding", False):
        what, where = f"{kind.__name__} works with whole item tables only", "trainer.strategy"
        raise InputError(what, where=where, remedy="give --trainer.strategy ddp")
    if memory:
        what = "a memory of co-occurrence is not sharded: every process would hold all of it"
        raise InputError(what, where="model.memory", remedy="give --model.memory false, or --trainer.strategy ddp")


def gradient_norm(module: nn.Module) -> Tensor:
    """The 2-norm of all gradients. A collective operation if item tables are sharded."""
    tables = {id(each.weight) for each in module.modules() if isinstance(each, ShardedTable)}
    found = [(id(weight) in tables, weight.grad) for weight in module.parameters() if weight.grad is not None]
    whole = torch.nn.utils.get_total_norm([grad for in_parts, grad in found if not in_parts])
    if not tables:
        return whole
    square = torch.nn.utils.get_total_norm([grad for in_parts, grad in found if in_parts]).square()
    dist.all_reduce(square)
    return (whole.square() + square).sqrt()


def whole_numel(module: nn.Module) -> int:
    """The number of weights, including the rows of other processes."""
    tables = [each for each in module.modules() if isinstance(each, ShardedTable)]
    elsewhere = sum((each.rows - len(each.weight)) * each.weight.shape[1] for each in tables)
    return sum(weight.numel() for weight in module.parameters()) + elsewhere
