import errno
from dataclasses import fields
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from jsonargparse import ArgumentParser

from recalign.data.simulation import world
from recalign.data.simulation.simulate_command import FILES, simulate, write
from recalign.data.simulation.world import SD, Simulated, World

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


def test_simulate_has_an_option_with_help_for_every_setting(parser: ArgumentParser) -> None:
    defaults = parser.get_defaults().as_dict()
    assert defaults["out"] == Path("data")
    assert {field.name: defaults[field.name] for field in fields(World)} == {
        field.name: field.default for field in fields(World)
    }
    text = " ".join(parser.format_help().split())
    assert "share of the events without a recorded reward. (type: float, default: 0.1)" in text


def test_written_settings_make_the_same_world(parser: ArgumentParser, tmp_path: Path) -> None:
    run(parser, *SMALL, "--fashion", "1", "--out", str(tmp_path / "first"))
    settings = tmp_path / "first" / "simulated" / "world.yaml"
    run(parser, "--config", str(settings), "--out", str(tmp_path / "second"))
    first, second = (tmp_path / name / "simulated" / "events.parquet" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


def small(seed: int = 0) -> Simulated:
    return world.simulate(World(users=20, items=40, events=300, seed=seed))


def test_written_files_equal_the_simulation(tmp_path: Path) -> None:
    simulated = small()
    folder = write(simulated, tmp_path / "new" / "root")
    assert folder == tmp_path / "new" / "root" / "simulated"
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert pl.read_parquet(folder / "events.parquet").equals(simulated.events)
    with np.load(folder / "truth.npz", allow_pickle=False) as truth:
        assert (truth["reward"] == simulated.truth_UI).all()
        assert truth["reward"].dtype == np.float32
        assert truth["users"].tolist() == list(range(1, 21))
        assert truth["items"].tolist() == list(range(1, 41))
        assert truth["sd"] == SD
    assert World(**yaml.safe_load((folder / "world.yaml").read_text())) == simulated.world


def test_write_replaces_all_files_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(small(0), tmp_path)
    before = {name: (folder / name).read_bytes() for name in FILES}

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(pl.DataFrame, "write_parquet", full)
        with pytest.raises(OSError, match="No space left on device"):
            write(small(1), tmp_path)
    assert {name: (folder / name).read_bytes() for name in FILES} == before

    write(small(1), tmp_path)
    assert all((folder / name).read_bytes() != before[name] for name in FILES)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
