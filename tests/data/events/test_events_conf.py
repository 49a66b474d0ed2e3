"""The logs' YAML: typed by `LogMapping`, and right about the logs themselves where those are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser

from recalign.data.events import LogMapping, audit, load_events

CONF = Path(__file__).parents[3] / "conf" / "logs"
DOCS = Path(__file__).parents[3] / "docs"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))


def settings(name: str) -> dict:
    return yaml.safe_load((CONF / f"{name}.yaml").read_text())["data"]


def log_of(name: str) -> LogMapping:
    """A log's mapping as the command reads it: an unknown key or a value of another type is an error."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--log", type=LogMapping)
    log = parser.instantiate(parser.parse_object({"log": settings(name)["log"]})).log
    assert isinstance(log, LogMapping)
    return log


@pytest.mark.parametrize("name", NAMES)
def test_shipped_logs_are_typed_and_named_after_their_files(name):
    assert log_of(name).name == name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rows", "users", "items"),
    [
        ("ml-100k", 100_000, 943, 1_682),
        ("ml-1m", 1_000_209, 6_040, 3_706),
        ("kuairand-pure-excerpt", 1_039_644, 27_077, 7_502),
        ("coat", 11_600, 290, 300),
    ],
)
def test_shipped_logs_have_their_known_sizes(name, rows, users, items):
    root = Path(os.environ.get("RECALIGN_DATA", "nowhere"))
    places = {"ml-1m": "ml-1m.zip", "ml-100k": "ml-100k*"}
    if not list(root.glob(places.get(name, name))):
        pytest.skip(f"{name} is not under RECALIGN_DATA")
    table = load_events(log_of(name), root, settings(name)["reward"])
    assert (table.frame.height, len(table.users), len(table.items)) == (rows, users, items)
    assert audit(table)["reward"]["events with a reward"] > 10_000


def test_csv_in_the_docs_is_read_by_its_yaml(tmp_path):
    page = (DOCS / "formats.md").read_text()
    (tmp_path / "own-log.csv").write_text(page.split("```csv\n")[1].split("```")[0])
    table = load_events(log_of("own-log"), tmp_path, settings("own-log")["reward"])
    assert table.frame.height == 5
    assert table.items.to_list() == ["chair", "kettle", "lamp, green"]
    assert table.frame["reward"].null_count() == 1
