"""The house: imports run one way."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Collection, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "recalign"
BELOW = {
    "cores": set(),
    "errors": set(),
    "workers": {"errors", "files"},
    "configs": {"errors"},
    "files": {"errors"},
    "code": {"errors", "files"},
    "kept": {"errors", "files"},
    "keys": {"errors"},
    "manual": set(),
    "typed": set(),
    "processes": set(),
    "nn": {"errors", "processes"},
    "events": {"errors", "files", "kept", "keys"},
    "metrics": {"errors"},
    "factorization": set(),
    "simulation": {"errors", "events", "files", "kept", "keys"},
    "feedback": {"errors", "events", "files", "kept", "keys", "serving"},
    "serving": {"errors", "files", "kept"},  # what answers knows nothing of what trains; `export` knows both
}
for room, lower in [
    (
        "sequences",
        {"code", "configs", "errors", "events", "files", "keys", "nn", "metrics", "processes", "typed", "workers"},
    ),
    ("semantic_ids", {"sequences", "factorization"}),
    ("recommender", {"semantic_ids"}),
    ("reward", {"recommender", "factorization"}),
    ("posttrain", {"reward"}),
    ("evaluation", {"posttrain"}),
    ("stage", {"cores", "evaluation"}),
    ("chain", {"stage", "simulation"}),
    ("commands", {"stage"}),
    ("api", {"stage", "configs"}),
    ("export", {"serving", "stage"}),
    ("loop", {"evaluation", "feedback"}),
    ("cli", {"chain", "commands", "export", "feedback", "loop", "manual"}),
    ("__main__", {"cli"}),
]:
    BELOW[room] = lower | {deeper for name in lower for deeper in BELOW[name]}


def imports(path: Path) -> Iterator[str]:
    """Full names of all that a file imports, at its top or anywhere inside."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            before = ".".join(module_of(path).split(".")[: -node.level or None])
            package = node.module or "" if not node.level else ".".join(filter(None, [before, node.module]))
            yield from (f"{package}.{alias.name}" for alias in node.names)


def imported_rooms(path: Path) -> set[str]:
    """Rooms of recalign that a file imports."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("recalign.")}


def imported_files(path: Path, modules: Collection[str]) -> set[str]:
    """Modules of recalign that a file imports. A package stands for its ``__init__.py``."""
    found = {name if name in modules else name.rpartition(".")[0] for name in imports(path)}
    return {name for name in found if name in modules}


def module_of(path: Path) -> str:
    """Import path of a file, that of ``__init__.py`` with its last part."""
    return ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)


def files() -> list[Path]:
    return sorted(p for p in SOURCE.rglob("*.py") if p != SOURCE / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def test_every_room_is_known():
    assert {room_of(p) for p in files()} == set(BELOW)
    assert len(files()) > 20


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_run_one_way(path: Path):
    room = room_of(path)
    allowed = BELOW[room] | {room}
    assert imported_rooms(path) <= allowed


def test_files_do_not_import_each_other_in_a_circle():
    """An import inside a function, or for type checkers alone, only hides a circle."""
    modules = {module_of(path).removesuffix(".__init__"): path for path in files()}
    order = TopologicalSorter({name: imported_files(path, modules) for name, path in modules.items()})
    order.prepare()  # raises CycleError, with the circle


def test_no_file_imports_the_public_names():
    """They are above everything. `importlib.metadata` knows the version."""
    names = {path.stem for path in SOURCE.glob("*.py")} | {path.name for path in SOURCE.iterdir() if path.is_dir()}
    for path in files():
        own = [name for name in imports(path) if name.split(".")[0] == "recalign"]
        assert all(name.partition(".")[2].split(".")[0] in names for name in own), path


FREE_OF = {
    "events": {"torch", "lightning"},
    "feedback": {"torch", "lightning"},
    "loop": {"torch", "lightning"},
    "metrics": {"polars", "lightning"},
    "nn": {"polars", "lightning"},
    "serving": {"torch", "lightning"},
}
"""Packages that a room does without."""


@pytest.mark.parametrize("room", FREE_OF)
def test_rooms_do_without_the_other_side(room: str):
    for path in files():
        if room_of(path) == room:
            assert not {name.split(".")[0] for name in imports(path)} & FREE_OF[room], path


def test_commands_of_the_loop_need_no_torch():
    """Nor does what they import."""
    commands = "recalign.feedback.feedback_command, recalign.loop.monitor_command, recalign.loop.offpolicy_command"
    code = f"import sys; sys.modules.update(torch=None, lightning=None); import {commands}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_modules_do_not_ask_the_trainer_for_its_datamodule():
    """They are told (`StageModule.bind`), so that any loader will do."""
    for path in files():
        read = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute))
        assert not [node for node in read if node.attr == "datamodule" and "trainer" in ast.unparse(node.value)], path
