"""What item-kNN's settings are worth: NDCG@10 on validation (users A), one change of the defaults at a time.

python benchmarks/item_knn.py [--logs ml-100k ml-1m kuairand-pure-excerpt simulated]
"""

from __future__ import annotations

import argparse

import torch
from tables import save_row

from recalign.evaluation.baselines import SameForAll, log_counts
from recalign.evaluation.item_knn import ItemKNN
from recalign.metrics.rank import gain_ndcg
from recalign.recommender import Policy
from recalign.sequences import EventDataModule
from recalign.stage import parse_stage

USERS = 1500  # of each log, a fixed sample
CHANGES = {"window": [3, 30], "neighbours": [50, 100], "shrinkage": [1, 100], "newest": [1, 10]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    logs = ["ml-100k", "ml-1m", "kuairand-pure-excerpt", "simulated"]
    parser.add_argument("--logs", nargs="+", default=logs, help="YAMLs of conf/data")
    for log in parser.parse_args().logs:
        words = ["fit", "--config=conf/reward.yaml", f"--config=conf/data/{log}.yaml"]
        data: EventDataModule = parse_stage(words).datamodule()  # type: ignore[assignment]
        data.sample = USERS
        sequences = data.sequences
        rows: dict[str, Policy] = {"popularity": SameForAll(log_counts(sequences)), "item-knn": ItemKNN.of(sequences)}
        alike = rows["item-knn, all of a history alike"] = ItemKNN.of(sequences)
        alike.weight_M.fill_(1)
        for name, values in CHANGES.items():
            rows |= {f"item-knn, {name} {value}": ItemKNN.of(sequences, **{name: value}) for value in values}
        for row, policy in rows.items():
            ndcg = ranked(policy, data)
            print(f"{log}, {row}: {ndcg:.4f}", flush=True)
            path = save_row("item_knn", log, row, [{"validation/ndcg@10": ndcg}], [0])
    print(path)


@torch.no_grad()
def ranked(policy: Policy, data: EventDataModule) -> float:
    """NDCG@10 over the validation events of users A."""
    loader = data.loader(data.windows("validation", "A"))
    rank_N = torch.cat([policy.ranks(policy.encode(batch), batch.target_T, batch.seen_N) for batch in loader])
    return float(gain_ndcg(rank_N.numpy(), 10).mean())


if __name__ == "__main__":
    main()
