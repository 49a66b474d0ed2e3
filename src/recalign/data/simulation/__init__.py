"""Simulated logs with known true rewards. NumPy and Polars, no torch."""

from recalign.data.simulation.simulate_command import write
from recalign.data.simulation.world import Simulated, World, simulate

__all__ = ["Simulated", "World", "simulate", "write"]
