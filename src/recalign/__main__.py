"""``python -m recalign``."""

import sys

from recalign.cli import main

sys.exit(main())
