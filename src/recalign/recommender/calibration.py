"""Choose the strengths of the item prior and of the memory on validation when cloning ends."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from recalign.data.sequences import Batch
from recalign.distributed import broadcast_floats
from recalign.recommender.checkpoint import load_net, read_checkpoint, recipe, write_checkpoint
from recalign.recommender.item_knn import ItemKNN
from recalign.recommender.memory import Memory
from recalign.recommender.policy import Policy, chunks, seen_within
from recalign.recommender.rank_metrics import RankMetrics
from recalign.recommender.row_sharding import TABLE, RowShardedPolicy, shard_rows
from recalign.recommender.training import PolicyModule

Strengths = tuple[float, float]
"""The strengths of the memory and of the item prior, a and c."""
MEMORY_STRENGTHS = (1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 24.0)
"""The values of a to try, besides 0."""
MAX_MEMORY_STRENGTH = 192.0
"""While all values rank worse than item-kNN alone, double the last one, up to this: the ranking nears item-kNN's."""
MIN_SHARE_OF_GAIN = 0.95
"""The chosen memory has at least this share of the best one's gain. A weaker memory leaves more to post-training."""
MAX_PRIOR_STRENGTH = 2.0
PRIOR_STRENGTHS = tuple(0.25 * i for i in range(9))
PRIOR_STRENGTHS_WITH_MEMORY = (0.0, 0.5, 1.0)  # benchmarks/memory: the best c is at most .75 on four logs
"""The values of c to try first."""
FINE_STEP, FINE_STEP_WITH_MEMORY = 0.0625, 0.125
"""Steps of the finer grid around the best of these, tried next."""
FACTS = ("memory", "strength", "ndcg@10", "ndcg@10_without_memory", "ndcg@10_without", "strength_without_memory")
"""Results of calibration: a, c, NDCG@10 with both, without the memory, and without either; c without the memory."""


class CalibratePrior(Callback):
    """Give the policy an item prior and a memory when training ends, and write them into the checkpoint.

    The measure is ``all/ndcg@10`` on the stage's validation events (by default those of all users, on which an NDCG
    budget is measured too). It takes the weakest memory that has `MIN_SHARE_OF_GAIN` of the best one's gain and ranks
    no worse than `ItemKNN`, or the best one if none does; with it, the prior's best strength. They go into the best
    checkpoint, from which the next stage starts, and into the module's policy. Training, and the validation that picks
    its epoch, use neither. A pass over these events encodes the histories once, and ranks for each pair of strengths:
    one pass for item-kNN, two with 42 pairs at most, and one with three pairs per strength above `MEMORY_STRENGTHS`.

    Logs ``rank/prior`` and ``rank/memory``, the strengths, and NDCG@10 with both, without the memory, and without
    either: ``rank/prior/{ndcg@10,ndcg@10_without_memory,ndcg@10_without}``. The checkpoint's facts hold the same under
    ``prior``.

    Args:
        facts: a dictionary that also receives the results, by name (`FACTS`).
        memory: whether to try a memory.
    """

    def __init__(self, facts: dict[str, float], memory: bool = True) -> None:
        super().__init__()
        self.facts, self.memory = facts, memory
        self._validated = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated |= not trainer.sanity_checking

    def state_dict(self) -> dict[str, bool]:
        return {"validated": self._validated}

    def load_state_dict(self, state_dict: dict[str, bool]) -> None:
        self._validated = state_dict["validated"]

    def on_train_end(self, trainer: Trainer, pl_module: PolicyModule) -> None:  # type: ignore[override]
        if not trainer.num_val_batches or not self._validated or not pl_module.datamodule:
            what = "no validation was run" if pl_module.datamodule else "the module has no log (module.bind)"
            rank_zero_warn(f"{what}, so the policy gets no item prior (model.prior)")
            return
        path = _handed_over(trainer)
        saved = path.is_file()
        policy = load_net(path, "policy").net if saved else copy.deepcopy(pl_module.policy)
        if isinstance(pl_module.policy, RowShardedPolicy):
            shard_rows(policy)  # type: ignore[arg-type]
        policy = policy.to(pl_module.device).eval()
        takes_memory = "memory" in policy.init_args
        if self.memory and takes_memory:
            policy.remember(Memory.of(pl_module.data.sequences, pl_module.data.users).to(pl_module.device))
        found = self._search(trainer, pl_module, policy)
        policy.set_strengths(found["memory"], found["strength"])
        if takes_memory and not found["memory"]:
            policy.remember(None)
        take_strengths(pl_module.policy, policy)
        self.facts |= found
        if saved and trainer.is_global_zero:
            checkpoint = read_checkpoint(path)
            weights = {f"policy.{name}": x.cpu() for name, x in policy.state_dict().items()}
            if isinstance(policy, RowShardedPolicy):  # one process's rows; the checkpoint holds the whole table
                del weights[f"policy.{TABLE}"]
            checkpoint["state_dict"] |= weights
            checkpoint["recipes"]["policy"] = recipe(policy)
            checkpoint["facts"]["prior"] = found
            write_checkpoint(checkpoint, path)
        report(found)
        figures = {"rank/prior": found["strength"], "rank/memory": found["memory"]}
        figures |= {f"rank/prior/{name}": value for name, value in found.items() if name.startswith("ndcg")}
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=trainer.global_step)

    def on_fit_end(self, trainer: Trainer, pl_module: PolicyModule) -> None:  # type: ignore[override]
        """Read the results from the checkpoint if `on_train_end` did not run, as nothing was left to train."""
        if not self.facts and (path := _handed_over(trainer)).is_file():
            loaded = load_net(path, "policy")
            self.facts |= loaded.facts.get("prior", {})
            take_strengths(pl_module.policy, loaded.net)

    def _search(self, trainer: Trainer, module: PolicyModule, policy: Policy) -> dict[str, float]:
        """Search the strengths; results by the names in `FACTS`."""
        data, limit = module.data, int(trainer.num_val_batches[0])
        windows = data.windows("validation")
        found = dict[Strengths, float]()

        def measured(policy: Policy, strengths: list[Strengths]) -> dict[Strengths, float]:
            with trainer.precision_plugin.val_step_context():
                batches = map(module.visible, islice(data.loader(windows), limit))
                return ndcg_by_strength(policy, batches, module.device, strengths)

        def measure(wanted: Iterable[Strengths]) -> None:
            found.update(measured(policy, [(a, c) for a, c in wanted if 0 <= c <= MAX_PRIOR_STRENGTH]))

        def best(memory: float) -> Strengths:
            tried = sorted(each for each in found if each[0] == memory)
            return max(tried, key=lambda strengths: found[strengths])  # on ties, the weakest

        memories, alone = [0.0], 0.0
        if policy.memory is not None:
            memories += MEMORY_STRENGTHS
            knn = ItemKNN(policy.memory, torch.from_numpy(data.sequences.item_counts())).to(module.device)
            [alone] = measured(knn, [(0.0, 0.0)]).values()
        measure((a, c) for a in memories for c in (PRIOR_STRENGTHS_WITH_MEMORY if a else PRIOR_STRENGTHS))
        while max(found.values()) < alone and memories[-1] < MAX_MEMORY_STRENGTH:
            memories.append(2 * memories[-1])
            measure((memories[-1], c) for c in PRIOR_STRENGTHS_WITH_MEMORY)
        without, highest = found[best(0.0)], max(found.values())
        enough = min(highest, max(without + MIN_SHARE_OF_GAIN * (highest - without), alone))
        memory = next((a for a in memories if found[best(a)] >= enough), 0.0)
        fine = {0.0: FINE_STEP} | ({memory: FINE_STEP_WITH_MEMORY} if memory else {})
        measure((a, best(a)[1] + i * fine[a]) for a in fine for i in (-3, -2, -1, 1, 2, 3))
        values = [*best(memory), found[best(memory)], found[best(0.0)], found[0.0, 0.0], best(0.0)[1]]
        return dict(zip(FACTS, broadcast_floats(values, module.device), strict=True))


