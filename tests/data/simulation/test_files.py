import errno
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from recalign.data.simulation.files import FILES, write
from recalign.data.simulation.world import SD, Simulated, World, simulate
from recalign.errors import InputError


def small(seed: int = 0) -> Simulated:
    return simulate(World(users=20, items=40, events=300, seed=seed))


def test_what_is_written_is_what_was_simulated(tmp_path: Path) -> None:
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


def test_a_world_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(small(0), tmp_path)
    before = {name: (folder / name).read_bytes() for name in FILES}

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(pl.DataFrame, "write_parquet", full)
        with pytest.raises(InputError, match="No space left on device") as caught:
            write(small(1), tmp_path)
    assert caught.value.where == str(folder)
    assert {name: (folder / name).read_bytes() for name in FILES} == before

    write(small(1), tmp_path)
    assert all((folder / name).read_bytes() != before[name] for name in FILES)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    with pytest.raises(InputError, match="taken") as caught:
        write(small(), tmp_path / "taken")
    assert "--out" in str(caught.value)
