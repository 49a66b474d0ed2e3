from dataclasses import fields
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from recalign.data.simulation.simulate_command import simulate
from recalign.data.simulation.world import World

SMALL = ["--users", "20", "--items", "40", "--events", "300"]


@pytest.fixture
def parser() -> ArgumentParser:
    parser = ArgumentParser(prog="simulate", exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_function_arguments(simulate)
    return parser


def run(parser: ArgumentParser, *arguments: str) -> None:
    settings = parser.parse_args(arguments).as_dict()
    del settings["config"]
    simulate(**settings)


def test_every_setting_of_a_world_is_a_flag_with_its_default_and_its_help(parser: ArgumentParser) -> None:
    defaults = parser.get_defaults().as_dict()
    assert defaults["out"] == Path("data")
    assert {field.name: defaults[field.name] for field in fields(World)} == {
        field.name: field.default for field in fields(World)
    }
    text = " ".join(parser.format_help().split())
    assert "share of the events without a recorded reward. (type: float, default: 0.1)" in text


def test_the_settings_of_a_world_make_it_again(parser: ArgumentParser, tmp_path: Path) -> None:
    run(parser, *SMALL, "--fashion", "1", "--out", str(tmp_path / "first"))
    settings = tmp_path / "first" / "simulated" / "world.yaml"
    run(parser, "--config", str(settings), "--out", str(tmp_path / "second"))
    first, second = (tmp_path / name / "simulated" / "events.parquet" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
