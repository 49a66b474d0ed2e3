"""Convert MovieLens's ML-100K and ML-1M to Parquet, from files as published or, for ML-100K, from a download."""

import hashlib
import http.client
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path

import polars as pl

from recalign.errors import InputError
from recalign.files import replacing

MADE = "downloads"
"""Folder of the data root for what is made here, separate from the user's own files."""

URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
MD5 = "0e33842e24a9c977be4e0107933c0723"
WHEEL = "recbole==1.2.1"
WHEEL_MEMBER = "recbole/dataset_example/ml-100k/ml-100k"
TIMEOUT = 10
"""Seconds to wait for the publisher."""

NUM_RATINGS = 100_000
GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
"""Genres of ML-100K by their number."""

FAILURES = (OSError, http.client.HTTPException, zipfile.BadZipFile, subprocess.CalledProcessError, ValueError)
"""No network, a full disk, a truncated answer, a damaged zip, no pip, no such wheel, or an unexpected file."""

RATING = {"user": pl.Int64, "item": pl.Int64, "rating": pl.Float64, "timestamp": pl.Int64}
Tables = dict[str, pl.DataFrame]
"""``ratings`` and ``movies``."""


def ml_100k(root: Path) -> Path:
    """Return a data root that holds ``ml-100k/ratings.parquet`` and ``movies.parquet`` (item, title, year, genres).

    Genres are numbers from 1 to 18, separated by ``|``. The files are made from ``ml-100k.zip`` or ``ml-100k/u.data``
    and ``u.item`` under `root`; else from the publisher's zip; else from the wheel of recbole 1.2.1, which contains the
    same ratings, titles, years and genres.

    Raises:
        InputError: both downloads fail, or the files cannot be written.
    """
    ways = {
        "its files": lambda: _as_published(root, "ml-100k", _parse_100k, "u.data", "u.item"),
        "its publisher": _publisher,
        f"the wheel of {WHEEL}": _wheel,
    }
    return _made(root, "ml-100k", ways)


def ml_1m(root: Path) -> Path:
    """Return a data root that holds ``ml-1m/ratings.parquet`` and ``movies.parquet`` (item, title, genres).

    They are made from ``ml-1m.zip``, or ``ml-1m/ratings.dat`` and ``movies.dat``, under `root`.

    Raises:
        InputError: these are not there, or the files cannot be written.
    """
    ways = {"its files": lambda: _as_published(root, "ml-1m", _parse_1m, "ratings.dat", "movies.dat")}
    return _made(root, "ml-1m", ways)


def _made(root: Path, name: str, ways: Mapping[str, Callable[[], Tables]]) -> Path:
    """The folder of a data root into which the tables are converted, or were earlier."""
    places = [root / MADE, Path("data") / MADE]
    for place in places:
        if (place / name / "ratings.parquet").is_file():  # written last
            return place
    if root.is_dir() and not root.stat().st_mode & 0o222:  # nobody is to write there
        del places[0]
    failed = []
    for way, get in ways.items():
        try:
            tables = get()
            for table in ("movies", "ratings"):
                with replacing(places[0] / name / f"{table}.parquet") as temporary:
                    tables[table].write_parquet(temporary)
            print(f"{name} is written into {places[0] / name}, from {way}", file=sys.stderr)
            return places[0]
        except FAILURES as error:
            text = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
            failed.append(f"{way}: {(text.strip().splitlines() or [type(error).__name__])[-1]}")
    published = f"https://files.grouplens.org/datasets/movielens/{name}.zip"
    raise InputError(
        f"{name} is not under the data root and cannot be made ({'; '.join(failed)})",
        where="data.log.files",
        remedy=f"put {published} under the data root, as {root / f'{name}.zip'}; or begin without a network: "
        "recalign chain simulated",
    )


