"""Logs at a store, in lakes and in databases: real parts on this machine, each skipped by name where it is missing."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from urllib.parse import quote

import polars as pl
import pytest

from recalign.cli import main
from recalign.data.events import ItemTable, LogMapping, fingerprint, load_events
from recalign.data.events.queries import ask
from recalign.data.events.sources import find, read_errors
from recalign.errors import InputError
from recalign.run.stage import parse_stage

ROWS = pl.DataFrame({"user": ["007", "007", "b", "b"] * 6, "item": [f"{n:02}" for n in range(12)] * 2}).with_columns(
    timestamp=1_700_000_000 + 60 * pl.int_range(24), rating=pl.int_range(24) * 3 % 7
)
STAGE = Path(__file__).parents[3] / "conf/stages/recommender.yaml"
PASSWORD = "p@ss w0rd/?"
"""With what has to be escaped in a URI."""


def read(log: LogMapping, root: Path = Path("/nowhere")) -> pl.DataFrame:
    """The rows that were read, as they were written, in the order of time."""
    table = load_events(log, root, "rating")
    raw = {"user": table.users.gather(table.frame["user"]), "item": table.items.gather(table.frame["item"])}
    return table.frame.with_columns(**raw).select(ROWS.columns).sort("timestamp")


# Files on this machine


def test_hidden_files_in_folders_are_not_read(tmp_path):
    """As those of Hive partitions: what a writer has not finished would be rows twice."""
    for name in ("part-0.parquet", ".part-0.parquet", "_temporary/0/part-0.parquet"):
        (file := tmp_path / "days" / name).parent.mkdir(parents=True, exist_ok=True)
        ROWS.write_parquet(file)
    assert read(LogMapping("t", ["days"]), tmp_path).equals(ROWS)


@pytest.mark.parametrize("name", ["log.ndjson", "log.jsonl", "log.arrow", "log.feather"])
def test_typed_files_are_read_as_they_are(tmp_path, name):
    ROWS.write_ndjson(tmp_path / name) if "json" in name else ROWS.write_ipc(tmp_path / name)
    assert read(LogMapping("t", [name]), tmp_path).equals(ROWS)


def test_hive_partitions_become_columns(tmp_path):
    """A day that moves to another folder is another log; those above the log's folder are no columns."""
    root = tmp_path / "x=1[a]"
    for n in range(4):
        (folder := root / "days" / f"rating={n}").mkdir(parents=True)
        ROWS.drop("rating")[6 * n : 6 * n + 6].write_parquet(folder / "part-0.parquet")
    for name in ("_SUCCESS", "rating=0/.part-0.parquet.crc"):
        (root / "days" / name).write_text("")
    log = LogMapping("t", ["days"])
    table = load_events(log, root, "rating")
    assert table.frame["rating"].value_counts(sort=True)["count"].to_list() == [6, 6, 6, 6]
    assert "x" not in table.frame.columns
    (root / "days/rating=0").rename(root / "days/rating=9")
    assert fingerprint(log, root, "rating") != table.fingerprint


@pytest.mark.parametrize("entry", ["log", "log/user=*", "log/*/day=01", "log/**/*.parquet"])
@pytest.mark.parametrize(
    ("users", "found"),
    [
        (["007", "7", "b%20c"], ["007", "7", "b c"]),
        (["1e3", "1000"], ["1000", "1e3"]),
        (["1.0", "1"], ["1", "1.0"]),
        (["8", "-12", "7"], [-12, 7, 8]),
    ],
)
def test_ids_in_hive_paths_stay_as_they_are_written(tmp_path, entry, users, found):
    """As in text: user 007 is not user 7. Other columns are what Polars takes them for."""
    root = tmp_path / "item=2"  # no column: above the log
    for user in users:
        (folder := root / f"log/user={user}/day=01/a=b=c").mkdir(parents=True)
        ROWS.drop("user").write_parquet(folder / "part-0.parquet")
    table = load_events(LogMapping("t", [entry], where="day = 1"), root, "rating")
    assert table.users.to_list() == found
    assert (table.frame.height, len(table.items)) == (len(users) * ROWS.height, 12)


