"""Prepare a log that does not fit in memory, in partitions of users; the cache entry is as for a log that fits.

A partition holds all events of a contiguous range of user ids, so it is a slice of every array of the prepared log.

1. Write the rows of the files into partitions.
2. Check the rows of each partition and order its events, as for a whole log.
3. From all partitions, compute the times of the split's cuts, the catalogue, and where each partition begins.
4. Write each partition's slice of the arrays.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
from rich.progress import track

from recalign import seals
from recalign.data.events import EventTable, LogMapping, Report, audit, data_root, read_features
from recalign.data.events.audit import LEFT, Section
from recalign.data.events.fields import missing_as_null
from recalign.data.events.items import feature_figures
from recalign.data.events.messages import EXAMPLE_ROWS, SourceRows
from recalign.data.events.reading import join, locate, read
from recalign.data.events.rows import Note, check_rows
from recalign.data.events.table import require_useful
from recalign.data.sequences.cache import ARRAYS, FIGURES, column_file, mappable, read_table, write_entry
from recalign.data.sequences.data import EventDataModule
from recalign.data.sequences.features import ItemFeatures, number_with_features
from recalign.data.sequences.other_splits import TimeSplit, Where
from recalign.data.sequences.splits import TRAIN, High, LeaveLast, Split, UserGroups
from recalign.data.sequences.store import (
    TIE_GROUP,
    Sequences,
    assign_splits,
    catalogue_digest,
    check_splits,
    index_events,
    number_items,
    split_of,
    split_sizes,
    with_rare_items,
)
from recalign.errors import InputError, require_positive
from recalign.files import write_json
from recalign.workers import Engine, LocalWorkers, RayWorkers

ROWS_OF_A_PARTITION = 4_000_000
SAMPLED_USERS = 1_000_000
"""About how many rows to sample; quantiles of their user ids bound the partitions."""
ROW, PARTITION = "row of the log", "partition of the user"
"""Temporary columns of the rows while they are divided into partitions."""
USERS_OF_FIGURES = "users whose figures these are; their ids follow each other"


def prepare(data: EventDataModule, partitions: int | None = None, workers: int = 1, engine: Engine = "local") -> Report:
    """Prepare a log that may not fit in memory, in partitions of users; afterwards it is read from the cache.

    Args:
        partitions: about how many; memory has to hold one per worker. Null: one per 4 million rows.
        workers: processes that work on partitions in parallel; they divide the threads of Polars.
        engine: where workers run: on this machine, or on the Ray cluster at RAY_ADDRESS, which shares the cache's disk.

    Raises:
        InputError: something in the log cannot be used, nothing can be cached, a worker died, or there is no cluster.
        OSError: the cache's folder cannot be written.
    """
    require_positive("", {"partitions": partitions, "workers": workers}, "partitions", "workers")
    settings = {"relative_to": data.relative_to, "grows_from": data.grows_from, "log.chosen": data.log_.chosen}
    if refused := [f"data.{name}" for name, value in settings.items() if value is not None]:
        what = "`recalign prepare` reads some users at a time, so it does not support this"
        raise InputError(what, where=", ".join(refused), remedy="train without `recalign prepare`")
    if type(data.split) not in (LeaveLast, TimeSplit, Where):
        what = f"`recalign prepare` supports only LeaveLast, TimeSplit and Where, not {type(data.split).__name__}"
        raise InputError(what, where="data.split", remedy="train without `recalign prepare`")
    if data.log_.user in data.log_.columns:
        what, remedy = "`recalign prepare` does not support a computed user column", "write it into the files"
        raise InputError(what, where=f"data.log.columns.{data.log_.user}", remedy=remedy)
    entry = data.preparation.entry
    if entry is None:
        raise InputError("`recalign prepare` needs a cache", where="data.cache", remedy="omit it, or name a folder")
    if entry.load():
        return data.report
    with ExitStack() as stack:
        part = stack.enter_context(seals.publish(entry.path, entry.key))
        temporary = TemporaryDirectory(prefix=f".{entry.path.name}.prepare-", dir=entry.path.parent)
        folder = Path(stack.enter_context(temporary))
        run: Callable[..., Iterable[Any]] = map
        if engine == "ray":
            run = stack.enter_context(RayWorkers(workers, 1, 0)).map
        elif workers > 1:
            threads = str(max(1, pl.thread_pool_size() // workers))
            run = stack.enter_context(LocalWorkers([{"POLARS_MAX_THREADS": threads}] * workers)).map
        try:
            _write(data, folder, part, partitions, run)
        except BrokenExecutor as error:
            remedy = "if memory ran out, give fewer workers or more partitions"
            raise InputError("a worker died", where=str(folder), remedy=remedy) from error
        if data.preparation.fingerprint() != data.fingerprint:
            raise InputError("the files changed while they were read", where=data.log_.name, remedy="run it again")
    return data.report


def _write(
    data: EventDataModule, folder: Path, entry: Path, partitions: int | None, run: Callable[..., Iterable[Any]]
) -> None:
    """Write all files of the entry, and a large log's figures; ``folder`` is for temporary files."""

    def each(title: str, task: Callable[..., Any], *arguments: Iterable[Any]) -> list[Any]:
        return list(track(run(task, *arguments), title, total=number))

    (folder / "rows").mkdir()
    joined, rows = _scanned(data.log_, data_root(data.root), folder)
    tasks = _Tasks(folder, entry, rows, data.log_, data.reward, data.high, data.groups, data.ties == "together")
    height = sum(rows.files.values())
    number = _divide(joined, height, tasks.log.user, folder, partitions or -(-height // ROWS_OF_A_PARTITION))
    numbers = range(number)
    reports, rewards, user_counts, with_nulls = zip(*each("checking events", tasks.check, numbers), strict=True)
    report = _merged(reports)
    require_useful(report, pl.concat(rewards), data.reward)
    times = [np.load(folder / f"{n}-times.npy", mmap_mode="r") for n in numbers]
    split = _with_times(data.split, lambda share: _kth(times, int(report.used * share)))
    each("counting items", tasks.count, numbers, repeat(split))

    counts = pl.scan_ipc([folder / f"{n}-counts.arrow" for n in numbers], glob=False)
    by_item = counts.group_by("item").agg(pl.sum("train_count")).collect(engine="streaming").sort("item")
    items, count_I = by_item["item"], by_item["train_count"].to_numpy()
    values = read_features(data.log_, data_root(data.root), items)
    numbering = number_items if values is None else functools.partial(number_with_features, values)
    kept, number_I, warm = numbering(items, count_I >= data.min_events)
    pl.DataFrame({"item": items, "number": number_I}).write_ipc(folder / "catalogue.arrow")
    offsets = [_Offset(0, 0, 0)]
    for n, users in enumerate(user_counts):
        offsets.append(offsets[-1].after(users, read_table(folder / f"{n}-counts.arrow"), items, number_I, warm))
    nullable = sorted(set().union(*with_nulls))
    large = [report] if report.used > ROWS_OF_A_PARTITION else []
    audited = run(tasks.figures, repeat(reports), large)  # in parallel with the next steps
    shared = repeat(offsets[-1]), repeat(nullable), repeat(warm)
    indexed = each("writing arrays", tasks.index, numbers, repeat(split), offsets[:-1], *shared)
    most_events = max(most for _, _, most in indexed)
    check_splits(np.sum([sizes for _, sizes, _ in indexed], axis=0), most_events, data.split, data.min_events)

    parts = {name: [read_table(folder / f"{n}-{name}.arrow") for n in numbers] for name in ("others", "users")}
    others, users = pl.concat(parts["others"]), pl.concat(parts["users"])
    columns = indexed[0][0]
    mapped = [name for name in columns if name not in others.columns]
    frame = others.with_columns(
        pl.Series(name, np.load(column_file(entry, columns, name), mmap_mode="r")) for name in mapped
    ).select(columns)
    if data.high and data.high.quantile is not None:  # it needs the rewards of all users at once
        frame = frame.with_columns(data.high.mark(frame))
    sequences = Sequences(
        frame=frame,
        users=users["user"],
        items=kept,
        group=users["group"].to_numpy(),
        fingerprint=data.fingerprint,
        catalogue=catalogue_digest(kept, frame),
        report=with_rare_items(report, len(frame), data.min_events),
        num_warm=warm,
        features=None if values is None else ItemFeatures.encode(values, kept, warm),
        **{name: np.load(entry / f"{name}.npy", mmap_mode="r") for name in ARRAYS},
    )
    write_entry(entry, sequences, mapped)
    for sections in audited:
        write_json(entry / FIGURES, sections | {"item features": feature_figures(values, items)})


def _scanned(log: LogMapping, root: Path, folder: Path) -> tuple[pl.LazyFrame, SourceRows]:
    """The rows of a log as a lazy frame, and rows per file. Text files are first converted to Parquet."""
    tables, ids = {}, (log.user, log.item)
    for n, source in enumerate(locate(log, root)[0]):
        parquet = folder / f"file-{n}.parquet"
        if source.kind == "text":
            read(source, ids, log.header, log.separator).write_parquet(parquet)
        tables[source] = pl.scan_parquet(parquet, glob=False) if source.kind == "text" else source.scan(ids)
    return join(log, tables)


def _divide(joined: pl.LazyFrame, height: int, user: str, folder: Path, partitions: int) -> int:
    rows = joined.with_row_index(ROW, 1)
    unordered = rows.collect_schema()[user] in (pl.Categorical, pl.Enum)
    by_id = pl.col(user).cast(pl.String) if unordered else pl.col(user)  # a type that sorts as the ids do
    sampled = rows.filter(pl.col(ROW) % max(1, height // SAMPLED_USERS) == 0).select(by_id)
    users = missing_as_null(sampled.collect(engine="streaming")[user]).drop_nulls().sort()
    first = users.gather([len(users) * n // partitions for n in range(1, partitions)] if len(users) else []).unique()
    first = first.filter(first > users.min()).sort()  # the first user of every partition but the first

    def partition(users: pl.Series) -> pl.Series:
        return first.search_sorted(missing_as_null(users), side="right").cast(pl.UInt32).fill_null(0)

    number = by_id.map_batches(partition, return_dtype=pl.UInt32, is_elementwise=True)
    files = pl.PartitionBy(
        folder / "rows",
        key=PARTITION,
        include_key=False,
        file_path_provider=lambda file: f"{file.partition_keys.item()}.arrow",
        approximate_bytes_per_file=None,
    )
    rows.with_columns(number.alias(PARTITION)).sink_ipc(files, compression="uncompressed", engine="streaming")
    return len(first) + 1


def _merged(parts: Sequence[Report]) -> Report:
    notes = []
    for same in zip(*(part.notes for part in parts), strict=True):
        first = sorted(row for note in same for row in note.first)[:EXAMPLE_ROWS]
        notes.append(Note(same[0].reason, sum(note.count for note in same), first))
    sums = {name: sum(getattr(part, name) for part in parts) for name in ("used", "tied", "repeats")}
    return dataclasses.replace(parts[0], notes=notes, **sums)


def _with_times(split: Split, time_at: Callable[[float], int]) -> Split:
    """The split with its cuts as times, so that it splits a partition as it would split the whole log.

    ``time_at`` returns the timestamp below which a given share of all events lies.
    """
    if not isinstance(split, TimeSplit):
        return split
    cuts = (
        datetime.fromtimestamp(time_at(cut), UTC).isoformat() if isinstance(cut, float) and 0 < cut < 1 else cut
        for cut in split.cuts
    )
    return TimeSplit(tuple(cuts))  # type: ignore[arg-type]


def _kth(sorted_parts: list[np.ndarray], k: int) -> int:
    """The k-th smallest value (from 0) of the integers in several sorted arrays."""
    parts = [part for part in sorted_parts if len(part)]
    least, most = int(min(part[0] for part in parts)), int(max(part[-1] for part in parts))
    return least + bisect_left(
        range(most - least), k + 1, key=lambda x: sum(int(np.searchsorted(part, least + x, "right")) for part in parts)
    )


@dataclass(frozen=True)
class _Offset:
    """Where a partition begins in the arrays of the whole log, counted in users, events and known events."""

    user: int
    event: int
    known: int

    def after(self, users: int, counts: pl.DataFrame, items: pl.Series, number_I: np.ndarray, warm: int) -> _Offset:
        """Where the next partition begins, from the number of users and the item counts of this one."""
        number = number_I[items.search_sorted(counts["item"]).to_numpy()]
        left = counts["events"].to_numpy() - counts["train_count"].to_numpy() * ((number == 0) | (number > warm))
        return _Offset(self.user + users, self.event + int(left.sum()), self.known + int(left[number > 0].sum()))


@dataclass(frozen=True)
class _Tasks:
    """The tasks for each partition, which run in any process. Files of partition n are named ``n-...``."""

    folder: Path
    entry: Path
    rows: SourceRows
    log: LogMapping
    reward: str | None
    high: High | None
    groups: UserGroups
    together: bool

    def check(self, number: int) -> tuple[Report, pl.Series, int, list[str]]:
        """Check the rows of a partition and order its events.

        Returns its report, its smallest and largest reward, its number of users, and the columns with nulls.
        """
        raw = read_table(self.folder / "rows" / f"{number}.arrow")
        rows = dataclasses.replace(self.rows, number=raw.drop_in_place(ROW))
        frame, users, items, report, _ = check_rows(raw, rows, self.log, self.reward)
        tables = {"events": frame, "users": pl.DataFrame({"user": users, "group": self.groups.assign(users)})}
        for name, table in (tables | {"items": items.alias("item").to_frame()}).items():
            table.write_ipc(self.folder / f"{number}-{name}.arrow", compression="uncompressed")
        np.save(self.folder / f"{number}-times.npy", frame["timestamp"].sort().to_numpy())
        ends = pl.Series([frame["reward"].min(), frame["reward"].max()], dtype=pl.Float64)
        return report, ends, len(users), [column.name for column in frame if column.null_count()]

    def count(self, number: int, split: Split) -> None:
        """Count a partition's training events, and all its events, per raw item id."""
        table = self._table(number)
        trained = table.frame["item"].filter(split_of(table, split) == TRAIN)
        both = (np.bincount(item.to_numpy(), minlength=len(table.items)) for item in (trained, table.frame["item"]))
        counts = pl.DataFrame({"item": table.items} | dict(zip(("train_count", "events"), both, strict=True)))
        counts.write_ipc(self.folder / f"{number}-counts.arrow")

    def index(
        self, number: int, split: Split, begin: _Offset, whole: _Offset, nullable: list[str], warm: int
    ) -> tuple[list[str], np.ndarray, int]:
        """Write a partition's slice of the arrays and of the numeric columns, and its other columns to a file.

        The partition begins at ``begin``, the last one ends at ``whole``; ``nullable`` columns have nulls in some
        partition. Returns the columns, the events per split, and the most training events of one user.
        """
        table, catalogue = self._table(number), read_table(self.folder / "catalogue.arrow")
        item_I = catalogue["item"].search_sorted(table.items).to_numpy()
        frame = assign_splits(table, split)
        frame = frame.with_columns(pl.Series("item", item_I[frame["item"].to_numpy()], pl.UInt32))
        high = None if self.high is None or self.high.quantile is not None else self.high
        frame, arrays = index_events(frame, catalogue["number"].to_numpy(), warm, len(table.users), high)
        most = int(arrays["train_count"].max(initial=0))
        frame = frame.with_columns(pl.col("user") + begin.user, pl.col("event", f"^{TIE_GROUP}$") + begin.event)
        arrays |= {"event": arrays["event"] + begin.event, "offset": arrays["offset"] + begin.known}
        by_user = {"train_count": (begin.user, whole.user), "offset": (begin.user, whole.user + 1)}
        for name, array in arrays.items():
            _write_slice(self.entry / f"{name}.npy", array, *by_user.get(name, (begin.known, whole.known)))
        numeric = mappable(frame.drop(nullable, strict=False))
        for name in numeric:
            _write_slice(column_file(self.entry, frame.columns, name), frame[name].to_numpy(), begin.event, whole.event)
        frame.drop(numeric).write_ipc(self.folder / f"{number}-others.arrow", compression="uncompressed")
        return frame.columns, split_sizes(frame), most

    def figures(self, parts: Sequence[Report], report: Report) -> dict[str, Section]:
        """Figures of the largest partition (`recalign.data.events.audit`), with counts and notes of the whole log."""
        number = max(range(len(parts)), key=lambda n: parts[n].used)
        sections = audit(dataclasses.replace(self._table(number), report=parts[number]))
        whole = {"rows read": sum(report.files.values()), "events in all": report.used}
        log = sections["log"]
        sections["log"] = {**whole, USERS_OF_FIGURES: log.pop("users"), **log, **whole}
        return sections | {LEFT: dict(report.left_out())}

    def _table(self, number: int) -> EventTable:
        names = ("events", "users", "items")
        frame, users, items = (read_table(self.folder / f"{number}-{name}.arrow") for name in names)
        dated, resolution = self.log.timestamp is not None, self.log.time_resolution
        found = Report({}, [], len(frame), [])
        return EventTable(frame, users["user"], items["item"], dated, found, "", resolution, self.together)


def _write_slice(path: Path, array: np.ndarray, begin: int, total: int) -> None:
    header = np.lib.format.header_data_from_array_1_0(array) | {"shape": (total,)}
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.seek(begin * array.itemsize, os.SEEK_CUR)
        file.write(np.ascontiguousarray(array).data)
