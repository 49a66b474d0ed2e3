"""The command `recalign simulate`."""

from pathlib import Path
from typing import Any

from recalign.simulation.files import FILES, write
from recalign.simulation.moments import moments
from recalign.simulation.world import World
from recalign.simulation.world import simulate as draw


def simulate(out: Path = Path("data"), **settings: Any) -> None:
    """Make a log in a world whose true rewards are known.

    Args:
        out: data root; the log is written to its folder simulated/.
        settings: as for World.
    """
    simulated = draw(World(**settings))
    folder = write(simulated, out)
    for name in FILES:
        print(folder / name)
    events = simulated.events
    print(f"{len(events):,} events of {events['user'].n_unique():,} users on {events['item'].n_unique():,} items")
    for name, value in moments(events).items():
        print(f"  {name:24s} {value:8.3f}")
