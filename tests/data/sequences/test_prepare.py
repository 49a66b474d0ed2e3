"""A log prepared in partitions is equal to one prepared whole: arrays byte for byte, tables value for value."""

from __future__ import annotations

import errno
import gzip
import multiprocessing
from concurrent.futures import BrokenExecutor
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import killed
import polars as pl
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recalign.cli import main
from recalign.data.events import ItemTable, LogMapping
from recalign.data.sequences import EventDataModule, High, LeaveLast, Split, TimeSplit, Where
from recalign.data.sequences import prepare as prepare_file
from recalign.data.sequences.audit import audit_log, verdict
from recalign.data.sequences.cache import FIGURES
from recalign.data.sequences.prepare import USERS_OF_FIGURES, prepare
from recalign.data.sequences.relative import RelativeTo
from recalign.errors import InputError
from recalign.files import read_json
from recalign.seals import SEAL


class Typed(LeaveLast):
    """A split of the user's own."""


SPLITS = [LeaveLast(1, 1), TimeSplit((0.5, 0.75)), TimeSplit((0.5, "1970-01-01T00:00:40+00:00")), Where("good", 0.3)]
HIGHS = [None, High("reward >= 3"), High(quantile=0.5), High(quantile=0.5, within="length", bins=2)]
USERS = {
    "numbers": lambda u: 7 * u - 3,
    "text": lambda u: f"u{u}",
    "floats": float,
    "some of them numbers": lambda u: f"{7 * u}" if u < 7 else f"u{u}",
}
FILES = [("a.parquet", "b.parquet"), ("a.csv", "b.csv"), ("a.csv", "b.parquet"), ("a.parquet.gz", "b.csv.gz")]
LOG: dict[str, Any] = {"columns": {"good": "coalesce(stars > 3, false)"}, "where": "length <> 20"}


@st.composite
def logs(draw: st.DrawFn) -> pl.DataFrame:
    """Up to 63 events of up to 8 users; some rows repeat another or are empty, some of their values are missing."""
    row = st.tuples(
        st.integers(1, 8),
        st.integers(1, 12),
        st.integers(0, 60),
        st.sampled_from([1.0, 2.0, 3.0, 4.0, None]),
        st.sampled_from([10, 20, None]),
        st.sampled_from(["x", "two\nlines", None]),
    )
    rows = draw(st.lists(row, min_size=15, max_size=60))
    ids = USERS[draw(st.sampled_from(sorted(USERS)))]
    named = [(ids(user), f"film {item}", *rest) for user, item, *rest in rows]
    named += named[: draw(st.integers(0, 3))]
    empty = [(None,) * 6] * draw(st.integers(0, 2))
    return pl.DataFrame(named + empty, schema=["user", "item", "timestamp", "stars", "length", "note"], orient="row")


def write(frame: pl.DataFrame, path: Path) -> None:
    table = BytesIO()
    (frame.write_parquet if ".parquet" in path.name else frame.write_csv)(table)
    path.write_bytes((gzip.compress if path.suffix == ".gz" else bytes)(table.getvalue()))


def module(root: Path, cache: str | bool, **changed: Any) -> EventDataModule:
    log = LogMapping("small", ["a.parquet", "b.parquet"], **LOG)
    settings = {"log": log, "reward": "stars", "split": LeaveLast(1, 1), "high": None, "root": str(root)} | changed
    return EventDataModule(cache=cache and str(root / cache), **settings)


def entry_of(root: Path, cache: str) -> dict[str, Any]:
    """The files of the only entry, tables by value; nothing else may be left in the cache.

    Their digests are left out: they differ where tables are equal by value only.
    """
    (entry,) = (root / cache).iterdir()
    return {path.name: content(path) for path in entry.iterdir() if path.name not in (SEAL, FIGURES)}


def content(path: Path) -> Any:
    if path.suffix == ".arrow":  # what lies under a null may be anything
        frame = pl.read_ipc(path)
        return frame.schema, frame.to_dict(as_series=False)
    return read_json(path) if path.suffix == ".json" else path.read_bytes()


