"""New items: how often a policy over codes finds items that nobody chose in training, from their codes alone.

    python benchmarks/new_items.py [--seeds 0 1 2] [--runs DIR] [-- --trainer.max_epochs=30]

ML-100K, cut by time at 80 % and 90 % of the events. The codes come from titles: runs of three letters, and the year.
Those of the catalogue are made first, and the policy is trained on them; those of the new items are appended after.
Rows, for each head: `catalogue`, without the new items; `appended`, as `recalign recommend --codes` has them; `random
ids`, the same with free ids dealt out at random, which say nothing of an item. Figures over all test targets are
`all/*`, over those whose item is new `new/*`; `new/chance@k` is how many of these k random items would hold, of those
that the user has not chosen. Finished runs are not run again.
"""

from __future__ import annotations

import argparse
import re
import shlex
import statistics
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import numpy as np
import polars as pl
import torch
from tables import SCHEMA, commit, markdown, save

from recalign.events import data_root, read_titles
from recalign.metrics import RankMetrics
from recalign.recommender import CodePolicy
from recalign.recommender.checkpoint import load_net
from recalign.recommender.new_items import with_new_items
from recalign.semantic_ids import ParquetVectors
from recalign.semantic_ids.codes import CodesTable
from recalign.semantic_ids.tokenize_command import tokenize
from recalign.semantic_ids.vectors import vector_table
from recalign.sequences import EventDataModule
from recalign.stage import parse_stage, run_stage

