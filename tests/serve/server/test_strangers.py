"""Bundles that a stranger sealed: whatever is wrong with one, one line says so, and nothing outside it is read."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from recalign.cli import main
from recalign.errors import InputError
from recalign.files import read_json, write_json
from recalign.seals import SEAL, seal
from recalign.serve.server import load_bundle
from recalign.serve.server.about import ABOUT, CHAIN, EXAMPLES, GRAPH, ITEMS, TABLES, current

DEEP = b"[" * 200_000 + b"]" * 200_000
Attack = Callable[[Path], object]


def written(name: str, content: bytes) -> Attack:
    return lambda folder: (folder / name).write_bytes(content)


def cut(name: str, length: int) -> Attack:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:length])


def tensors(header: bytes, length: int | None = None) -> Attack:
    return written(TABLES, struct.pack("<Q", len(header) if length is None else length) + header + bytes(8))


def about(**settings: Any) -> Attack:
    return lambda folder: write_json(folder / ABOUT, read_json(folder / ABOUT) | settings)


def example(**settings: Any) -> Attack:
    return lambda folder: write_json(folder / EXAMPLES, [read_json(folder / EXAMPLES)[0] | settings])


def table(change: Callable[[pl.DataFrame], pl.DataFrame]) -> Attack:
    def attack(folder: Path) -> None:
        change(pl.read_parquet(folder / ITEMS)).write_parquet(folder / ITEMS)

    return attack


def tables(change: Callable[[np.ndarray], np.ndarray]) -> Attack:
    def attack(folder: Path) -> None:
        from safetensors.numpy import load_file, save

        (folder / TABLES).write_bytes(save({name: change(x) for name, x in load_file(folder / TABLES).items()}))

    return attack


def external(place: str) -> Attack:
    def attack(folder: Path) -> None:
        onnx = pytest.importorskip("onnx")
        graph = onnx.load(folder / GRAPH)
        tensor = next(one for one in graph.graph.initializer if len(one.raw_data) > 8)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", place
        (folder / GRAPH).write_bytes(graph.SerializeToString())

    return attack


def operation(domain: str) -> Attack:
    def attack(folder: Path) -> None:
        onnx = pytest.importorskip("onnx")
        of, value = onnx.helper, [onnx.helper.make_tensor_value_info(name, 1, [1]) for name in "xy"]
        node = of.make_node("Identity", ["x"], ["y"], domain=domain)
        sets = [of.make_opsetid("", 20), of.make_opsetid("evil", 1)]
        graph = of.make_graph([node], "g", value[:1], value[1:])
        (folder / GRAPH).write_bytes(of.make_model(graph, opset_imports=sets, ir_version=10).SerializeToString())

    return attack


def number(name: str, place: Any, value: float) -> Attack:
    """Another number at a place of a table."""

    def attack(folder: Path) -> None:
        from safetensors.numpy import load_file, save

        found = load_file(folder / TABLES)
        found[name][place] = value
        (folder / TABLES).write_bytes(save(found))

    return attack


column = pl.DataFrame.with_columns
ATTACKS: dict[str, tuple[Attack, str]] = {
    "a graph of garbage": (written(GRAPH, b"garbage" * 100), GRAPH),
    "an empty graph": (written(GRAPH, b""), GRAPH),
    "a cut graph": (cut(GRAPH, 9_000), GRAPH),
    "a graph with data elsewhere": (external("/etc/passwd"), "keeps data in other files"),
    "a graph with data in another file": (external(ITEMS), "keeps data in other files"),
    "another graph": (operation(""), "inputs"),
    "a graph with operations of its own": (operation("evil"), "evil"),
    "a header beyond the file": (tensors(b"{}", 2**60), "header"),
    "a header that is no JSON": (tensors(b"notjson!"), "header"),
    "an unknown type": (tensors(b'{"a":{"dtype":"XX","shape":[1],"data_offsets":[0,4]}}'), "header"),
    "offsets beyond the file": (tensors(b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'), "header"),
    "tables of another type": (tables(lambda x: x.astype(np.float64)), "type"),
    "tables of fewer rows": (tables(lambda x: x[:3].copy()), "has 3 rows; 40 items of items.parquet need 41"),
    "tables of NaN": (tables(lambda x: np.full_like(x, np.nan) if x.dtype.kind == "f" else x), "holds nan"),
    "one neighbour that is not there": (number("memory_neighbour", (9, 0), 10**6), "memory_neighbour of"),
    "one neighbour from the end": (number("memory_neighbour", (9, 0), -3), "holds -3 to"),
    "one cosine of NaN": (number("memory_cosine", (9, 0), np.nan), "memory_cosine of"),
    "one cosine that overflows": (number("memory_cosine", (9, 0), 3e38), "memory_cosine of"),
    "a vector of NaN for no item": (number("unit", 0, np.nan), "or the padding item's is not -inf"),
    "a prior for no item": (number("bias", 0, 9.0), "or the padding item's is not -inf"),
    "neighbours that are not there": (tables(lambda x: x * 0 + 10**9 if x.dtype.kind == "i" else x), "_neighbour"),
    "no Parquet": (written(ITEMS, b"PAR1 no table PAR1"), "parquet"),
    **{f"no {name}": (table(lambda x, name=name: x.drop(name)), name) for name in ("item", "title", "count")},
    "titles that are numbers": (table(lambda x: column(x, title=pl.lit(3))), "'title'"),
    "titles that are lists": (table(lambda x: column(x, title=pl.lit(["a"]))), "'title'"),
    "titles that are missing": (table(lambda x: column(x, title=pl.lit(None, pl.String))), "'title'"),
    "ids that are fractions": (table(lambda x: column(x, pl.col("item") + 0.5)), "'item'"),
    "ids that are structs": (table(lambda x: column(x, item=pl.struct("item"))), "'item'"),
    "ids that are dates": (table(lambda x: column(x, pl.col("item").cast(pl.Int32).cast(pl.Date))), "'item'"),
    "ids that are missing": (table(lambda x: column(x, item=pl.when(pl.col("item") > 3).then("item"))), "'item'"),
    "one id": (table(lambda x: column(x, item=pl.lit(7))), "twice"),
    "counts that are texts": (table(lambda x: column(x, count=pl.lit("x"))), "'count'"),
    "no items": (table(lambda x: x.head(0)), "0 items"),
    "deep nesting in the configuration": (written(ABOUT, DEEP), "recursion"),
    "deep nesting in the examples": (written(EXAMPLES, DEEP), "recursion"),
    "deep nesting in a request": (written(EXAMPLES, b'[{"request":' + b"[" * 900 + b"]" * 900 + b"}]"), "request"),
    "examples that are a number": (written(EXAMPLES, b"3"), "int"),
    "an example of nothing": (example(request=None), "NoneType"),
    "an answer of numbers": (example(answer={"items": 3}), "int"),
    "an example of too many items": (example(request={"k": 10**30}), "k"),
    "a configuration of numbers": (written(ABOUT, b"[1]"), "no bundle"),
    "a length in words": (about(k="ten"), "k: Input"),
    "inputs that the graph lacks": (about(inputs=["item", "evil"]), "evil"),
    "no length": (about(max_length=0), "max_length"),
    "an unknown unit": (about(time_unit="min"), "time_unit"),
    "a resolution of ages": (about(time_resolution=10**40), "OverflowError"),
    "a version of several lines": (about(version="a\nrecalign: all is well"), "not a valid version name"),
    "a version that is a path": (about(version="../a"), "not a valid version name"),
    "a key that there is not": (about(evil=1), "evil"),
}  # fmt: skip


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as found:
        load_bundle(folder)
    said, remedy = str(found.value).split("\n")  # one line, and what to do
    assert remedy.startswith("  -> ")
    return said


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_load_bundle_refuses_crafted_bundles_in_one_line(name, bundled, tmp_path):
    folder = shutil.copytree(current(bundled), tmp_path / "it")
    attack, says = ATTACKS[name]
    attack(folder)
    seal(folder)
    assert says in refused(folder)


@pytest.mark.parametrize(
    "content",
    [
        *([], {}, {"digests": {}}, {"digests": [1]}, {"key": 3, "digests": {}}, {"digests": {"../../x": "0"}}),
        *({"digests": {"/etc/passwd": "0"}}, {"digests": {"a\0b": "0"}}, {"digests": {"a" * 5_000: "0"}}),
        *({"digests": {"\x1b[31m\nrecalign: all is well": "0"}}, {"digests": {GRAPH: 3}}),
        {"digests": {}, "made_of": {"/dev/zero": "0"}},
    ],
    ids=str,
)
def test_a_seal_that_seals_nothing_or_something_else_is_refused(content, bundled, tmp_path):
    folder = shutil.copytree(current(bundled), tmp_path / "it")
    (folder / SEAL).write_text(json.dumps(content))
    refused(folder)
    (folder / SEAL).write_bytes(DEEP)
    assert "digests.json is not valid" in refused(folder)


@pytest.mark.parametrize("name", ["../it", "/", ".", "..", "", "a\0b", "a" * 5_000, "it\nand more", "gone"])
def test_a_current_version_outside_its_folder_is_refused(name, bundled, tmp_path):
    shutil.copytree(current(bundled), tmp_path / "it")
    (tmp_path / "current").write_text(name)
    assert "no folder of this name beside it" in refused(tmp_path)


@pytest.mark.parametrize(
    "named", [b'["../it"]', b'["/etc"]', b'["."]', b'[""]', b'["a/../.."]', b"[3]", b'{"a": 1}', DEEP]
)
def test_bundles_of_a_chain_outside_its_folder_are_refused(named, bundled, tmp_path):
    shutil.copytree(current(bundled), tmp_path / "it")
    (tmp_path / "chain").mkdir()
    (tmp_path / "chain" / CHAIN).write_bytes(named)
    assert CHAIN in refused(tmp_path / "chain")


def test_the_command_says_it_in_one_line_and_exits_with_2(bundled, tmp_path, capfd, monkeypatch):
    monkeypatch.delenv("RECALIGN_TOKEN", raising=False)
    folder = shutil.copytree(current(bundled), tmp_path / "it")
    ATTACKS["neighbours that are not there"][0](folder)
    seal(folder)
    for words in (
        ["serve", str(folder), "--port", "0"],
        ["serve", str(bundled), "--port", "0", "--beside", str(folder)],
    ):
        assert main(words) == 2
        said = capfd.readouterr()
        assert not said.out
        assert [line[:2] for line in said.err.splitlines()] == ["re", "  "]