@pytest.mark.slow
@given(
    log=logs(),
    split=st.sampled_from(SPLITS),
    high=st.sampled_from(HIGHS),
    partitions=st.integers(1, 9),
    min_events=st.integers(1, 2),
    rows=st.sampled_from([5, 1000]),
    cut=st.integers(0, 60),
    files=st.sampled_from(FILES),
    collapse=st.booleans(),
    repeats=st.booleans(),
    ties=st.sampled_from([None, "together"]),
)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_prepare_in_partitions_writes_the_same_files(
    monkeypatch, log, split: Split, high, partitions, min_events, rows, cut, files, collapse, repeats, ties
):
    monkeypatch.setattr(prepare_file, "ROWS_OF_A_PARTITION", rows)
    with TemporaryDirectory() as folder:
        root = Path(folder)
        write(log[:cut], root / files[0])
        write(log[cut:], root / files[1])
        changed = {
            "log": LogMapping("small", list(files), **LOG, collapse=collapse, drop_repeats=repeats),
            "split": split,
            "high": high,
            "ties": ties,
        }
        whole, parts = (module(root, cache, **changed, min_events=min_events) for cache in ("whole", "parts"))
        try:
            whole.sequences  # noqa: B018
        except InputError:
            with pytest.raises(InputError):  # where two settings cannot be used, either is named
                prepare(parts, partitions)
            return
        assert prepare(parts, partitions) == whole.report
        one, other = (entry_of(root, cache) for cache in ("parts", "whole"))
        if one["entry.json"]["mapped"] == other["entry.json"]["mapped"]:
            assert one == other
        else:  # a column whose nulls were all of rare items may be kept in either way
            assert parts.sequences.frame.equals(whole.sequences.frame)


@pytest.fixture
def root(tmp_path) -> Path:
    """A data root with a log of 90 events in two files."""
    rows = [(user, (user * 7 + 5 * n) % 13, 10 * n + user, float(n % 4)) for n in range(10) for user in range(9)]
    log = pl.DataFrame(rows, schema=["user", "item", "timestamp", "stars"], orient="row")
    log = log.with_columns(length=pl.lit(10, dtype=pl.Int64))
    log[:50].write_parquet(tmp_path / "a.parquet")
    log[50:].write_parquet(tmp_path / "b.parquet")
    return tmp_path


@pytest.fixture
def whole(root) -> dict[str, Any]:
    module(root, "whole").sequences  # noqa: B018
    return entry_of(root, "whole")


@pytest.mark.long
def test_the_number_of_workers_changes_nothing(root, whole, trial):
    trial("Reproducible figures", "a log prepared by two workers, in partitions")
    prepare(module(root, "two"), 3, workers=2)
    assert entry_of(root, "two") == whole


@pytest.mark.long
def test_a_worker_that_is_killed_while_it_writes_leaves_nothing(root, whole, trial):
    trial("Dead processes are detected", "SIGKILL of a worker that prepares a log")
    dying = module(root, "two", high=killed.HighOnce("stars >= 0"))
    with pytest.raises(InputError, match="a worker died"):
        prepare(dying, 3, workers=2)
    assert list((root / "two").iterdir()) == []
    assert not multiprocessing.active_children()
    prepare(module(root, "two"), 3)
    assert entry_of(root, "two") == whole


@pytest.mark.long
def test_tasks_of_ray_make_the_same_files(root, whole, ray, trial):
    trial("Reproducible figures", "a log prepared by two tasks of Ray, in partitions")
    prepare(module(root, "two"), 3, workers=2, engine="ray")
    assert entry_of(root, "two") == whole


def test_figures_of_a_large_log_come_from_its_largest_partition(root, monkeypatch):
    monkeypatch.setattr(prepare_file, "ROWS_OF_A_PARTITION", 20)
    report = prepare(module(root, "parts"))
    monkeypatch.setattr(EventDataModule, "table", property(lambda _: pytest.fail("the whole log was read")))
    data = module(root, "parts")
    sections = audit_log(data)
    log = sections["log"]
    assert (log["rows read"], log["events in all"]) == (sum(report.files.values()), report.used)
    assert report.used > 20
    assert 0 < log["events"] < report.used
    assert 0 < log[USERS_OF_FIGURES] < len(data.sequences.users)
    assert verdict(sections, "s")


def test_prepared_log_is_not_read_again(root, monkeypatch):
    report = prepare(module(root, "parts"), 3)
    monkeypatch.setattr(prepare_file._Tasks, "check", lambda *_: pytest.fail("it was read"))
    assert prepare(module(root, "parts"), 3) == report


@pytest.mark.parametrize("kind", ["csv", "folder"])
def test_prepare_reads_text_and_folders(root, whole, kind):
    """Text is converted, a file at a time; a folder is its Parquet in the order of names."""
    if kind == "folder":
        files = ["days"]
        for name, day in (("a", "1"), ("b", "2")):
            (root / "days" / day).mkdir(parents=True)
            (root / f"{name}.parquet").rename(root / "days" / day / "part-0.parquet")
    else:
        files = [f"{name}.{kind}" for name in "ab"]
        for name in "ab":
            pl.read_parquet(root / f"{name}.parquet").write_csv(root / f"{name}.csv")
    changed = {"log": LogMapping("small", files, columns={"good": "coalesce(stars > 3, false)"}, where="length <> 20")}
    prepare(module(root, "other", **changed), 3)
    made = entry_of(root, "other")
    assert {name for name in whole if made[name] != whole[name]} == {"entry.json"}  # it names the files


