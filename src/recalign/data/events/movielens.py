"""Convert MovieLens's ML-100K and ML-1M to Parquet, from the published zips or, for ML-100K, a download."""

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from recalign.errors import InputError
from recalign.files import atomic_write

CONVERTED = ("ml-100k", "ml-1m")
MADE = "downloads"
"""Folder of the data root for converted files, separate from the user's own files."""

WHEEL = "recbole==1.2.1"
"""A wheel that contains ML-100K: the same ratings, titles, years and genres."""
WHEEL_MEMBER = "recbole/dataset_example/ml-100k/ml-100k"

RATING = pl.Schema({"user": pl.Int64, "item": pl.Int64, "rating": pl.Float64, "timestamp": pl.Int64})
GENRES = (
    *("Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy"),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
"""Genres of ML-100K, numbered from 1."""


def convert(root: Path, name: str) -> Path:
    """Return a data root that holds ``ratings.parquet`` and ``movies.parquet`` of a log, in a folder of its name.

    Movies have item, title and genres, and in ``ml-100k`` the year; its genres are numbers from 1 to 18, separated by
    ``|``. They are made from the published zip under `root`; without it, ``ml-100k`` is made from `WHEEL`.

    Raises:
        InputError: there is no zip and the download fails, or the files cannot be written.
    """
    places = [root / MADE, Path("data") / MADE]
    for place in places:
        if (place / name / "ratings.parquet").is_file():  # written last
            return place
    if root.is_dir() and not root.stat().st_mode & 0o222:  # write-protected
        del places[0]
    path = next((one for one in (root / f"{name}.zip", root / name / f"{name}.zip") if one.is_file()), None)
    origin = path or (f"the package {WHEEL}" if name == "ml-100k" else f"{name}.zip")
    print(f"converting {name} from {origin} into {places[0] / name}", file=sys.stderr)
    try:
        tables = _of_zip(path, name) if path or name != "ml-100k" else _of_wheel()
        for table in ("movies", "ratings"):
            with atomic_write(places[0] / name / f"{table}.parquet") as temporary:
                tables[table].write_parquet(temporary)
    # No network, a full disk, a damaged zip, no pip, no such wheel, or an unexpected file.
    except (OSError, zipfile.BadZipFile, subprocess.CalledProcessError, KeyError, ValueError) as error:
        text = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
        what = f"{name} cannot be downloaded or converted ({(text.strip().splitlines() or [type(error).__name__])[-1]})"
        remedy = f"put https://files.grouplens.org/datasets/movielens/{name}.zip under the data root, as "
        remedy += f"{root / f'{name}.zip'}; or begin without a network: recalign chain simulated"
        raise InputError(what, where="data.log.files", remedy=remedy) from error
    return places[0]


def _of_zip(path: Path | None, name: str) -> dict[str, pl.DataFrame]:
    if path is None:
        raise FileNotFoundError(f"{name}.zip is not under the data root")
    with zipfile.ZipFile(path) as opened:
        if name == "ml-1m":
            ratings, movies = (opened.read(f"{name}/{file}") for file in ("ratings.dat", "movies.dat"))
            films = _split(movies, "::", ["item", "title", "genres"]).with_columns(pl.col("item").cast(pl.Int64))
            return {"ratings": _split(ratings, "::", [*RATING]).cast(RATING), "movies": films}
        ratings, movies = (opened.read(f"{name}/{file}") for file in ("u.data", "u.item"))
    films = _split(movies, "|", ["item", "title", "released", "video_released", "url", "unknown", *GENRES])
    return {
        "ratings": _split(ratings, "\t", [*RATING]).cast(RATING),
        "movies": _films(films, pl.col("title"), "released", {genre: pl.col(genre) == "1" for genre in GENRES}),
    }


def _of_wheel() -> dict[str, pl.DataFrame]:
    """The tables in the recbole wheel, which is neither installed nor imported."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries=1"]
        options = ["--no-deps", "--only-binary=:all:", "--timeout", "10", "--dest", folder, WHEEL]
        subprocess.run([*pip, *options], check=True, capture_output=True, text=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as opened:
            files = [opened.read(f"{WHEEL_MEMBER}.{kind}") for kind in ("inter", "item")]
    ratings, films = (pl.read_csv(file, separator="\t", quote_char=None, infer_schema=False) for file in files)
    ratings.columns, films.columns = [*RATING], ["item", "title", "year", "genres"]
    has = {genre: pl.col("genres").fill_null("").str.split(" ").list.contains(genre) for genre in GENRES}
    return {
        "ratings": ratings.cast(RATING),
        "movies": _films(films, pl.format("{} ({})", "title", "year"), "year", has),
    }


def _films(films: pl.DataFrame, title: pl.Expr, released: str, has: Mapping[str, pl.Expr]) -> pl.DataFrame:
    """The films of ML-100K. The last four letters of ``released`` are the year: ``01-Jan-1995``."""
    numbers = [pl.when(has[genre]).then(pl.lit(str(number))) for number, genre in enumerate(GENRES, 1)]
    return films.select(
        pl.col("item").cast(pl.Int64),
        title.alias("title"),
        pl.col(released).str.tail(4).cast(pl.Int64, strict=False).alias("year"),
        pl.concat_str(numbers, separator="|", ignore_nulls=True).alias("genres"),
    )


def _split(content: bytes, separator: str, names: list[str]) -> pl.DataFrame:
    lines = pl.Series("line", content.decode("latin-1").replace("\r\n", "\n").rstrip("\n").split("\n"))
    fields = lines.str.split_exact(separator, len(names) - 1).struct.rename_fields(names).struct.unnest()
    if fields.to_series(-1).null_count():
        raise ValueError(f"a row has fewer than {len(names)} fields")
    return fields
