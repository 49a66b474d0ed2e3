"""The ``recalign`` command: the first word decides."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from recalign import __version__
from recalign.errors import InputError, TrainingError, nearest

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
            f"recalign {__version__}: align a generative recommender with what users value, from logged feedback alone",
            "",
            "usage: recalign COMMAND [OPTIONS]      recalign COMMAND --help",
            "",
            *lines,
            "",
            EXIT,
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit code is the value.

    Args:
        argv: the words after ``recalign``; None: those of the process.
    """
    command, *words = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if command in ("-h", "--help"):
        print(usage())
        return 0
    if command == "--version":
        print(__version__)
        return 0
    try:
        _run(command, words)
    except InputError as error:
        print(f"recalign {command}: {error}", file=sys.stderr)
        return 2
    except TrainingError as error:
        print(f"recalign {command}: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print(f"recalign {command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would complain again at its exit
        return 141
    return 0


# Rooms are imported when a command asks for them: with Lightning that takes seconds.
def _run(command: str, words: list[str]) -> None:
    if command in ("fit", "validate", "test", "predict"):
        _stage([command, *words])
    elif command == "chain":
        from recalign.chain import chain

        chain(words)
    elif command in COMMANDS:
        _call(command, _functions()[command], words)
    else:
        near = nearest(command, COMMANDS)
        remedy = f"did you mean {near}?" if near else f"there are: {', '.join(COMMANDS)}"
        raise InputError("there is no such command", remedy=remedy)


def _stage(argv: list[str]) -> None:
    from recalign.stage import run_stage

    result = run_stage(argv)
    print(f"{result.folder.path}: {argv[0]} done" + (f", {result.checkpoint}" if argv[0] == "fit" else ""))


def _functions() -> dict[str, Callable[..., Any]]:
    """Commands that are plain functions."""
    from recalign import commands
    from recalign.evaluation.command import compare, report
    from recalign.simulation.command import simulate

    found = (commands.check, commands.recommend, compare, report, simulate)
    return {function.__name__: function for function in found}


def _call(name: str, function: Callable[..., Any], words: list[str]) -> None:
    from jsonargparse import ActionConfigFile

    from recalign.stage.parser import StageParser, constructing

    parser = StageParser(prog=f"recalign {name}", description=COMMANDS[name], allow_abbrev=False)
    parser.add_argument("--config", "-c", action=ActionConfigFile, help="YAML file with any of these settings")
    parser.add_function_arguments(function, as_positional=True)
    parsed = parser.parse_args(words)
    with constructing():
        settings = parser.instantiate(parsed).as_dict()
    del settings["config"]
    function(**settings)
