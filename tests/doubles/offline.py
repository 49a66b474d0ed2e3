"""Read an offline run of W&B back: the records of its .wandb file."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import wandb
from wandb.proto import wandb_internal_pb2

BLOCK, HEADER = 2**15, 7


@dataclass
class Offline:
    """What a run logged.

    Attributes:
        run: group, job type, name, project.
        config: by key.
        history: rows, in order.
        summary: last row of each figure, unless W&B was told of another.
        best: what W&B was told the summary of a figure is.
        artifacts: by name.
        files: in the run's folder, by path.
    """

    run: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    best: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)

    def column(self, name: str) -> list[Any]:
        """A figure's values."""
        return [row[name] for row in self.history if name in row]

    def table(self, name: str) -> dict[str, Any]:
        """Columns and data of a table that was logged."""
        path = self.files[self.summary[f"{name}/path"]]
        return json.loads(path.read_text())


def read(folder: Path) -> Offline:
    """The only offline run below a folder."""
    wandb.teardown()  # a finished run is still being written by W&B's own process: wait for that to end
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    found, kept = Offline(), file.parent / "files"
    found.files = {str(path.relative_to(kept)): path for path in kept.rglob("*") if path.is_file()}
    for content in _records(file.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            one = record.run
            found.run = {"group": one.run_group, "job_type": one.job_type, "name": one.display_name, "id": one.run_id}
            found.run["project"] = one.project
            found.config |= _items(one.config.update)
        elif kind == "config":
            found.config |= _items(record.config.update)
        elif kind == "history":
            found.history.append(_items(record.history.item))
        elif kind == "summary":
            found.summary |= _items(record.summary.update)
        elif kind == "metric":
            chosen = record.metric.summary
            found.best[record.metric.name] = next((name for name in ("min", "max") if getattr(chosen, name)), "")
        elif kind == "artifact":
            one = record.artifact
            files = [entry.path for entry in one.manifest.contents]
            found.artifacts[one.name] = {"type": one.type, "metadata": json.loads(one.metadata or "{}"), "files": files}
    return found


def _items(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(content: bytes) -> list[bytes]:
    """The records of LevelDB's log format, which begins with a header of W&B's own."""
    records, place, whole = [], 7, b""
    while place + HEADER <= len(content):
        if BLOCK - place % BLOCK < HEADER:  # padding
            place += BLOCK - place % BLOCK
            continue
        _, size, kind = struct.unpack("<IHB", content[place : place + HEADER])
        whole += content[place + HEADER : place + HEADER + size]
        place += HEADER + size
        if kind in (1, 4):  # full, last
            records.append(whole)
            whole = b""
    return records