@pytest.mark.parametrize("entry", ["log", "log/*"])
@pytest.mark.parametrize(("folder", "own", "right"), [("5", 5.0, True), ("5", 5.5, False), ("x", "y", False)])
def test_a_hive_column_that_differs_from_the_files_own_is_refused(tmp_path, entry, folder, own, right):
    """Writers may keep the columns by which they partition."""
    (tmp_path / f"log/shelf={folder}").mkdir(parents=True)
    ROWS.with_columns(shelf=pl.lit(own)).write_parquet(tmp_path / f"log/shelf={folder}/part-0.parquet")
    log = LogMapping("t", [entry])
    if right:
        assert load_events(log, tmp_path, "rating").frame["shelf"].unique().to_list() == [own]
    else:
        with pytest.raises(InputError, match=f"log.*: the column shelf is '?{own}'? in a file, but .* in its path"):
            load_events(log, tmp_path, "rating")


def test_hidden_folders_beside_partitions_are_refused(tmp_path):
    """Polars reads them: rows that a writer has not finished would be events, twice."""
    for name in ("day=1", "_temporary/day=1"):
        (folder := tmp_path / "log" / name).mkdir(parents=True)
        ROWS.write_parquet(folder / "part-0.parquet")
    with pytest.raises(InputError, match=r"hidden folder .*: _temporary/day=1/part-0\.parquet"):
        read(LogMapping("t", ["log"]), tmp_path)


def test_partitions_of_different_types_are_refused(tmp_path):
    for day, rows in enumerate((ROWS, ROWS.cast({"rating": pl.Float64}))):
        (folder := tmp_path / f"log/day={day}").mkdir(parents=True)
        rows.write_parquet(folder / "part-0.parquet")
    with pytest.raises(InputError, match=r"as one table: .*rating.*\n.*same columns and types"):
        read(LogMapping("t", ["log"]), tmp_path)


@pytest.mark.parametrize("name", ["a*.ndjson", "a?.ndjson", "a[1].ndjson"])
def test_ndjson_names_with_wildcards_are_read_literally(tmp_path, name):
    for file, rows in (("a1.ndjson", ROWS.head(20)), (name, ROWS)):
        rows.write_ndjson(tmp_path / file)
    assert read(LogMapping("t", [name]), tmp_path).equals(ROWS)


def test_broken_ndjson_line_is_named(tmp_path):
    (tmp_path / "log.ndjson").write_text(ROWS.write_ndjson().replace('"b"', "b", 1))
    with pytest.raises(InputError, match=r"as NDJSON: line 3 is not a JSON object.*\n.*a JSON object in a line"):
        read(LogMapping("t", ["log.ndjson"]), tmp_path)


# At a store


@pytest.fixture(scope="module")
def bucket() -> Iterator[object]:
    """An S3 server on this machine, its bucket ``logs``, and the variables that open it."""
    server = pytest.importorskip("moto.server", reason="an S3 server to test against: pip install 'moto[server]'")
    boto3 = pytest.importorskip("boto3", reason="an S3 client to fill it: pip install boto3")
    pytest.importorskip("obstore", reason="what stores tell: pip install 'recalign[lakes]'")
    store = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    store.start()
    host, port = store.get_host_and_port()
    opened = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
    opened |= {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "s3cret-any", "AWS_S3_ALLOW_UNSAFE_RENAME": "true"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in opened.items():
            patch.setenv(name, value)
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="logs")
        yield client
    store.stop()


def put(bucket, key: str, frame: pl.DataFrame, folder: Path) -> None:
    write = {"csv": frame.write_csv, "ndjson": frame.write_ndjson, "arrow": frame.write_ipc}
    write.get(key.rpartition(".")[2], frame.write_parquet)(folder / "file")
    bucket.upload_file(str(folder / "file"), "logs", key)


