"""The command `recalign simulate`: write a log for `conf/logs/simulated.yaml`, or that of a made-up shop."""

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from recalign.data.events.log import SIMULATED
from recalign.data.simulation import shop as shops
from recalign.data.simulation import world
from recalign.data.simulation.world import SD, Simulated, World
from recalign.errors import InputError
from recalign.files import atomic_write

FILES = ("world.yaml", "truth.npz", "events.parquet")


def simulate(out: Path = Path("data"), shop: Path | None = None, **settings: Any) -> None:
    """Simulate a log with known true rewards, or the log of a made-up shop.

    Args:
        out: the data root; its folder simulated/ gets the log.
        shop: a CSV file that gets a shop's events instead: 400 customers, text ids, dates and stars. Its products, with
            titles and categories, come beside it. Of the settings, only the seed applies.
        settings: fields of `World`.

    Raises:
        InputError: a setting is out of range, or a shop has other settings or would overwrite another file.
    """
    wanted = World(**settings)
    if shop:
        if wanted != World(seed=wanted.seed) or shop.suffix != ".csv" or out != Path("data"):
            remedy = "give --shop FILE.csv, and at most --seed besides"
            raise InputError("it takes a .csv file, and no other option but --seed", where="shop", remedy=remedy)
        simulated = world.simulate(shops.shop(wanted.seed))
        print(shop, shops.write(simulated, shop), sep="\n")
    else:
        simulated = world.simulate(wanted)
        folder = write(simulated, out)
        print(*(folder / name for name in FILES), sep="\n")
    events = simulated.events
    print(f"{len(events):,} events of {events['user'].n_unique():,} users on {events['item'].n_unique():,} items")


def write(simulated: Simulated, out: Path) -> Path:
    """Write `simulated/` under `out`: world.yaml (the settings), truth.npz and events.parquet (the log).

    truth.npz holds `reward` float32 (users, items), the raw ids `users` and `items` of its rows and columns, and `sd`,
    the standard deviation of the true satisfaction. The files are renamed into place only when all three are complete.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = out / SIMULATED
    with ExitStack() as stack:
        settings, truth, log = (stack.enter_context(atomic_write(folder / name)) for name in FILES)
        settings.write_text(yaml.safe_dump(asdict(simulated.world), sort_keys=False))
        with truth.open("wb") as file:  # given a path, NumPy would add a suffix
            users, items = simulated.users, simulated.items
            np.savez(file, reward=simulated.truth_UI, users=users, items=items, sd=np.float64(SD))
        simulated.events.write_parquet(log)
    return folder