def report(found: Mapping[str, float]) -> None:
    """Print the results, and warn if the prior's strength is at the end of its range."""
    memory, strength, with_both, without_memory, without, _ = found.values()
    if strength == MAX_PRIOR_STRENGTH:
        rank_zero_warn(
            f"the item prior's strength is at the end of its range, {strength:g}: validation asks for even more "
            "common items; the policy may be trained too little"
        )
    steps = f"{without:.4f}, with an item prior {without_memory:.4f}, with a memory too {with_both:.4f}"
    rank_zero_info(f"NDCG@10 on validation {steps} (strengths {strength:g} and {memory:g})")


def take_strengths(policy: Policy, calibrated: Policy) -> None:
    """Copy the prior's strength and the memory from a calibrated policy."""
    policy.prior_strength = calibrated.prior_strength
    if "memory" in policy.init_args:
        policy.remember(calibrated.memory)


@torch.no_grad()
def ndcg_by_strength(
    policy: Policy, batches: Iterable[Batch], device: torch.device, strengths: list[Strengths]
) -> dict[Strengths, float]:
    """Mean NDCG@10 of all targets under each pair of strengths; NaN if there is no target.

    Ranks over the full catalogue without seen items. The last pair of strengths stays set. States do not depend on the
    strengths, so histories are encoded once.
    """
    metrics = {each: RankMetrics((10,), sync_on_compute=False).to(device) for each in strengths}
    for batch in batches if strengths else ():
        there = batch.to(device)
        whole = policy.encode(there)
        for part in chunks(len(whole), policy.num_items):
            state, item_T = whole[part], there.target_T[part]  # the memory's scores are computed once for all strengths
            row_N, column_N = seen_within(there.unranked_N, part) or (item_T[:0], item_T[:0])
            seen_N = torch.stack([row_N, column_N + 1])
            ranks = policy.ranks_by_strengths(state, item_T, 10, seen_N, metrics)
            for metric, rank_T in zip(metrics.values(), ranks, strict=True):
                metric.update(rank_T)
    return {each: float(metric.compute()["ndcg@10"]) for each, metric in metrics.items()}


def _handed_over(trainer: Trainer) -> Path:
    """The checkpoint from which the next stage starts; not a file if the run writes none."""
    callback = trainer.checkpoint_callback
    return Path(getattr(callback, "best_model_path", "") or getattr(callback, "last_model_path", ""))