@pytest.mark.parametrize("kind", ["csv", "parquet", "ndjson", "arrow"])
def test_files_at_an_object_store_are_read(bucket, tmp_path, kind):
    """007 stays 007, and the log is another one when the store says so."""
    put(bucket, f"one/log.{kind}", ROWS, tmp_path)
    log = LogMapping("t", [f"s3://logs/one/log.{kind}"])
    assert read(log).equals(ROWS)
    before = fingerprint(log, None, None)
    put(bucket, f"one/log.{kind}", ROWS, tmp_path)
    assert fingerprint(log, None, None) == before
    put(bucket, f"one/log.{kind}", ROWS.head(20), tmp_path)
    assert fingerprint(log, None, None) != before
    assert read(log).height == 20


def test_folders_and_patterns_at_an_object_store_are_read(bucket, tmp_path):
    for day in (1, 2):
        put(bucket, f"two/day={day}/a.parquet", ROWS, tmp_path)
        put(bucket, f"two/e-{day}.csv", ROWS, tmp_path)
    days = load_events(LogMapping("t", ["s3://logs/two"], where="day = 2"), None, "rating")
    assert days.frame.height == 24
    assert "2 files, " in next(iter(days.report.files))
    assert read(LogMapping("t", ["s3://logs/two/e-*.csv"])).height == 48
    assert read(LogMapping("t", ["s3://logs/two/*/a.parquet"])).height == 48


def test_hidden_folders_at_an_object_store_are_refused_and_ids_keep_zeros(bucket, tmp_path):
    for user in ("007", "7"):
        put(bucket, f"k=9/users/user={user}/a.parquet", ROWS.drop("user"), tmp_path)
    assert load_events(LogMapping("t", ["s3://logs/k=9/users"]), None, "rating").users.to_list() == ["007", "7"]
    put(bucket, "k=9/users/_temporary/user=7/a.parquet", ROWS.drop("user"), tmp_path)
    with pytest.raises(InputError, match=r"hidden folder .*: _temporary/user=7/a\.parquet"):
        read(LogMapping("t", ["s3://logs/k=9/users"]))


def test_names_with_wildcards_at_an_object_store_are_read_literally(bucket, tmp_path):
    """A pattern finds it; what is read, and what tells that it changes, is the file itself."""
    put(bucket, "odd/a1.csv", ROWS.with_columns(user=pl.lit("c")), tmp_path)
    put(bucket, "odd/a[1].csv", ROWS, tmp_path)
    log = LogMapping("t", ["s3://logs/odd/*.csv"])
    assert load_events(log, None, "rating").users.to_list() == ["007", "b", "c"]
    before = fingerprint(log, None, None)
    put(bucket, "odd/a[1].csv", ROWS.head(20), tmp_path)
    assert fingerprint(log, None, None) != before


def test_bad_rows_at_an_object_store_are_named_with_its_url(bucket, tmp_path):
    (tmp_path / "bad.csv").write_text("user,item,timestamp\n1,2,3\n1,2\n")
    bucket.upload_file(str(tmp_path / "bad.csv"), "logs", "bad.csv")
    with pytest.raises(InputError, match=r"^s3://logs/bad\.csv \(header.*row 2 has 2"):
        load_events(LogMapping("t", ["s3://logs/bad.csv"]), None, None)


@pytest.mark.parametrize("entry", ["s3://logs/none.csv", "s3://logs/none", "s3://logs/no-*.csv", "s3://none/a.parquet"])
def test_missing_files_at_an_object_store_are_refused(bucket, entry):
    with pytest.raises(InputError, match=r"none|no-"):
        load_events(LogMapping("t", [entry]), None, None)


def test_refused_credentials_are_an_input_error(monkeypatch):
    """It answers, and with 403; what it was given is in no message."""
    pytest.importorskip("obstore", reason="what stores tell: pip install 'recalign[lakes]'")

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(403, "InvalidAccessKeyId")

        do_HEAD = do_GET

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MY_SECRET", "hunter22")
        options = {"aws_endpoint_url": f"http://127.0.0.1:{server.server_port}", "aws_region": "us-east-1"}
        options |= {"aws_access_key_id": "MY_SECRET", "aws_secret_access_key": "MY_SECRET", "aws_allow_http": "true"}
        for name in ("log.parquet", "log.csv"):
            with pytest.raises(InputError, match="credentials") as caught:
                read(LogMapping("t", [f"s3://logs/{name}"], storage_options=options))
            assert caught.value.where == f"s3://logs/{name}"
            assert "hunter22" not in str(caught.value)
        server.shutdown()


