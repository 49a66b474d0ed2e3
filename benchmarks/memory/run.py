"""Which memory of co-occurrence makes a cloned policy rank best, as a factor of it or in a mixture with it?

    python -m benchmarks.memory.run --logs ml-100k simulated [--seeds 0 1 2] [--every 10] [-- --trainer.max_epochs=4]

    factor:   log pi'(v | h) = log pi(v | h) + c log(n_v + 1/2) + a f(s(v | h)) - log Z                     f: `FORMS`
    mixture:  pi'(v | h) = (1 - a) pi_c(v | h) + a p(v | h)       pi_c: the above at a = 0; p: item-kNN's formula

s(v | h) is the memory's score (`memories.py`), n_v are the training events of v. All unseen items are ranked. c and a
are chosen for each row and seed on the validation targets of all users, or on every so manieth with --every; with
--test the row is measured once on the test. Starts are trained once and kept (`starts.py`).

Suffixes: R targets of a block, V items, M events of a history.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product

import polars as pl
import torch
from torch import Tensor

from benchmarks.lib import by_metric, lines, markdown, options, save, with_sd
from benchmarks.memory.memories import Scores, ease, linear, neighbours, ridge
from benchmarks.memory.starts import Targets, cloned
from recalign.recommender.calibration import MEMORY_STRENGTHS, WORTH
from recalign.recommender.rank_metrics import gain_ndcg

C = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
FORMS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Sequence[float], Sequence[float]]] = {
    "start": (torch.mul, (0.0,), (0.0,)),
    "prior": (torch.mul, C, (0.0,)),
    "alone": (torch.add, (0.0,), (1.0,)),
    "score": (lambda score, share: score, C, (0.0, *MEMORY_STRENGTHS)),
    "ratio": (lambda score, share: (score / share).log1p(), (*C, 3.0, 4.0), (0, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4)),
    "mixture": (torch.add, C, (0, 0.25, 0.5, 0.75, 0.9)),
}
"""f, of scores from 0 and the items' shares of the training events (for a mixture: what p is the share of); then the
strengths c and a to try."""
Found = dict[tuple[float, float], tuple[float, float]]
"""NDCG@10 and NLL by (c, a)."""
WITHOUT, MIXED = ("start", "prior"), ("alone", "mixture")
MEMORIES = {
    "knn": neighbours(),
    "knn, forwards": neighbours(before=False),
    "ease, 300": linear(ease, 50, 300),
    "ease, 1000": linear(ease, 50, 1000),
    "ridge": linear(ridge, 10, 300),
    "transitions": neighbours(window=1, shrinkage=None, newest=1, before=False),
    **{f"knn, window {x}": neighbours(window=x) for x in (1, 2, 5, 20, 50)},
    **{f"knn, shrinkage {x}": neighbours(shrinkage=x) for x in (0, 3, 30, 100)},
    **{f"knn, neighbours {x}": neighbours(x) for x in (20, 50, 100)},
    **{f"knn, newest {x}": neighbours(newest=x) for x in (1, 5, 10, 50, 200)},
}


def main() -> None:
    parser = options(__doc__, seeds=[0], runs="runs/memory")
    parser.add_argument("--logs", nargs="+", default=["ml-100k", "simulated"], help="YAMLs of conf/data")
    parser.add_argument("--memories", nargs="+", default=[*MEMORIES], choices=MEMORIES)
    parser.add_argument("--forms", nargs="+", default=[*FORMS], choices=FORMS)
    parser.add_argument("--every", type=int, default=1, help="validate on every so manieth target")
    parser.add_argument("--test", action="store_true")
    parser.add_argument("fit", nargs="*", help="words for every fit, after --")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for log in given.logs:
        cells = [of_start(log, seed, given) for seed in given.seeds]
        rows = pl.concat([lines(log, row, by_metric([cell[row] for cell in cells]), given.seeds) for row in cells[0]])
        save(rows, "memory/rows", "log", "row")
        metrics = rows["metric"].unique(maintain_order=True)
        print(f"\n{log}\n\n{markdown(rows, {name: name for name in metrics}, 4, with_sd)}", flush=True)


def of_start(log: str, seed: int, given: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Figures of all rows by row and metric."""
    splits, data = cloned(log, seed, given)
    count_V, found = torch.from_numpy(data.sequences.item_counts()).float(), {}
    for name in given.memories:
        scores = MEMORIES[name](data.sequences)
        for form in given.forms:
            row = form if form in WITHOUT else f"{name}/{form}"
            if row not in found:
                found[row] = chosen(partial(measured, form, scores, count_V), splits, FORMS[form][1:], given)
                print(log, seed, row, found[row], flush=True)
    return found


