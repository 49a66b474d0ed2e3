"""How well are people served whom training never saw, by how many of their events are known?

    python -m benchmarks.serving.new_users [--logs ml-100k ml-1m] [--seeds 0 1 2] [--epochs 100] [--data DIR]

A recommender is trained on users A (seven in ten), and its bundle is asked about the test events of the others, with
their newest 0, 1, 2, 5, 10, 50 or all events. So each row has the same people and events, and answers differ by what is
known alone. Items of older events are left out of every list (``block``), as they have been met. With 0 events the item
prior answers. Beside them stand users A, of whom training saw all but the held-out events. NDCG@10, bootstrap over
users and seeds. The catalogue is that of all users, as anywhere here: items that only the others chose are in it.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.lib import CONF, commit, crossed, frame, markdown, options, save
from recalign.bootstrap import CrossedBootstrap, Estimate
from recalign.data.sequences.windows import evaluation_windows, sample_users
from recalign.run.chain.train import train
from recalign.run.stage import parse_stage
from recalign.run.stage.opened import OpenedRun, opened
from recalign.serve.export.command import bundle_of
from recalign.serve.export.verify import USERS, as_requests
from recalign.serve.server import Request, load_bundle

KNOWN = (0, 1, 2, 5, 10, 50, None)
"""Events that are told; None: all."""
METRIC = "ndcg@10"


def told(whole: Request, known: int | None) -> Request:
    """A request with the newest events only, and the items of the older ones blocked."""
    if known is None:
        return whole
    first = max(0, len(whole.items) - known)
    rewards = None if whole.rewards is None else whole.rewards[first:]
    older = tuple(dict.fromkeys(whole.items[:first]))
    return replace(whole, items=whole.items[first:], times=whole.times[first:], rewards=rewards, block=older)


def rows(made: OpenedRun) -> dict[str, Estimate]:
    """NDCG@10 of each row for one seed."""
    sequences = made.data.sequences
    with tempfile.TemporaryDirectory() as scratch:
        folder, _ = bundle_of(made, Path(scratch), check=False)
        bundle = load_bundle(folder)
        of_a = sequences.users_in("A")
        found = {}
        for group, chosen, each in (("new users", ~of_a, KNOWN), ("users A", of_a, (None,))):
            windows = evaluation_windows(
                sequences, sample_users(sequences, chosen, USERS), "test", made.data.max_length
            )
            for known in each:
                gain_T, user_T, _ = as_requests(windows, made.data, bundle, partial(told, known=known))
                found[f"{group}, {'all' if known is None else known} events"] = mean(gain_T, user_T)
    return found


def mean(gain_T: np.ndarray, user_T: np.ndarray) -> Estimate:
    """A mean over events, and what it would be with other users."""
    _, user = np.unique(user_T, return_inverse=True)
    sums = np.bincount(user, gain_T)[None], np.bincount(user)[None].astype(float)
    return CrossedBootstrap(sums[0].shape[1]).mean(*sums)


def trained(log: str, seed: int, epochs: int, runs: Path, data: str | None) -> OpenedRun:
    """A recommender of users A; what has run is not run again."""
    argv = [f"--config={CONF}/recommender.yaml", f"--config={CONF}/data/{log}.yaml", "--data.users=A"]
    argv += [f"--seed_everything={seed}", f"--trainer.max_epochs={epochs}", "--trainer.enable_progress_bar=false"]
    argv += [f"--run.root={runs}", f"--run.chain={log}", *([f"--data.root={data}"] if data else [])]
    return opened(train(parse_stage(["fit", *argv])).folder)


def main() -> None:
    parser = options(__doc__, seeds=[0, 1, 2], runs="runs/new-users", data=True)
    parser.add_argument("--logs", nargs="+", default=["ml-100k", "ml-1m"])
    parser.add_argument("--epochs", type=int, default=100, help="at most; early stopping ends them")
    given = parser.parse_args()
    for log in given.logs:
        seeds = [rows(trained(log, seed, given.epochs, given.runs, given.data)) for seed in given.seeds]
        rest = " ".join(map(str, given.seeds)), commit()
        found = frame([(log, row, METRIC, *crossed([one[row] for one in seeds]), *rest) for row in seeds[0]])
        save(found, "serving/new_users", "log")
        print(f"\n### {log}\n\n{markdown(found, {METRIC: METRIC}, 4)}", flush=True)


if __name__ == "__main__":
    main()