def _as_published(root: Path, name: str, parse: Callable[[bytes, bytes], Tables], *files: str) -> Tables:
    """The tables of files in a folder or a zip under the data root.

    Raises:
        FileNotFoundError: there are none.
    """
    if all((root / name / file).is_file() for file in files):
        return parse(*((root / name / file).read_bytes() for file in files))
    for path in (root / f"{name}.zip", root / name / f"{name}.zip"):
        if path.is_file():
            return _unzipped(path, name, parse, files)
    raise FileNotFoundError(f"neither {name}.zip nor {name}/{files[0]} and {files[1]} are under {root}")


def _unzipped(path: Path | BytesIO, name: str, parse: Callable[[bytes, bytes], Tables], files: Sequence[str]) -> Tables:
    with zipfile.ZipFile(path) as opened:
        try:
            return parse(*(opened.read(f"{name}/{file}") for file in files))
        except KeyError as error:
            raise ValueError(error.args[0]) from error


def _publisher() -> Tables:
    with urllib.request.urlopen(URL, timeout=TIMEOUT) as answer:
        data: bytes = answer.read()
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != MD5:
        raise ValueError(f"what came is not the file whose MD5 is {MD5}")
    return _unzipped(BytesIO(data), "ml-100k", _parse_100k, ("u.data", "u.item"))


def _wheel() -> Tables:
    """The tables of the recbole wheel. Nothing of it is installed or imported."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries=1"]
        options = ["--no-deps", "--only-binary=:all:", "--timeout", str(TIMEOUT), "--dest", folder, WHEEL]
        subprocess.run([*pip, *options], check=True, capture_output=True, text=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as opened:
            files = [opened.read(f"{WHEEL_MEMBER}.{kind}") for kind in ("inter", "item")]
    ratings, movies = (pl.read_csv(file, separator="\t", quote_char=None, infer_schema=False) for file in files)
    ratings.columns = [*RATING]
    movies.columns = ["item", "title", "year", "genres"]
    if len(ratings) != NUM_RATINGS:
        raise ValueError(f"what came holds {len(ratings):,} ratings, not {NUM_RATINGS:,}")
    has = pl.col("genres").fill_null("").str.split(" ")
    genres = [pl.when(has.list.contains(genre)).then(pl.lit(str(number))) for number, genre in _numbered()]
    return {
        "ratings": ratings.cast(RATING),
        "movies": movies.select(
            pl.col("item").cast(pl.Int64),
            pl.format("{} ({})", "title", "year").alias("title"),
            _year("year"),
            pl.concat_str(genres, separator="|", ignore_nulls=True).alias("genres"),
        ),
    }


def _parse_100k(ratings: bytes, movies: bytes) -> Tables:
    names = ["item", "title", "released", "video_released", "url", *GENRES]
    genres = [pl.when(pl.col(genre) == "1").then(pl.lit(str(number))) for number, genre in _numbered()]
    return {
        "ratings": _split(ratings, "\t", [*RATING]).cast(RATING),
        "movies": _split(movies, "|", names).select(
            pl.col("item").cast(pl.Int64),
            "title",
            _year("released"),
            pl.concat_str(genres, separator="|", ignore_nulls=True).alias("genres"),
        ),
    }


def _numbered() -> list[tuple[int, str]]:
    return [(number, genre) for number, genre in enumerate(GENRES) if number]  # 0 is unknown


def _year(column: str) -> pl.Expr:
    """The year of a day of release, such as ``01-Jan-1995``, or of a year alone."""
    return pl.col(column).str.tail(4).cast(pl.Int64, strict=False).alias("year")


def _parse_1m(ratings: bytes, movies: bytes) -> Tables:
    films = _split(movies, "::", ["item", "title", "genres"]).with_columns(pl.col("item").cast(pl.Int64))
    return {"ratings": _split(ratings, "::", [*RATING]).cast(RATING), "movies": films}


def _split(content: bytes, separator: str, names: Sequence[str]) -> pl.DataFrame:
    """The columns of a text without header or quotes, as text."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    lines = pl.Series("line", text.replace("\r\n", "\n").rstrip("\n").split("\n"))
    fields = lines.str.split_exact(separator, len(names) - 1).struct.rename_fields(names).struct.unnest()
    if fields.to_series(-1).null_count():
        raise ValueError(f"a row has fewer than {len(names)} fields")
    return fields
