"""The house: imports run one way."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "recalign"
BELOW = {
    "cores": set(),
    "errors": set(),
    "workers": {"errors"},
    "configs": {"errors"},
    "files": {"errors"},
    "code": {"errors", "files"},
    "kept": {"errors", "files"},
    "keys": set(),
    "manual": set(),
    "processes": set(),
    "nn": {"errors"},
    "events": {"errors", "files", "kept"},
    "metrics": {"errors"},
    "factorization": set(),
    "simulation": {"errors", "events", "files", "kept"},
    "serving": {"errors", "files", "kept"},  # what answers knows nothing of what trains; `export` knows both
}
for room, lower in [
    ("sequences", {"code", "configs", "errors", "events", "files", "keys", "nn", "metrics", "processes", "workers"}),
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
    ("cli", {"chain", "commands", "export", "manual"}),
    ("__main__", {"cli"}),
]:
    BELOW[room] = lower | {deeper for name in lower for deeper in BELOW[name]}


def imported_rooms(path: Path) -> set[str]:
    """Rooms of recalign that a file imports, at its top or inside a function."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "recalign" else [module]
        rooms |= {name.split(".")[1] for name in names if name.startswith("recalign.")}
    return rooms - {"__version__"}


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


def test_events_and_metrics_free_of_the_other_side():
    for path in files():
        text = path.read_text()
        if room_of(path) == "events":
            assert "import torch" not in text
        if room_of(path) == "nn":
            assert "import polars" not in text
            assert "import lightning" not in text
        if room_of(path) == "serving":
            assert "import torch" not in text
            assert "import lightning" not in text