def chosen(
    measure: Callable[..., Found],
    splits: dict[str, Targets],
    ranges: tuple[Sequence[float], Sequence[float]],
    given: argparse.Namespace,
) -> dict[str, float]:
    """The weakest memory within `WORTH` of the best on validation, and the best c beside it; NDCG@10 and NLL."""
    (c, a), valid = ranges, splits["validation"]
    found = measure(valid, list(product(c, a)), given.every)
    best = max(value for value, _ in found.values())
    weakest = min(y for (_, y), (value, _) in found.items() if value >= (1 - WORTH) * best)
    strengths = max((pair for pair in found if pair[1] == weakest), key=found.__getitem__)
    figures = {"c": strengths[0], "a": strengths[1], "validation/ndcg@10/best": best}
    for split, every in [("validation", given.every), ("test", 1)][: 1 + given.test]:
        figures[f"{split}/ndcg@10"], figures[f"{split}/nll"] = measure(splits[split], [strengths], every)[strengths]
    return figures


@torch.no_grad()
def measured(
    form: str, scores: Scores, count_V: Tensor, targets: Targets, tried: list[tuple[float, float]], every: int
) -> Found:
    """Mean NDCG@10 of every so manieth target by (c, a), and of a single pair the NLL (targets in the catalogue)."""
    share_V, log_count_V = count_V.clamp(min=0.5) / count_V.sum(), (count_V + 0.5).log()
    one_V, known = torch.ones(len(count_V)), 0
    gain, nll = dict.fromkeys(tried, 0.0), 0.0
    for logit_RV, column_R1, history_RM in blocks(targets, every):
        known += len(logit_RV)
        term_RV = FORMS[form][0](scores(history_RM).clamp(min=0), share_V)
        if form in MIXED:
            term_RV = term_RV.masked_fill(logit_RV.isinf(), 0)
            term_RV /= term_RV.sum(1, keepdim=True)
        for c, a in tried:
            score_RV = torch.add(logit_RV, log_count_V, alpha=c)
            score_RV = (
                torch.lerp(score_RV.softmax(1), term_RV, a).log() if form in MIXED else score_RV.add_(term_RV, alpha=a)
            )
            own_R1 = score_RV.gather(1, column_R1)
            if len(tried) == 1:
                nll += float((score_RV.logsumexp(1, keepdim=True) - own_R1).sum())
            gain[c, a] += float(gain_ndcg(torch.ge(score_RV, own_R1, out=score_RV) @ one_V, 10).sum())
    return {pair: (value / len(targets.target_T[::every]), nll / known) for pair, value in gain.items()}


def blocks(targets: Targets, every: int, rows: int = 128) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Logits (R, V), -inf at seen items, columns of the targets (R, 1), and histories; of targets in the catalogue."""
    row_N, seen_N = targets.seen_2N.long()
    border_T = torch.searchsorted(row_N, torch.arange(len(targets.target_T) + 1))
    chosen_T = torch.arange(0, len(targets.target_T), every)
    for row_R in chosen_T[targets.target_T[chosen_T] > 0].split(rows):
        logit_RV = targets.state_TD[row_R] @ targets.item_VD.T
        column_R1 = targets.target_T[row_R, None] - 1
        own_R1 = logit_RV.gather(1, column_R1)
        for at, row in enumerate(row_R.tolist()):
            logit_RV[at, seen_N[border_T[row] : border_T[row + 1]] - 1] = -torch.inf
        yield logit_RV.scatter_(1, column_R1, own_R1), column_R1, targets.history_TM[row_R]


if __name__ == "__main__":
    main()
