"""Download ML-100K from its publisher, or else from a wheel that contains it."""

import hashlib
import http.client
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from pathlib import Path

import polars as pl

from recalign.errors import InputError
from recalign.files import replacing

DOWNLOADS = "downloads"
"""Downloads go to this folder of the data root, separate from the user's own files."""

URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
MD5 = "0e33842e24a9c977be4e0107933c0723"
TIMEOUT = 10
"""Seconds to wait for the publisher."""

WHEEL = "recbole==1.2.1"
WHEEL_MEMBER = "recbole/dataset_example/ml-100k/ml-100k"
SIZE = (100_000, 943, 1_682)
"""Expected numbers of ratings, users and items."""
GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
"""Genres in the order of u.item's last fields."""


def ml_100k(root: Path) -> Path:
    """Return a data root that holds ``ml-100k.zip``, or ``ml-100k/u.data`` and ``ml-100k/u.item``: a folder of `root`.

    An earlier download is reused, also one under ``data``. Otherwise the publisher's zip is downloaded; if that fails,
    the wheel of recbole 1.2.1, which contains the same ratings, titles, years and genres.

    Raises:
        InputError: both downloads fail.
    """
    downloads = root / DOWNLOADS
    for place in (downloads, Path("data") / DOWNLOADS):
        if (place / "ml-100k.zip").is_file() or _whole(place / "ml-100k"):
            return place
    folder = downloads / "ml-100k"
    failed = []
    for name, get, target in (("its publisher", _publisher, downloads), (f"the wheel of {WHEEL}", _wheel, folder)):
        print(f"ML-100K is not under the data root; getting it from {name} into {downloads}", file=sys.stderr)
        try:
            for file, content in get().items():
                with replacing(target / file) as temporary:
                    temporary.write_bytes(content)
            return downloads
        # No network, a full disk, a truncated answer, no pip, no such wheel, or an unexpected file.
        except (OSError, http.client.HTTPException, subprocess.CalledProcessError, ValueError) as error:
            text = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
            failed.append(f"{name}: {(text.strip().splitlines() or [type(error).__name__])[-1]}")
    raise InputError(
        f"ML-100K is not under the data root and cannot be downloaded ({'; '.join(failed)})",
        where="data.log.files",
        remedy=f"download {URL} elsewhere and put it, or what it holds, under the data root: {root}/ml-100k/u.data; "
        "or begin without a network: recalign chain simulated",
    )


def _whole(folder: Path) -> bool:
    """Whether the files of an earlier download are all there; before 0.10, u.item had no genres."""
    films = folder / "u.item"
    return (folder / "u.data").is_file() and films.is_file() and b"|0|" in films.read_bytes()


def _publisher() -> dict[str, bytes]:
    """Download the publisher's zip."""
    with urllib.request.urlopen(URL, timeout=TIMEOUT) as answer:
        data: bytes = answer.read()
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != MD5:
        raise ValueError(f"what came is not the file whose MD5 is {MD5}")
    return {"ml-100k.zip": data}


def _wheel() -> dict[str, bytes]:
    """Extract ratings and films from the recbole wheel. Nothing of it is installed or imported."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries=1"]
        options = ["--no-deps", "--only-binary=:all:", "--timeout", str(TIMEOUT), "--dest", folder, WHEEL]
        subprocess.run([*pip, *options], check=True, capture_output=True, text=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as opened:
            files = [opened.read(f"{WHEEL_MEMBER}.{kind}") for kind in ("inter", "item")]
    ratings, films = (pl.read_csv(file, separator="\t", quote_char=None, infer_schema=False) for file in files)
    ratings = ratings.cast(pl.Int64)
    size = (ratings.height, *(ratings[name].n_unique() for name in ratings.columns[:2]))
    if size != SIZE:
        raise ValueError(f"what came holds {size} ratings, users and items, not {SIZE}")
    return {
        "u.data": ratings.write_csv(separator="\t", include_header=False).encode(),
        "u.item": "\n".join(films.select(_film(*films.columns)).to_series()).encode("latin-1", "replace"),
    }


def _film(item: str, title: str, year: str, genres: str) -> pl.Expr:
    """A line of u.item, of 24 fields: of the day of release the year is known, the next two are not."""
    own = pl.col(genres).fill_null("").str.split(" ")
    has = [own.list.contains(genre).cast(pl.Int8) for genre in GENRES]
    return pl.format("{}|{} ({})|{}||" + "|{}" * len(has), item, title, year, year, *has)
