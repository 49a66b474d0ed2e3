"""The house: imports run one way."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "recalign"
BELOW: dict[str, set[str]] = {
    "errors": set(),
    "distributed": set(),
    "bootstrap": {"errors"},
    "files": {"errors"},
    "artifacts": {"errors", "files"},
    "seals": {"artifacts", "errors", "files"},
    "workers": {"errors", "files"},
}
HELPERS = set(BELOW)
for room, lower in [
    ("nn", {"errors", "distributed"}),
    ("data.events", {"errors", "files", "seals"}),
    ("data.simulation", {"data.events"}),
    ("run.cores", set()),
    ("serve.server", {"errors", "files", "artifacts", "seals", "run.cores"}),  # what answers knows not what trains
    ("serve.feedback", {"serve.server", "data.events", "workers"}),
    ("data.sequences", {*HELPERS, "data.events", "nn"}),
    ("recommender", {"data.sequences"}),
    ("reward", {"recommender"}),
    ("posttrain", {"reward"}),
    ("evaluation", {"posttrain"}),
    ("run.configs", {"errors"}),
    ("run.words", {"errors"}),
    ("run.stage", {"evaluation", "run.configs", "run.cores", "run.words"}),
    ("run.chain", {"run.stage", "data.simulation"}),
    ("run.commands", {"run.stage"}),
    ("run.api", {"run.stage", "data.events"}),
    ("serve.export", {"serve.server", "run.stage"}),
    ("serve.loop", {"evaluation", "serve.feedback"}),
    ("cli", {"run.chain", "run.commands", "serve.export", "serve.loop", "data.events"}),
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
    return {room_of_module(name.removeprefix("recalign.")) for name in imports(path) if name.startswith("recalign.")}


def imported_files(path: Path, modules: Collection[str]) -> set[str]:
    """Modules of recalign that a file imports. A package stands for its ``__init__.py``."""
    found = {name if name in modules else name.rpartition(".")[0] for name in imports(path)}
    return {name for name in found if name in modules}


def module_of(path: Path) -> str:
    """Import path of a file, that of ``__init__.py`` with its last part."""
    return ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)


def files() -> list[Path]:
    packages = [SOURCE, *(SOURCE / name for name in ("data", "run", "serve"))]  # they hold rooms, and no code
    return sorted(set(SOURCE.rglob("*.py")) - {package / "__init__.py" for package in packages})


def room_of(path: Path) -> str:
    return room_of_module(module_of(path).removeprefix("recalign."))


def room_of_module(name: str) -> str:
    """The longest room that a module, or a name in it, is in."""
    parts = name.split(".")
    rooms = (".".join(parts[:length]) for length in (2, 1))
    return next((room for room in rooms if room in BELOW), parts[0])


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
    "bootstrap": {"polars", "lightning"},
    "data.events": {"torch", "lightning"},
    "nn": {"polars", "lightning"},
    "serve.feedback": {"torch", "lightning"},
    "serve.loop": {"torch", "lightning"},
    "serve.server": {"torch", "lightning"},
}
"""Packages that a room does without."""


@pytest.mark.parametrize("room", FREE_OF)
def test_rooms_do_without_the_other_side(room: str):
    for path in files():
        if room_of(path) == room:
            assert not {name.split(".")[0] for name in imports(path)} & FREE_OF[room], path


def test_commands_of_the_loop_need_no_torch():
    """Nor does what they import."""
    names = ("feedback.feedback_command", "loop.monitor_command", "loop.offpolicy_command")
    commands = ", ".join(f"recalign.serve.{name}" for name in names)
    code = f"import sys; sys.modules.update(torch=None, lightning=None); import {commands}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_modules_do_not_ask_the_trainer_for_its_datamodule():
    """They are told (`StageModule.bind`), so that any loader will do."""
    for path in files():
        read = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute))
        assert not [node for node in read if node.attr == "datamodule" and "trainer" in ast.unparse(node.value)], path


CEILINGS = {
    "lines": 34_350,
    "statements": 18_680,
    "functions": 2_090,
    "bytes": 1_702_000,
    "packages": 8,
    "modules beside them": 10,
    "lines of tests": 31_600,
    "lines of benchmarks": 6_050,
}
"""What the house may hold, with room for a small change. Delete as much as you add; raise a ceiling only for a new
capability, and say what it buys."""


def sizes() -> dict[str, int]:
    """Lines, statements without docstrings and functions of src, the bytes of all its files, and lines of the rest."""
    root, sources = SOURCE.parents[1], sorted(SOURCE.rglob("*.py"))
    nodes = [node for path in sources for node in ast.walk(ast.parse(path.read_text()))]
    docstrings = [node for node in nodes if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)]
    tracked = subprocess.run(["git", "ls-files", "src"], cwd=root, capture_output=True, text=True).stdout.split()
    return {
        "lines": lines(sources),
        "statements": sum(isinstance(node, ast.stmt) for node in nodes) - len(docstrings),
        "functions": sum(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in nodes),
        "bytes": sum((root / name).stat().st_size for name in tracked if (root / name).is_file()),
        "packages": sum((folder / "__init__.py").is_file() for folder in SOURCE.iterdir()),
        "modules beside them": len([*SOURCE.glob("*.py")]),
        "lines of tests": lines((root / "tests").rglob("*.py")),
        "lines of benchmarks": lines((root / "benchmarks").rglob("*.py")),
    }


def lines(paths: Iterable[Path]) -> int:
    return sum(len(path.read_text().splitlines()) for path in paths)


def test_the_house_stays_below_its_ceilings():
    above = {name: (size, CEILINGS[name]) for name, size in sizes().items() if size > CEILINGS[name]}
    assert not above


def core() -> list[str]:
    """The files of the core, as CONTRIBUTING lists them in the order in which they are read."""
    section = re.search(
        r"\*\*The core\.\*\*(.*?)\n\n\*\*", (SOURCE.parents[1] / "CONTRIBUTING.md").read_text(), re.DOTALL
    )
    return re.findall(r"^- `([\w/]+\.py)`", section[1], re.MULTILINE) if section else []


CORE_LINES = 6_680


def test_the_core_is_what_it_imports():
    """An import inside a function counts."""
    named = {SOURCE / name for name in core()}
    assert named
    assert all(path.is_file() for path in named)
    assert lines(named) <= CORE_LINES
    modules = {module_of(path).removesuffix(".__init__"): path for path in files()}
    leaving = {
        (str(path.relative_to(SOURCE)), name)
        for path in named
        for name in defining(path, modules)
        if modules[name] not in named and modules[name].name != "__init__.py"
    }
    assert not leaving


def defining(path: Path, modules: dict[str, Path]) -> set[str]:
    """Modules that define what a file imports, also by way of a package that hands the name on."""
    found = set()
    for name in imports(path):
        while name not in modules:
            package, _, last = name.rpartition(".")
            if package not in modules:
                break
            handed = [full for full in imports(modules[package]) if full.rpartition(".")[2] == last]
            name = handed[0] if handed and modules[package].name == "__init__.py" else package
        found |= {name} & set(modules)
    return found
