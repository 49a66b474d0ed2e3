"""Write a simulated log for `conf/data/simulated.yaml` to read."""

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import numpy as np
import yaml

from recalign.data.events.log import SIMULATED
from recalign.data.simulation.world import SD, Simulated
from recalign.errors import InputError
from recalign.files import atomic_write

FILES = ("world.yaml", "truth.npz", "events.parquet")


def write(simulated: Simulated, out: Path) -> Path:
    """Write `simulated/` under `out`: world.yaml (the settings), truth.npz and events.parquet (the log).

    truth.npz holds `reward` float32 (users, items), the raw ids `users` and `items` of its rows and columns, and `sd`,
    the standard deviation of the true satisfaction. The files are renamed into place only when all three are complete,
    so a log never lies beside the truth of another world.

    Raises:
        InputError: the folder cannot be written.
    """
    folder = out / SIMULATED
    try:
        with ExitStack() as stack:
            settings, truth, log = (stack.enter_context(atomic_write(folder / name)) for name in FILES)
            settings.write_text(yaml.safe_dump(asdict(simulated.world), sort_keys=False))
            with truth.open("wb") as file:  # given a path, NumPy would add a suffix
                users, items = simulated.users, simulated.items
                np.savez(file, reward=simulated.truth_UI, users=users, items=items, sd=np.float64(SD))
            simulated.events.write_parquet(log)
    except OSError as error:
        text = f"the simulated log cannot be written: {error.strerror or error}"
        remedy = "give --out a folder that can be written and has room"
        raise InputError(text, where=str(folder), remedy=remedy) from error
    return folder
