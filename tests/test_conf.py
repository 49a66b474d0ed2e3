"""Every YAML under conf/ is commented line by line, and means something to the code it configures."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

CONF = Path(__file__).parents[1] / "conf"
ALL = sorted(CONF.rglob("*.yaml"))


def name(path: Path) -> str:
    return str(path.relative_to(CONF))


@pytest.mark.parametrize("path", ALL, ids=name)
def test_every_value_is_explained(path: Path):
    bare = []
    previous = ""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        text = line.strip()
        sets_a_value = text and not text.startswith("#") and not text.endswith(":") and "class_path" not in text
        if sets_a_value and " #" not in line and not previous.startswith("#"):
            bare.append(f"{number}: {text}")
        previous = text
    assert not bare


@pytest.mark.parametrize("path", sorted((CONF / "data").glob("*.yaml")), ids=name)
def test_a_logs_yaml_leaves_nothing_to_the_log_before_it(path: Path):
    """A log's YAML is read over ML-100K's defaults, so it has to set whatever ML-100K sets."""
    data = yaml.safe_load(path.read_text())["data"]
    assert {"log", "reward", "high", "split", "max_length"} <= set(data)
    assert {"name", "files"} <= set(data["log"])
    assert "class_path" not in data
    if data["high"] is not None:
        assert "expression" in data["high"]
