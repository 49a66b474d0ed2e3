"""The command `recalign simulate`."""

from pathlib import Path
from typing import Any

from recalign.data.simulation.files import FILES, write
from recalign.data.simulation.world import World
from recalign.data.simulation.world import simulate as draw


def simulate(out: Path = Path("data"), **settings: Any) -> None:
    """Simulate a log with known true rewards.

    Args:
        out: the data root; its folder simulated/ gets the log.
        settings: fields of `World`.
    """
    simulated = draw(World(**settings))
    folder = write(simulated, out)
    for name in FILES:
        print(folder / name)
    events = simulated.events
    print(f"{len(events):,} events of {events['user'].n_unique():,} users on {events['item'].n_unique():,} items")
