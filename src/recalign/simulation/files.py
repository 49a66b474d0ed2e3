"""A simulated log on disk, as `conf/data/simulated.yaml` reads it."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import yaml

from recalign.errors import InputError
from recalign.simulation.world import SD, Simulated

FILES = ("world.yaml", "truth.npz", "events.parquet")


def write(simulated: Simulated, out: Path) -> Path:
    """Writes `simulated/` under `out`: world.yaml (the settings), truth.npz and events.parquet (the log).

    truth.npz holds `reward` float32 (users, items), the raw ids `users` and `items` of its rows and columns, and `sd`,
    the standard deviation of the true satisfaction that sizes are measured in. All three are written under other names
    first: a log never stands beside the truth of another world.

    Returns:
        the folder.

    Raises:
        InputError: the folder cannot be written.
    """
    folder = out / "simulated"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        settings, truth, log = (folder / f"{name}.part" for name in FILES)
        settings.write_text(yaml.safe_dump(asdict(simulated.world), sort_keys=False))
        with truth.open("wb") as file:  # given a name, numpy would add a suffix to it
            np.savez(file, reward=simulated.truth_UI, users=simulated.users, items=simulated.items, sd=np.float64(SD))
        simulated.events.write_parquet(log)
        for part in (settings, truth, log):
            part.replace(part.with_suffix(""))
    except OSError as error:
        raise InputError(
            f"the simulated log cannot be written: {error.strerror or error}",
            where=str(folder),
            remedy="name with --out a folder that can be written and has room",
        ) from error
    return folder
