"""Prepare a log that does not fit in memory: the same entry of the cache as for one that does, made in partitions.

1. Deal the rows of the files into partitions of users.
2. Check each partition and order its events.
3. From all partitions: the times of the cuts, the items of the catalogue, where each partition begins.
4. Write each partition's stretch of the arrays.
"""

from __future__ import annotations

import shutil
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from filelock import FileLock
from rich.progress import track

from recalign.data.events import ItemValues, LogMapping, Report, fingerprint
from recalign.data.events.audit import Section
from recalign.data.events.checking import CheckResult, make_report
from recalign.data.events.items import feature_figures
from recalign.data.events.scanning import LogScan
from recalign.data.sequences.cache import CacheEntry, column_file, mappable, read_table, write_features, write_tables
from recalign.data.sequences.features import ItemFeatures
from recalign.data.sequences.partitions import WARM, Facts, Partitions, Place, disk_errors
from recalign.data.sequences.splits import High, Split, UserGroups
from recalign.data.sequences.store import catalogue_digest, check_parts, fingerprint_of, number_items, with_rare_items
from recalign.errors import InputError
from recalign.files import write_json
from recalign.workers import LocalWorkers

ROWS = 4_000_000
"""Rows of a block, and of a partition unless their number is given."""

Run = Callable[..., Iterable[Any]]
"""`map`, here or in workers."""


def prepare(
    entry: CacheEntry,
    log: LogMapping,
    root: Path,
    reward: str | None,
    split: Split,
    high: High | None,
    groups: UserGroups,
    min_events: int,
    of_log: str,
    values: Callable[[pl.Series], ItemValues | None],
    partitions: int | None,
    workers: int,
) -> None:
    """Make the entry of a log in the cache, in partitions (`EventDataModule.prepare`). `of_log` is its fingerprint,
    `values` gives what is known of items, by the raw ids of the log's.

    Raises:
        InputError: the log or the split cannot be used, the disk is full, or a worker died. What is done is kept: the
            next call goes on from there.
    """
    if log.user in log.columns:
        remedy = "write that column into the files; or read the log whole, without recalign prepare"
        what = "recalign prepare deals rows by the user as it stands in the files, and this one is computed"
        raise InputError(what, where=f"data.log.columns.{log.user}", remedy=remedy)
    folder = entry.path.with_name(f".{entry.path.name}.parts-{partitions or 'auto'}")
    with disk_errors(folder):
        lock = Path(f"{folder}.lock")
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock), ExitStack() as stack:
            if entry.path.is_dir():  # another process made it meanwhile
                lock.unlink(missing_ok=True)
                return
            folder.mkdir(exist_ok=True)
            run: Run = stack.enter_context(LocalWorkers([{}] * workers)).map if workers > 1 else map
            tasks = Partitions(folder, LogScan.open(log, root, folder), log, reward, high, groups)
            try:
                report = _make(tasks, split, min_events, of_log, values, partitions, run)
            except BrokenExecutor as error:
                remedy = "run it again: what is done is kept. If memory ran out, give fewer workers or more partitions"
                raise InputError(f"a worker died ({error})", where=str(folder), remedy=remedy) from error
            if fingerprint_of(fingerprint(log, root, reward), split, high, groups, min_events, None) != of_log:
                shutil.rmtree(folder)
                raise InputError("the files changed while they were read", where=log.name, remedy="run it again")
            sections = _figures(tasks, report, values) if report.used > ROWS else None
            entry.publish(folder / "entry")
            if sections:
                entry.save_figures(sections)
            shutil.rmtree(folder)
        lock.unlink(missing_ok=True)


