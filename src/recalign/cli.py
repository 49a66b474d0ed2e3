"""The ``recalign`` command: the first word decides."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from recalign import __version__
from recalign.errors import InputError

COMMANDS = {
    "chain": "the main job: raw log -> recommender -> reward model -> A-SFT -> comparison and report",
    "check": "what a log holds and how it is divided, before any training",
    "fit": "train one stage (LightningCLI): recommender, reward model, a post-training method",
    "validate": "validation figures of a trained stage",
    "test": "test figures of a trained stage",
    "predict": "each user's recommendations from a trained policy, to Parquet",
    "recommend": "a few users' recommendations, as a table",
    "compare": "the table of a chain's methods, from its run folders",
    "report": "the page report.html of a chain, from its run folders",
    "simulate": "make a log whose true rewards are known",
}

EXIT = """exit codes: 0 done, 1 a bug, 2 the input cannot be used (the message says why), 3 training failed"""


def usage() -> str:
    """What ``recalign --help`` prints."""
    lines = [f"  {name:<10} {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            f"recalign {__version__}: align a generative recommender with what users value, from logged feedback alone.",
            "",
            "usage: recalign COMMAND [OPTIONS]      recalign COMMAND --help",
            "",
            *lines,
            "",
            EXIT,
        ]
    )
