"""The calibration of the default world is a benchmark, which tests import."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
