from dataclasses import fields
from pathlib import Path

import polars as pl
import pytest
import yaml
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


def test_the_command_writes_the_log_and_says_what_it_wrote(
    parser: ArgumentParser, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(parser, *SMALL, "--noise", "0.5", "--noise_kind", "heavy", "--seed", "3", "--out", str(tmp_path))
    said, log = capsys.readouterr().out, tmp_path / "simulated" / "events.parquet"
    assert str(log) in said
    assert f"300 events of 20 users on {pl.read_parquet(log)['item'].n_unique()} items" in said
    settings = yaml.safe_load((tmp_path / "simulated" / "world.yaml").read_text())
    assert (settings["noise"], settings["noise_kind"], settings["seed"], settings["habit"]) == (0.5, "heavy", 3, 5.0)


def test_the_settings_of_a_world_make_it_again(parser: ArgumentParser, tmp_path: Path) -> None:
    run(parser, *SMALL, "--fashion", "1", "--out", str(tmp_path / "first"))
    settings = tmp_path / "first" / "simulated" / "world.yaml"
    run(parser, "--config", str(settings), "--out", str(tmp_path / "second"))
    first, second = (tmp_path / name / "simulated" / "events.parquet" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