@pytest.mark.parametrize(
    ("failure", "seen"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.ENOSPC, "No space left on device"), OSError),
        (BrokenExecutor(), InputError),
    ],
)
def test_interrupted_prepare_leaves_nothing_and_can_start_again(root, whole, monkeypatch, failure, seen):
    def broken(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr(prepare_file, "_write_slice", broken)
    with pytest.raises(seen):
        prepare(module(root, "parts"), 3)
    assert list((root / "parts").iterdir()) == []
    monkeypatch.undo()
    prepare(module(root, "parts"), 3)
    assert entry_of(root, "parts") == whole


def test_prepare_refuses_files_that_change_meanwhile(root, monkeypatch):
    data = module(root, "parts")
    assert data.fingerprint
    monkeypatch.setattr(data.preparation, "fingerprint", lambda: "of other bytes")
    with pytest.raises(InputError, match="changed while they were read"):
        prepare(data, 3)


@pytest.mark.parametrize(
    ("changed", "asked", "said"),
    [
        ({"cache": False}, {}, "data.cache"),
        ({"relative_to": RelativeTo("length")}, {}, "data.relative_to: .recalign prepare"),
        ({"grows_from": "ids"}, {}, "data.grows_from"),
        ({}, {"workers": 0}, "workers: 0 is not above 0"),
        ({}, {"partitions": -1}, "partitions: -1 is not above 0"),
        ({"split": Typed()}, {}, "data.split: .* supports only LeaveLast, TimeSplit and Where, not Typed"),
        ({"reward": "1 + 0 * stars"}, {}, "is 1 for every event"),
        ({"split": TimeSplit((0.5, 2.0))}, {}, "cannot use the cut 2.0"),
        ({"log": LogMapping("small", ["a.parquet"], where="stars > 9")}, {}, "no row of .* can be used"),
        (
            {"log": LogMapping("small", ["a.parquet"], user="length", columns={"length": "length"})},
            {},
            "data.log.columns.length",
        ),
        ({"log": LogMapping("small", ["a.parquet"], user="who")}, {}, "data.log.user: there is no column 'who'"),
    ],
)
def test_prepare_refuses_unsupported_settings(root, changed, asked, said):
    cache = changed.pop("cache", "parts")
    with pytest.raises(InputError, match=f"(?s){said}"):
        prepare(module(root, cache, **changed), **asked)


def test_prepare_command_writes_the_same_files(root, whole, capsys):
    log = {"name": "small", "files": ["a.parquet", "b.parquet"], "where": "length <> 20"}
    log["columns"] = {"good": "coalesce(stars > 3, false)"}
    split = {"class_path": "recalign.data.sequences.LeaveLast", "init_args": {"test": 1, "validation": 1}}
    data = {
        "log": log,
        "reward": "stars",
        "split": split,
        "high": None,
        "root": str(root),
        "cache": str(root / "parts"),
    }
    (root / "small.yaml").write_text(yaml.safe_dump({"data": data}))
    assert main(["prepare", str(root / "small.yaml"), "--partitions", "3"]) == 0
    assert "90 events used" in capsys.readouterr().out
    assert entry_of(root, "parts") == whole


@pytest.mark.long
def test_prepare_reads_an_object_store(root, whole, monkeypatch):
    """The same files in a bucket; then a bucket that is not there."""
    server = pytest.importorskip("moto.server", reason="an object store to test against: pip install 'moto[server]'")
    boto3 = pytest.importorskip("boto3")
    store = server.ThreadedMotoServer(port=0)
    store.start()
    host, port = store.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="logs")
        for name in "ab":
            client.upload_file(str(root / f"{name}.parquet"), "logs", f"days/{name}.parquet")
        settings = {"columns": {"good": "coalesce(stars > 3, false)"}, "where": "length <> 20"}
        prepare(module(root, "bucket", log=LogMapping("small", ["s3://logs/days"], **settings)), 3)
        made = entry_of(root, "bucket")
        assert {k for k in made if made[k] != whole[k]} == {"entry.json"}
        with pytest.raises(InputError, match=r"s3://none/days.*cannot be read or reached"):
            prepare(module(root, "bucket", log=LogMapping("small", ["s3://none/days"], **settings)), 3)
    finally:
        store.stop()


def test_prepare_numbers_cold_items_alike(root):
    """Rare items, and one without an event, follow those of training."""
    pl.DataFrame({"item": range(14), "kind": ["a", "b"] * 7}).write_csv(root / "items.csv")
    items = ItemTable("items.csv", title=None, features={"kind": "kind"})
    log = LogMapping("small", ["a.parquet", "b.parquet"], items=items, **LOG)
    module(root, "whole", log=log, min_events=6).sequences  # noqa: B018
    prepare(module(root, "parts", log=log, min_events=6), 3)
    made = entry_of(root, "parts")
    assert 0 < made["features.json"]["warm"] < 13
    assert made == entry_of(root, "whole")
