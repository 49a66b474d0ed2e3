"""The ``recalign`` command: the first word decides."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from importlib import import_module
from importlib.metadata import version

from recalign.errors import InputError, TrainingError, nearest
from recalign.files import FULL, REFUSED, cannot_write, refused
from recalign.keys import split
from recalign.run import configs
from recalign.run.manual import STAGES, manual

COMMANDS = {
    "chain": "the main job: raw log -> recommender -> reward model -> A-SFT -> comparison and report",
    "update": "the next day: a finished chain goes on with its log as it has grown",
    "init": "describe a table of your own: guess what its columns mean and write the log's YAML",
    "check": "what a log holds and how it is divided, before any training",
    "rewards": "compare candidate rewards of a log, before any training",
    "prepare": "prepare a log that is larger than memory, in partitions of its users",
    "configs": "list the YAML that is shipped, or print one",
    "tune": "search the settings of one stage or method, and write the best as YAML for fit",
    "fit": "train one stage (LightningCLI): recommender, reward model, a post-training method",
    "validate": "validation figures of a trained stage",
    "test": "test figures of a trained stage",
    "predict": "each user's recommendations from a trained policy, to Parquet",
    "recommend": "a few users' recommendations, as a table",
    "export": "make a bundle of a policy: a folder that answers without the log and without torch",
    "items": "add new items to a bundle: they are known by their features, nothing is trained",
    "serve": "answer over HTTP from a bundle",
    "feedback": "join what a server has shown with what came of it: an event table with exposure",
    "offpolicy": "what a candidate's lists would have earned, from lists that a server drew",
    "monitor": "what has changed since a version was first served, week by week, and what to do",
    "compare": "the table of a chain's methods, from its run folders",
    "report": "the page report.html of a chain, from its run folders",
    "dashboard": "make a workspace in Weights & Biases: stages, methods, over-optimisation, sweeps",
    "tokenize": "semantic ids: write each item of a log as a few codes, for a recommender over codes",
    "simulate": "make a log whose true rewards are known",
}

KINDS = {
    "chain": ("chain",),
    "check": ("data",),
    "rewards": ("data",),
    "tokenize": ("data",),
    "prepare": ("data",),
    **dict.fromkeys((*STAGES, "tune"), ("", "data")),
}
"""Commands that take names of YAML, and the folder of conf/ that each name is first looked for in."""

MODULES = {
    **dict.fromkeys(("check", "prepare", "recommend", "rewards"), "run.commands"),
    **dict.fromkeys(("compare", "report"), "evaluation.report"),
    "chain": "run.chain",
    "dashboard": "run.chain.dashboard",
    "export": "serve.export.command",
    "feedback": "serve.feedback.feedback_command",
    "init": "data.events.init_command",
    "items": "serve.export.new_items",
    "monitor": "serve.loop.monitor_command",
    "offpolicy": "serve.loop.offpolicy_command",
    "serve": "serve.server.command",
    "simulate": "data.simulation.simulate_command",
    "tune": "run.chain.tune",
    "update": "run.chain.update",
}
"""Commands that are functions of the same name, and where these are."""

READERS = ("chain", "feedback", "init", "items", "monitor", "offpolicy", "serve", "tune", "update")
"""Commands of these that read their own words; the options of the others are the function's arguments."""

USAGE = """\
recalign {version}: align a generative recommender with what users value, from logged feedback alone

usage: recalign COMMAND [NAME ...] [OPTIONS]      recalign COMMAND --help

{commands}

NAME is a YAML file or the name of one that is shipped; it stands for --config FILE:
  recalign chain ml-100k
  recalign fit asft ml-1m --model.temperature 0.5

exit codes: 0 done, 1 a bug (check --strict: the log is not usable without care; monitor --strict: the newest window has
an alarm), 2 the input cannot be used (the message says why), 3 training failed, 130 interrupted,
143 told to end (SIGTERM); fit --ckpt_path last goes on"""


def usage() -> str:
    """What ``recalign --help`` prints."""
    commands = "\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())
    return USAGE.format(version=version("recalign"), commands=commands)


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit code is the value.

    Args:
        argv: the words after ``recalign``; None: those of the process.
    """
    command, *words = (sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        _run(command, words)
    except (InputError, TrainingError) as error:
        print(f"recalign {command}: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 3
    except KeyboardInterrupt as stop:
        remedy = "the same command goes on where it stopped" if command in ("chain", "tune", "update") else str(stop)
        print(f"recalign {command}: interrupted" + (f"\n  -> {remedy}" if remedy else ""), file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would complain again at its exit
        return 141
    except OSError as error:
        if error.errno not in (*FULL, *REFUSED):
            raise
        said = cannot_write(error) if error.errno in FULL else refused(error)
        print(f"recalign {command}: {said}", file=sys.stderr)
        return 2
    return 0


def with_config_files(command: str, words: list[str]) -> list[str]:
    """Replace names by the files they stand for: ``chain ml-100k`` -> ``--config .../conf/chain/ml-100k.yaml``.

    Args:
        command: a key of `KINDS`.
        words: those after it; names stand before the first option, or follow ``--config``.

    Raises:
        InputError: a name is neither a file nor shipped.
    """
    kinds = itertools.chain(KINDS[command], itertools.repeat(KINDS[command][-1]))
    found: list[str] = []
    names = True
    for option, value, own in split(words):
        names = names and not option
        named = names or option in ("--config", "-c")
        found += ["--config", str(configs.find(value, next(kinds)))] if named and value is not None else own
    return found


# Rooms are imported when a command asks for them: with Lightning that takes seconds.
def _run(command: str, words: list[str]) -> None:
    asked = words in (["-h"], ["--help"])
    if command in KINDS:
        words = with_config_files(command, words)
    if command in ("-h", "--help"):
        print(usage())
    elif command == "--version":
        print(version("recalign"))
    elif asked and (text := manual(command, COMMANDS.get(command, ""))):
        print(text)
    elif command in STAGES:
        _stage([command, *words])
    elif command == "configs":
        _configs(words)
    elif command == "tokenize":
        from recalign.run.stage.tokens import parse_tokens

        parse_tokens(words).make()
    elif command in MODULES:
        function = getattr(import_module(f"recalign.{MODULES[command]}"), command)
        if command in READERS:
            function(words)
        else:
            from recalign.run.stage.settings import instantiated, parse_call

            function(**instantiated(*parse_call(command, COMMANDS[command], function, words)))
    else:
        near = nearest(command, COMMANDS)
        remedy = f"did you mean {near}?" if near else f"there are: {', '.join(COMMANDS)}"
        raise InputError("there is no such command", remedy=remedy)


def _configs(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="recalign configs", description=COMMANDS["configs"])
    parser.add_argument("name", nargs="?", help="the one to print, such as asft or chain/ml-100k")
    parser.add_argument(
        "--schema", choices=("stage", "chain"), help="print its JSON Schema, by which an editor checks it"
    )
    given = parser.parse_args(words)
    if given.schema:
        from recalign.run.chain.schema import schema

        print(json.dumps(schema(given.schema)))
    else:
        name = given.name
        print(configs.find(name).read_text(encoding="utf-8").rstrip() if name else configs.listing())


def _stage(argv: list[str]) -> None:
    from recalign.run.stage import parse_stage, run_stage

    result = run_stage(parse_stage(argv))
    if result.trainer.is_global_zero:
        checkpoint = result.checkpoint if argv[0] == "fit" else None  # a dry run has none
        print(f"{result.folder.path}: {argv[0]} done" + (f", {checkpoint}" if checkpoint else ""))
