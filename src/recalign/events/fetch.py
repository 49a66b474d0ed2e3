"""ML-100K, from wherever it can be had."""

import hashlib
import http.client
import os
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

import polars as pl

from recalign.errors import InputError

DOWNLOADS = Path("data/downloads")
"""Where downloads are kept, apart from a user's own data root."""

URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
MD5 = "0e33842e24a9c977be4e0107933c0723"
TIMEOUT = 10
"""Seconds without an answer after which the publisher counts as out of reach."""

WHEEL = "recbole==1.2.1"
WHEEL_MEMBER = "recbole/dataset_example/ml-100k/ml-100k.inter"
SIZE = (100_000, 943, 1_682)
"""Ratings, users, items."""

FAILURES = (
    OSError,  # no network, no answer, no room
    http.client.HTTPException,  # half an answer
    subprocess.CalledProcessError,  # no pip, or none that finds the wheel
    ValueError,  # another file than expected
)


def ml_100k(downloads: Path = DOWNLOADS) -> Path:
    """A folder that serves as data root for ML-100K: ``ml-100k.zip`` or ``ml-100k/u.data`` lies in it.

    An earlier download is taken as it is; else the publisher's zip is downloaded, else the wheel of recbole 1.2.1,
    which carries the same ratings.

    Raises:
        InputError: none of them can be had.
    """
    archive, table = downloads / "ml-100k.zip", downloads / "ml-100k" / "u.data"
    if archive.is_file() or table.is_file():
        return downloads
    refused = []
    for name, get, target in (("its publisher", _publisher, archive), (f"the wheel of {WHEEL}", _wheel, table)):
        print(f"ML-100K is not under the data root; getting it from {name} into {downloads}", file=sys.stderr)
        try:
            _keep(target, get)
        except FAILURES as error:
            refused.append(f"{name}: {_why(error)}")
        else:
            return downloads
    raise InputError(
        f"ML-100K is neither here nor to be had ({'; '.join(refused)})",
        where="data.log.files",
        remedy=f"download {URL} elsewhere and put it, or the u.data in it, under the data root: data/ml-100k/u.data",
    )


def _publisher() -> bytes:
    """The publisher's zip."""
    with urllib.request.urlopen(URL, timeout=TIMEOUT) as answer:
        data: bytes = answer.read()
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != MD5:
        raise ValueError(f"what came is not the file whose MD5 is {MD5}")
    return data


def _wheel() -> bytes:
    """``u.data`` out of the recbole wheel, of which nothing is installed or imported."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries=1"]
        options = ["--no-deps", "--only-binary=:all:", "--timeout", str(TIMEOUT), "--dest", folder, WHEEL]
        subprocess.run([*pip, *options], check=True, capture_output=True, text=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as opened:
            ratings = pl.read_csv(opened.read(WHEEL_MEMBER), separator="\t")
    ratings = ratings.cast(pl.Int64)
    size = (ratings.height, *(ratings[name].n_unique() for name in ratings.columns[:2]))
    if size != SIZE:
        raise ValueError(f"what came holds {size} ratings, users and items, not {SIZE}")
    return ratings.write_csv(separator="\t", include_header=False).encode()


def _keep(target: Path, get: Callable[[], bytes]) -> None:
    """Write a file under another name first, so that a broken download is never taken for a whole one."""
    data = get()
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    part.write_bytes(data)
    part.replace(target)


def _why(error: Exception) -> str:
    text = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
    return (text.strip().splitlines() or [type(error).__name__])[-1]