LOG, SIZES, HEADS = "ml-100k", [64, 32], ("node", "shared")
TIME = ["--data.split=recalign.sequences.TimeSplit", "--data.split.cuts=[0.8, 0.9]"]
LETTERS, YEARS = 128, 24
"""Numbers of a vector for a title's letters, hashed, and for its year."""
CUTS = (10, 50, 200)
SHOWN = {
    f"{which}/{metric}": f"{which}/{metric}"
    for which in ("all", "new")
    for metric in ("ndcg@10", "hr@10", "hr@50", "hr@200")
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/new-items"))
    parser.add_argument("fit", nargs="*", help="words for every fit, after --")
    given = parser.parse_args()
    seeds = " ".join(map(str, given.seeds))
    cells = [dict(cell for head in HEADS for cell in measured(head, seed, given)) for seed in given.seeds]
    rows: list[tuple[object, ...]] = []
    for row, metric in cells[0]:
        values = [cell[row, metric] for cell in cells]
        sd = statistics.stdev(values) if len(values) > 1 else None
        rows.append((LOG, row, metric, statistics.fmean(values), sd, None, None, seeds, commit()))
    types = [pl.String] * 3 + [pl.Float64] * 4 + [pl.String] * 2
    frame = pl.DataFrame(rows, schema=dict(zip(SCHEMA, types, strict=True)), orient="row")
    print(f"\n{markdown(frame, SHOWN, digits=4)}\n\n{save(frame, 'new_items')}")


def measured(head: str, seed: int, given: argparse.Namespace) -> Iterator[tuple[tuple[str, str], float]]:
    """One policy: each row and metric, and the figure."""
    data = parse_stage(words(head, seed, given, [f"--model.sizes={SIZES}"])).datamodule()
    assert isinstance(data, EventDataModule)
    folder = given.runs / LOG / "tokens" / f"seed-{seed}"
    vectors = ParquetVectors(write_vectors(data, folder / "titles.parquet"))
    codes = tokenize(data=data, vectors=vectors, sizes=SIZES, seed=seed, out=folder / "catalogue")
    argv = words(head, seed, given, [f"--model.codes={codes}"])
    print(shlex.join(["recalign", *argv]), flush=True)
    stage = parse_stage(argv)
    manifest = stage.finished() or run_stage(argv).manifest
    assert manifest is not None, "a dry run makes no row"
    policy = load_net(stage.folder.path / str(manifest.checkpoint), "policy").net
    assert isinstance(policy, CodePolicy)
    grown = tokenize(data=data, vectors=vectors, append=codes, out=folder / "grown", allow_collapsed=True)
    files = {"catalogue": codes, "appended": grown, "random ids": with_random_ids(grown, seed)}
    for row, file in files.items():
        for metric, value in tested(policy, data, file).items():
            yield (f"onerec/{head}, {row}", metric), value


def words(head: str, seed: int, given: argparse.Namespace, codes: list[str]) -> list[str]:
    """The command that trains the policy."""
    argv = ["fit", "--config=conf/recommender-onerec.yaml", f"--config=conf/data/{LOG}.yaml", *TIME, *codes]
    argv += [f"--model.head={head}", f"--run.name={head}", f"--seed_everything={seed}"]
    return [*argv, f"--run.root={given.runs}", f"--run.chain={LOG}", *given.fit]


def write_vectors(data: EventDataModule, path: Path) -> Path:
    """Vectors of all items of the log, new ones too, from their titles."""
    items = data.table.items
    titles = read_titles(data.log_, data_root(data.root), items)[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    vector_table(items, np.stack([vector(title) for title in titles])).write_parquet(path)
    return path


def vector(title: str) -> np.ndarray:
    """What a title says of its film. Shape: float (LETTERS + YEARS,)."""
    name, year = re.sub(r"\(\d{4}\)", "", title.lower()).strip(), re.search(r"\((\d{4})\)", title)
    letter_L = np.zeros(LETTERS)
    for first in range(len(name) - 2):
        letter_L[crc32(name[first : first + 3].encode()) % LETTERS] += 1
    centre_Y = np.linspace(1930, 1999, YEARS)
    year_Y = np.exp(-((int(year[1]) - centre_Y) ** 2) / 18) if year else np.zeros(YEARS)
    halves = [part / max(float(np.linalg.norm(part)), 1e-9) for part in (letter_L, year_Y)]
    return np.concatenate(halves)


def with_random_ids(file: Path, seed: int) -> Path:
    """The same table, but the ids of its newest items are free ones dealt out at random."""
    table = CodesTable.read(file)
    old_N = table.version_N < table.version
    taken = np.ravel_multi_index(table.codes_NL[old_N].T, table.sizes)
    free = np.setdiff1d(np.arange(int(np.prod(table.sizes))), taken)
    chosen = np.random.default_rng(seed).choice(free, (~old_N).sum(), replace=False)
    old = CodesTable(table.items.filter(pl.Series(old_N)), table.codes_NL[old_N], table.version_N[old_N], table.sizes)
    path = file.with_name("random.parquet")
    codes_ML = np.stack(np.unravel_index(chosen, table.sizes), axis=1)
    old.appended(table.items.filter(pl.Series(~old_N)), codes_ML).write(path)
    return path


@torch.no_grad()
def tested(policy: CodePolicy, data: EventDataModule, file: Path) -> dict[str, float]:
    """Ranks of the test targets among the items that a file of codes has."""
    grown, items = with_new_items(policy, file, data.sequences.items)
    grown.eval()
    raw = data.table.items.gather(data.sequences.frame["item"])
    number = pl.Series(raw).replace_strict(items, np.arange(1, len(items) + 1), default=0, return_dtype=pl.Int64)
    item_N = torch.tensor(number.to_numpy())
    user_N = torch.tensor(data.sequences.frame["user"].to_numpy()).long()
    chosen_E = (item_N > data.num_items).nonzero()[:, 0]  # events of new items, which the log's own batches leave out
    over_all, over_new, chance = RankMetrics(ks=CUTS), RankMetrics(ks=CUTS), []
    for batch in data.test_dataloader():
        event_T, user_T = batch.event_T, batch.user_B[batch.row_T]
        before_TE = (user_N[chosen_E] == user_T[:, None]) & (chosen_E < event_T[:, None])
        row_N, place_N = before_TE.nonzero(as_tuple=True)
        seen_N = torch.cat([batch.seen_N, torch.stack([row_N, item_N[chosen_E[place_N]]])], dim=1).unique(dim=1)
        rank_T = grown.ranks(grown.encode(batch), item_N[event_T], seen_N)
        new_T = batch.target_T == 0
        over_all.update(rank_T)
        over_new.update(rank_T[new_T])
        chance += [1 / (len(items) - seen) for seen in seen_N[0].bincount(minlength=len(event_T))[new_T].tolist()]
    found = {"all": over_all, "new": over_new}
    figures = {f"{which}/{name}": float(x) for which, metric in found.items() for name, x in metric.compute().items()}
    figures |= {f"new/chance@{k}": k * statistics.fmean(chance) for k in CUTS}
    return figures | {"new/targets": float(over_new.events), "all/targets": float(over_all.events), "items": len(items)}


if __name__ == "__main__":
    main()