def _make(
    tasks: Partitions,
    split: Split,
    min_events: int,
    of_log: str,
    values: Callable[[pl.Series], ItemValues | None],
    partitions: int | None,
    run: Run,
) -> Report:
    """Write all files of the entry. `of_log` is `Sequences.fingerprint`. The report counts events of rare items too."""

    def each(title: str, task: Callable[..., Any], *arguments: Iterable[Any]) -> list[Any]:
        """Do a task for each of some arguments, with a line of progress; the results in order."""
        calls = list(zip(*arguments, strict=False))  # some arguments are the same for all
        return list(track(run(task, *zip(*calls, strict=True)), title, total=len(calls)))

    folder, scan = tasks.folder, tasks.scan
    blocks = scan.blocks(ROWS)
    bounds = _bounds(each("reading users", tasks.users_of, blocks), partitions or -(-scan.height // ROWS))
    numbers = range(len(bounds) + 1)
    begins = each("dealing rows", tasks.deal, range(len(blocks)), blocks, repeat(bounds))
    checked = each("checking events", tasks.check, numbers, repeat(begins))
    report = make_report([CheckResult(**facts["found"]) for facts in checked], scan.rows, tasks.reward)
    split_ = split.for_parts(lambda share: _kth_time(folder, numbers, int(report.used * share)))
    each("counting items", tasks.count, numbers, repeat(split_))
    found = _catalogue(folder, [facts["users"] for facts in checked], min_events, values)
    items, count_I, places = found.items, found.count_I, found.places
    nullable = sorted({name for facts in checked for name in facts["nullable"]})
    (folder / "entry").mkdir(exist_ok=True)
    shared = repeat(places[-1]), repeat(nullable)
    indexed = each("writing arrays", tasks.index, numbers, repeat(split_), places[:-1], *shared)
    most = max(facts["trained"] for facts in indexed)
    check_parts(np.sum([facts["sizes"] for facts in indexed], axis=0), most, split, min_events)
    _finish(folder, tasks.high, found, indexed, of_log, with_rare_items(report, items, count_I, min_events))
    return report


def _figures(tasks: Partitions, report: Report, values: Callable[[pl.Series], ItemValues | None]) -> dict[str, Section]:
    """The log's figures, of the largest partition: those of all users would need the whole log in memory."""
    items = read_table(tasks.folder / "catalogue.arrow")["item"]
    return tasks.figures(report) | {"item features": feature_figures(values(items), items)}


def _bounds(sampled: list[pl.Series], partitions: int) -> pl.Series:
    """The first user of every partition but the first, so that their events are about as many."""
    users = pl.concat(sampled).sort()
    places = [len(users) * number // partitions for number in range(1, partitions)]
    return users.gather(places if len(users) else []).unique().sort()


def _kth_time(folder: Path, numbers: Iterable[int], k: int) -> int:
    """The timestamp at place k (from 0) among those of all events in order, from each partition's sorted ones."""
    times = [np.load(folder / f"partition-{number}" / "times.npy", mmap_mode="r") for number in numbers]
    times = [part for part in times if len(part)]
    least, most = int(min(part[0] for part in times)), int(max(part[-1] for part in times))
    return least + bisect_left(
        range(most - least), k + 1, key=lambda t: sum(int(np.searchsorted(part, least + t, "right")) for part in times)
    )


@dataclass(frozen=True)
class _Catalogue:
    """The items of all partitions with their training events, those of the catalogue, and where partitions begin."""

    items: pl.Series
    count_I: np.ndarray
    places: list[Place]
    kept: pl.Series
    features: ItemFeatures | None


def _catalogue(
    folder: Path, users: list[int], min_events: int, read: Callable[[pl.Series], ItemValues | None]
) -> _Catalogue:
    """Number the items; the last place is where the last partition ends."""
    paths = [folder / f"partition-{number}" / "items.arrow" for number in range(len(users))]
    items = pl.scan_ipc(paths, glob=False).unique().collect(engine="streaming")["item"].sort()

    def counts() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Of each partition: its items' places among all, their training events, all of their events."""
        for number, path in enumerate(paths):
            train, every = np.load(folder / f"counts-{number}" / "counts.npy")
            yield items.search_sorted(read_table(path)["item"]).to_numpy(), train, every

    count_I = np.zeros(len(items), np.int64)
    for place, train, _ in counts():
        count_I[place] += train
    values = read(items)
    kept, number_I, warm = number_items(items, count_I >= min_events, values)
    pl.DataFrame({"item": items, "number": number_I}).write_ipc(folder / "catalogue.arrow")
    write_json(folder / WARM, warm)
    places = [Place(0, 0, 0)]
    for more, (place, train, every) in zip(users, counts(), strict=True):
        number, last = number_I[place], places[-1]
        dropped = train * ((number == 0) | (number > warm))
        events, known = int(every.sum() - dropped.sum()), int((every - dropped)[number > 0].sum())
        places.append(Place(last.user + more, last.event + events, last.known + known))
    return _Catalogue(items, count_I, places, kept, ItemFeatures.of(values, kept, warm) if values else None)


def _finish(
    folder: Path, high: High | None, found: _Catalogue, indexed: list[Facts], of_log: str, report: Report
) -> None:
    """Write what is not in stretches: the columns that are no numbers, the ids, and the facts."""
    numbers, entry = range(len(indexed)), folder / "entry"
    others = pl.concat([read_table(folder / f"index-{number}" / "others.arrow") for number in numbers])
    columns, numeric = indexed[0]["columns"], indexed[0]["numeric"]
    for name in mappable(others):  # `min_events` left out all events without a value
        np.save(column_file(entry, columns, name), others.drop_in_place(name).to_numpy())
        numeric.append(name)
    users = pl.concat([read_table(folder / f"partition-{number}" / "users.arrow") for number in numbers])
    mapped = [pl.Series(name, np.load(column_file(entry, columns, name), mmap_mode="r")) for name in numeric]
    frame = others.with_columns(mapped)
    if high is not None and high.quantile is not None:  # it needs the rewards of all users at once
        others = others.with_columns(high.mark(frame).alias("high"))
    digests = {"fingerprint": of_log, "catalogue": catalogue_digest(found.kept, frame)}
    facts = {"columns": columns, "numeric": sorted(numeric, key=columns.index), **digests, "report": asdict(report)}
    facts |= write_features(entry, found.features)
    write_tables(entry, facts, events=others, users=users, items=found.kept.alias("item").to_frame())