def test_names_with_spaces_at_a_server_are_read(monkeypatch):
    """As a browser gives it: escaped, and not escaped again."""
    pytest.importorskip("obstore", reason="what stores tell: pip install 'recalign[lakes]'")
    asked = []

    class Telling(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("ETag", "1")
            self.send_header("Content-Length", "10")
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Telling) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/a%20b.csv"
        [found] = find(Path(), url, {"proxy_excludes": "127.0.0.1"})
        assert found.identity()
        assert asked == ["/a%20b.csv"]
        server.shutdown()


def test_files_without_etag_or_time_are_refused(monkeypatch):
    """Else its log would be known by its size alone, and read from the cache after a change."""
    pytest.importorskip("obstore", reason="what stores tell: pip install 'recalign[lakes]'")

    class Silent(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "10")
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        [found] = find(Path(), f"http://127.0.0.1:{server.server_port}/log.csv", {"proxy_excludes": "127.0.0.1"})
        with pytest.raises(InputError, match="neither an ETag nor a modification time"):
            found.identity()
        server.shutdown()


@pytest.mark.parametrize(
    "url",
    [
        *("http://me:hunter22@shop/a.csv", "https://hunter22@shop/a.csv", "https://shop/a.parquet?x=1&sig=hunter22"),
        *("https://shop/a.csv#hunter22", "s3://shop/a.csv#token=hunter22", "https://shop/a.csv?pwd=hunter22"),
        *("s3://me:with/slash/hunter22@shop/a.csv", "postgresql://me:/hunter22@shop/rows"),
        *("https://shop/a.csv?code=hunter22", "https://shop/a.csv?%73ig=hunter22", "s3://shop/a.csv?a[token]=hunter22"),
    ],
)
def test_passwords_in_urls_are_refused(tmp_path, monkeypatch, capsys, url):
    monkeypatch.chdir(tmp_path)
    assert main(["init", url]) == 2
    assert "hunter22" not in capsys.readouterr().err
    for settings in ({"files": [url]}, {"files": ["a.csv"], "items": ItemTable(url)}):
        with pytest.raises(InputError, match=r"data\.log: a URL") as caught:
            LogMapping("t", **settings)
        assert "hunter22" not in str(caught.value)
    assert LogMapping("t", ["abfss://logs@shop/a.csv", "s3://shop/log-?.csv", "https://shop:80/a@b.csv"]).files
    options = {"proxy_url": "http://me:hunter22@proxy", "passwd": "hunter22", "authorization": "hunter22"}
    options |= {"adls.connection-string": "hunter22"}
    for name, value in (options | {"aws_endpoint_url": "https://shop?sig=hunter22"}).items():
        with pytest.raises(InputError, match=name) as caught:
            LogMapping("t", ["s3://a/b"], storage_options={name: value})
        assert "hunter22" not in str(caught.value)
    assert LogMapping("t", ["s3://a/b"], storage_options={"aws_skip_signature": "true"}).storage_options
    if "sig=" in url or "me:" in url:  # whatever else a message is about
        assert "hunter22" not in str(InputError(url, where=f"in {url}"))


@pytest.mark.parametrize("words", [["uri", "a://b:hunter22@c"], ["storage_options.aws_secret_access_key", "hunter22"]])
def test_written_out_secrets_are_refused_even_if_a_variable_holds_them(tmp_path, monkeypatch, words):
    """Else config.yaml and the manifest would hold what a shell put in its place."""
    monkeypatch.setenv("SHOP_SECRET", words[1])
    ROWS.write_csv(tmp_path / "log.csv")
    fit = ["fit", "--config", str(STAGE), "--data.root", str(tmp_path), "--data.log.files", "[log.csv]"]
    with pytest.raises(InputError, match="must not contain secrets") as caught:
        parse_stage([*fit, f"--data.log.{words[0]}", words[1]])
    assert "hunter22" not in str(caught.value)
    assert parse_stage([*fit, f"--data.log.{words[0]}", "${oc.env:SHOP_SECRET}"])


