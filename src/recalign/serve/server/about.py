"""The files of a bundle's folder, and checks that they are complete."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from recalign.errors import InputError
from recalign.files import read_json, write_json, write_text
from recalign.seals import SEAL, require

FORMAT = 1
"""Raised whenever an older recalign could not read what a newer one writes."""
ABOUT, EXAMPLES, GRAPH = "bundle.json", "examples.json", "policy.onnx"
ITEMS, TABLES = "items.parquet", "items.safetensors"
FEATURES = "features.json"
"""The log's item columns and the coding of features, to add new items."""
NODES = "nodes/"
"""Prefix of the tables that have a row per trie node; the others have a row per item."""
CURRENT = "current"
"""File that names the version to serve, in a folder of several."""
LINE = 500
"""Maximum characters kept of a message, or read of ``current``."""
CHAIN = "bundles.json"
"""File in a chain's folder that names the bundles of its answer and of its start."""
REMEDY = "export it again: recalign export RUN"
INSTALL = "pip install 'recalign[serve]'"


AtLeast1 = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class BundleConfig:
    """``bundle.json``: the settings of a server beside the graph and its tables.

    Attributes:
        name: of the run, for example ``ml-100k/asft/seed-0``.
        version: id of the bundle's content; the name of its folder.
        kind: items: a policy over item ids; codes: one over semantic ids; rerank: one with reranking.
        inputs: names of the graph's inputs.
        k: items that the graph returns; longer lists come from the scores of all items.
        max_length: newest events of a history that the policy reads.
        time_unit, time_resolution: of requests' times, as in the log's YAML.
        request_time: ``last_event`` or ``known``, as in the log's YAML.
        reward: the expression of the rewards, if the graph or ``collapse`` reads them; null: neither does.
        strength: of a reranked policy, in 1 / standard deviation of the reward; null: it is not reranked.
        reward_sd: that standard deviation; 1 without reranking.
        memory: strength of the policy's memory; 0: it has none.
        collapse: whether a history keeps one event per item.
        where: condition that the log's events fulfil; the events of requests must too; null: none.
        drop_repeats: whether the log drops duplicate rows; requests must too.
        log, catalogue, made_of: name of the log, digest of the items, SHA-256 of the checkpoints.
        versions: of recalign and of the packages that wrote the graph.
        verified: what `recalign.serve.export.verify` measured; empty if skipped.
        format: `FORMAT` of the recalign that wrote it.
    """

    name: str
    version: str
    kind: Literal["items", "codes", "rerank"]
    inputs: list[str]
    k: AtLeast1
    max_length: AtLeast1
    time_unit: Literal["s", "ms", "us", "datetime"]
    time_resolution: AtLeast1
    request_time: Literal["known", "last_event"]
    reward: str | None
    strength: Annotated[float, Field(ge=0)] | None
    reward_sd: Annotated[float, Field(gt=0)]
    collapse: bool
    where: str | None
    log: str
    catalogue: str
    drop_repeats: bool = False
    memory: Annotated[float, Field(ge=0)] = 0.0
    made_of: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    verified: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def rounding(self) -> float:
        """Scores, or log-probabilities in nats, that differ by no more are tied.

        Machines round differently, and the error grows with the strengths of reranking and of the memory.
        """
        return 1e-4 * max(1.0, self.strength or 0.0, self.memory / 20)

    def write(self, folder: Path) -> None:
        """Write ``bundle.json``."""
        write_json(folder / ABOUT, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> BundleConfig:
        """Read ``bundle.json``, after checking that the folder is a complete bundle of a supported format.

        Raises:
            InputError: it is none; names the folder and what is wrong.
        """
        found = read_json(folder / ABOUT)
        if not isinstance(found, dict) or not found:
            what = f"there is no bundle in this folder (no {ABOUT})"
            remedy = "`recalign export RUN` writes one into a run's folder, or two of a chain's"
            raise InputError(what, where=str(folder), remedy=remedy)
        if found.get("format") != FORMAT:
            what = f"the bundle has format {found.get('format')!r}, and this recalign reads {FORMAT}"
            raise InputError(what, where=str(folder), remedy="install the recalign that wrote it, or export it again")
        if lacking := {EXAMPLES, GRAPH, ITEMS, TABLES} - require(folder, REMEDY).digests.keys():
            what = f"{min(lacking)} has no digest in {SEAL}"
            raise InputError(what, where=str(folder), remedy=REMEDY)
        version = found.get("version")
        if not isinstance(version, str) or not is_plain_name(version):
            raise InputError(f"{version!r} is not a valid version name", where=str(folder / ABOUT), remedy=REMEDY)
        try:
            return cls(**found)
        except ValidationError as error:
            first = error.errors()[0]
            what = f"{ABOUT}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise InputError(what, where=str(folder), remedy=REMEDY) from None


@contextmanager
def usable(folder: Path) -> Iterator[None]:
    """Turn any error into a one-line `InputError`: anybody can seal a folder, so any file may be wrong."""
    try:
        yield
    except InputError as error:
        raise InputError(in_one_line(error.what), where=error.where, remedy=error.remedy) from error
    except ImportError as error:
        raise InputError(f"a package is missing: {error}", where=str(folder), remedy=INSTALL) from error
    except Exception as error:
        what = f"damaged, or not written by recalign: {type(error).__name__}: {in_one_line(str(error))}"
        raise InputError(what, where=str(folder), remedy=REMEDY) from error


def in_one_line(text: str) -> str:
    """At most `LINE` characters of a text, on one line: files may come from strangers."""
    return " ".join(text.split())[:LINE]


def is_plain_name(name: str) -> bool:
    """Whether a name is printable and names a file directly in a folder."""
    return 0 < len(name) < 200 and name.isprintable() and Path(name).name == name != ".."


def current(folder: Path) -> Path:
    """The bundle to serve: the folder itself, the version that its file ``current`` names, or a run's or chain's.

    Raises:
        InputError: ``current`` names no folder beside it.
    """
    pointer = folder / CURRENT
    if chain := of_chain(folder):
        return current(chain[0])
    if not pointer.is_file():
        exported = folder / "bundles"  # what `recalign export` leaves in a run folder
        return current(exported) if exported.is_dir() and not (folder / ABOUT).is_file() else folder
    with pointer.open(encoding="utf-8", errors="replace") as file:
        name = file.read(LINE).strip()
    if not is_plain_name(name) or not (folder / name).is_dir():
        what = f"names {name!r}, and there is no folder of this name beside it"
        raise InputError(what, where=str(pointer), remedy="write the name of one of the folders into it")
    return folder / name


def of_chain(folder: Path) -> list[Path]:
    """The bundles made by ``recalign export CHAIN``: that of the answer's row, then that of the start; else [].

    Raises:
        InputError: ``bundles.json`` holds something else.
    """
    found = read_json(folder / CHAIN) or []
    if not isinstance(found, list) or not all(
        isinstance(one, str) and all(map(is_plain_name, one.split("/"))) for one in found
    ):
        raise InputError("is not a list of bundle paths", where=str(folder / CHAIN), remedy=f"recalign export {folder}")
    return [folder / one for one in found]


def point(folder: Path, version: str) -> None:
    """Write a version's name into ``current``, atomically."""
    write_text(folder / CURRENT, version + "\n")
