"""Tests of the default world measure its moments with `log_moments`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