def test_secrets_of_the_wrong_type_are_not_repeated_in_errors(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words in (["storage_options", "hunter22"], ["files", "https://me:hunter22@shop/a.csv"]):
        assert main(["check", "ml-100k", f"--data.log.{words[0]}", words[1]]) == 2
        assert "hunter22" not in capsys.readouterr().err


def test_storage_options_name_environment_variables(bucket, tmp_path, monkeypatch):
    """What is refused, or cannot be reached, says no secret."""
    put(bucket, "log.parquet", ROWS, tmp_path)
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"MY_{name}", os.environ[name])
        monkeypatch.delenv(name)
    options = {name: f"MY_{name.upper()}" for name in ("aws_endpoint_url", "aws_access_key_id")}
    options |= {"aws_secret_access_key": "s3cret-any", "aws_region": "us-east-1"}  # as ${oc.env:...} becomes
    log = LogMapping("t", ["s3://logs/log.parquet"], storage_options=options)
    assert "s3cret" not in repr(log)
    assert read(log).equals(ROWS)
    monkeypatch.setenv("MY_AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="cannot be read or reached") as caught:
        read(LogMapping("t", ["s3://logs/log.parquet"], storage_options=options))
    assert "s3cret" not in str(caught.value)
    with pytest.raises(InputError, match=r"storage_options\.aws_secret_access_key") as caught:
        LogMapping("t", ["s3://logs/log.parquet"], storage_options={"aws_secret_access_key": "hunter22"})
    assert "hunter22" not in str(caught.value)


def test_init_reads_an_object_store(bucket, tmp_path, monkeypatch):
    put(bucket, "shop/events.csv", ROWS, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["init", "s3://logs/shop/events.csv", "--out", "conf/shop.yaml"]) == 0
    assert "files: ['s3://logs/shop/events.csv']" in (tmp_path / "conf/shop.yaml").read_text()


# Lakes


@pytest.mark.parametrize("place", ["disk", "store"])
def test_delta_table_is_read_with_its_version(request, tmp_path, place):
    """What was deleted is not read; an old log is another one than after a new version."""
    pytest.importorskip("deltalake", reason="tables of Delta Lake: pip install 'recalign[lakes]'")
    if place == "store":
        request.getfixturevalue("bucket")
    at = "s3://logs/delta" if place == "store" else str(tmp_path / "delta")
    ROWS.write_delta(at)
    log = LogMapping("t", [at if place == "store" else "delta"])
    before = fingerprint(log, tmp_path, "rating")
    ROWS.head(4).write_delta(at, mode="overwrite")
    table = load_events(log, tmp_path, "rating")
    assert table.frame.height == 4
    assert "version 1 of the Delta table" in next(iter(table.report.files))
    assert table.fingerprint != before


@pytest.mark.parametrize("place", ["disk", "store"])
def test_iceberg_table_is_read_with_its_snapshot(request, tmp_path, place):
    """At the store its metadata alone: PyArrow cannot write there, for the server is no real one."""
    catalogs = pytest.importorskip("pyiceberg.catalog.sql", reason="Iceberg: pip install 'recalign[lakes]'")
    bucket = request.getfixturevalue("bucket") if place == "store" else None
    catalog = catalogs.SqlCatalog("own", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=f"file://{tmp_path}")
    catalog.create_namespace("shop")
    table = catalog.create_table("shop.events", schema=ROWS.to_arrow().schema)

    def append() -> None:
        table.append(ROWS.to_arrow())
        for path in (tmp_path / "shop/events/metadata").glob("*.json") if bucket else ():
            bucket.upload_file(str(path), "logs", f"ice/metadata/{path.name}")

    append()
    options = {"aws_endpoint_url": "AWS_ENDPOINT_URL"} if bucket else None
    log = LogMapping("t", ["s3://logs/ice" if bucket else "shop/events"], storage_options=options)
    first = load_events(log, tmp_path, "rating")
    snapshot = table.current_snapshot().snapshot_id
    assert f"snapshot {snapshot} of the Iceberg table" in next(iter(first.report.files))
    append()
    assert read(log, tmp_path).unique(maintain_order=True).equals(ROWS)
    assert fingerprint(log, tmp_path, "rating") != first.fingerprint


def test_compressed_iceberg_metadata_is_not_read_as_plain_parquet(tmp_path):
    """Which would bring back what was deleted from it."""
    (tmp_path / "ice/metadata").mkdir(parents=True)
    (tmp_path / "ice/metadata/00001-a.metadata.json.gz").write_bytes(gzip.compress(b"{}"))
    ROWS.write_parquet(tmp_path / "ice/a.parquet")
    assert [one.kind for one in find(tmp_path, "ice", {})] == ["iceberg"]


# Databases


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """A PostgreSQL of our own with the table ``events``, and its URI."""
    if not (binary := shutil.which("pg_ctl")):
        pytest.skip("a database to ask: install Debian's postgresql (pg_ctl has to be on the PATH)")
    if not (find_spec("adbc_driver_postgresql") or find_spec("connectorx")):
        pytest.skip("what asks databases: pip install 'recalign[databases]'")
    folder, port = Path(tempfile.mkdtemp()), 20_000 + os.getpid() % 20_000  # short: a socket lies in it
    who = {"user": "postgres"} if os.getuid() == 0 else {}  # PostgreSQL refuses to run as root
    (folder / "password").write_text(PASSWORD)
    for path in (folder, folder / "password") if who else ():
        shutil.chown(path, **who)

    def run(*words: str) -> None:
        subprocess.run(words, check=True, capture_output=True, cwd=folder, **who)

    access = ["--auth=scram-sha-256", "--username=shop", f"--pwfile={folder}/password"]
    run(str(Path(binary).resolve().with_name("initdb")), "-D", "data", "--no-sync", *access)
    run(binary, "-D", "data", "-w", "-l", "log", "-o", f"-p {port} -c listen_addresses=127.0.0.1 -k {folder}", "start")
    uri = f"postgresql://shop:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/postgres"
    try:
        values = ", ".join(str(row) for row in ROWS.iter_rows())
        columns = '"user" text, item text, timestamp bigint, rating int'
        create = f"create table events ({columns}); insert into events values {values}"
        run(str(Path(binary).resolve().with_name("psql")), uri, "-c", create)
        yield uri
    finally:
        run(binary, "-D", "data", "-m", "immediate", "stop")
        shutil.rmtree(folder)


SELECT = "select * from events"


@pytest.fixture
def asked(monkeypatch, database) -> str:
    """Every test asks anew: a process asks once."""
    for name in [name for name in os.environ if name.startswith("RECALIGN_ROWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SHOP_URI", database)
    return database


def test_query_identity_depends_on_the_rows_and_their_stated_order(asked):
    """Without an order, its identity is that of the rows, in whatever order they come."""
    log = LogMapping("t", query=SELECT, uri="${oc.env:SHOP_URI}")
    assert read(log).equals(ROWS)
    marks = [
        ask(LogMapping("t", query=f"{SELECT} {end}", uri=asked)).identity()
        for end in (
            "where (select 1 order by 1) = 1 /* order by rating */",
            "order by timestamp",
            "order by timestamp desc",
            "limit 9",
        )
    ]
    assert len({ask(log).identity(), *marks[1:]}) == 4
    assert marks[0] == ask(log).identity()

    for end in ("limit 8", "limit 8 /* order by rating */"):
        with pytest.raises(InputError, match="no ORDER BY"):
            ask(LogMapping("t", query=f"{SELECT} {end}", uri="SHOP_URI", timestamp=None))
    assert ask(LogMapping("t", query=f"{SELECT} Order  By rating", uri="SHOP_URI", timestamp=None)).path


def test_numeric_columns_of_databases_become_floats(asked):
    query = SELECT.replace("*", '"user", item, timestamp, rating::numeric(4, 2)')
    assert read(LogMapping("t", query=query, uri="SHOP_URI")).equals(ROWS.cast({"rating": pl.Float64}))


def test_parts_of_passwords_quoted_by_drivers_are_hidden(asked, monkeypatch):
    monkeypatch.setenv("SHOP_URI", asked.replace(quote(PASSWORD, safe=""), PASSWORD))  # not escaped: it ends at its @
    with pytest.raises(InputError, match="cannot be read") as caught:
        ask(LogMapping("t", query=SELECT, uri="SHOP_URI"))
    assert "w0rd" not in str(caught.value)


@pytest.mark.parametrize("wrong", [("w0rd", "hunter22"), ("@127.0.0.1:", "@127.0.0.1:9"), ("/postgres", "/none")])
@pytest.mark.parametrize("engine", ["adbc_driver_postgresql", pytest.param("connectorx", marks=pytest.mark.long)])
def test_errors_of_databases_hide_the_password(asked, monkeypatch, wrong, engine, capfd):
    """connectorx waits for 30 seconds."""
    pytest.importorskip(engine, reason="pip install 'recalign[databases]'")
    if engine == "connectorx":
        monkeypatch.setattr("recalign.data.events.queries.find_spec", lambda name: None)
    monkeypatch.setenv("SHOP_URI", asked.replace(*wrong))
    with pytest.raises(InputError, match=r"data\.log\.uri: cannot be read with this query") as caught:
        ask(LogMapping("t", query=SELECT, uri="SHOP_URI"))
    assert caught.value.__suppress_context__
    out, err = capfd.readouterr()
    assert not [one for one in ("hunter22", "w0rd", "p%40ss", "p@ss") if one in f"{caught.value}{out}{err}"]


@pytest.mark.slow
def test_passwords_are_in_no_file_of_init_fit_and_check(asked, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECALIGN_CACHE", str(tmp_path / "cache"))
    assert main(["init", asked, "--query", SELECT, "--out", "shop.yaml"]) == 0
    yaml = (tmp_path / "shop.yaml").read_text()
    assert "uri: SHOP_URI" in yaml
    (tmp_path / "shop.yaml").write_text(yaml.replace("uri: SHOP_URI", "uri: ${oc.env:SHOP_URI}"))
    fit = ["fit", "recommender", "shop.yaml", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"]
    assert main([*fit, "--model.encoder.dim", "8", "--data.batch_tokens", "64", "--data.max_length", "8"]) == 0
    assert main(["check", "shop.yaml"]) == 0
    assert main([*fit, "--data.log.uri", f"{asked}?x=1"]) == 2  # no variable holds this one
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 9
    out, err = capsys.readouterr()
    for said in (*written, out.encode(), err.encode()):
        assert b"w0rd" not in said
        assert asked.encode() not in said


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"query": SELECT}, "data.log.uri: only one of query and uri is set"),
        ({"uri": "HOME"}, "data.log.files"),
        ({"files": ["a.csv"], "query": SELECT, "uri": "HOME"}, "data.log.query: both files and a query are set"),
        ({"query": SELECT, "uri": "postgresql://me:hunter22@shop/db"}, r"data.log.uri: .*\n.*oc\.env:NAME"),
    ],
)
def test_contradictory_log_settings_are_refused(settings, said):
    with pytest.raises(InputError, match=f"(?s){said}") as caught:
        LogMapping("t", **settings)
    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize("entry", ["s3://logs/a.parquet", "delta"])
def test_missing_packages_are_named_with_their_extra(tmp_path, monkeypatch, entry):
    (tmp_path / "delta/_delta_log").mkdir(parents=True)
    for name in ("obstore", "obstore.store", "deltalake"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(InputError) as caught:
        fingerprint(LogMapping("t", [entry]), tmp_path, None)
    assert caught.value.remedy == "pip install 'recalign[lakes]'"
    assert find(tmp_path, "none", {}) == []


def test_panics_over_damaged_files_become_input_errors():
    """Of Polars, or of a driver with a class of its own: neither is an `Exception`."""
    for kind in (pl.exceptions.PanicException, type("PanicException", (BaseException,), {})):
        with pytest.raises(InputError, match="as Parquet: out of range"), read_errors("log.parquet"):
            raise kind("out of range")
    with pytest.raises(KeyboardInterrupt), read_errors("log.parquet"):
        raise KeyboardInterrupt
