"""The ``recalign`` command line: the first argument names the subcommand."""

from __future__ import annotations

import argparse
import errno
import itertools
import os
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from recalign.errors import InputError, TrainingError, nearest
from recalign.files import FULL
from recalign.run import configs
from recalign.run.words import iter_options

REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
"""Error numbers of a path that cannot be read or written."""


class Folder(NamedTuple):
    """A kind of folder that a command takes as its first argument; it holds at least one of ``files``."""

    what: str
    files: tuple[str, ...]
    remedy: str


class Command(NamedTuple):
    """A subcommand.

    Attributes:
        summary: what it does.
        function: import path below ``recalign``; imported only when it is called, because Lightning takes seconds.
        names: for each YAML argument, the folder of conf/ to search first; the last is for all further ones.
        folder: the kind of folder that its first argument names.
    """

    summary: str
    function: str
    names: tuple[str, ...] = ()
    folder: Folder | None = None


LOG, STAGE, FIT = ("logs",), ("", "logs"), "run.stage.command.run_command"
RUN = Folder(
    "run",
    ("config.yaml", "evaluation"),  # of a stage, of a row without a stage
    "name the run folder of a policy: runs/<chain>/<method>/seed-<n>; for the start, <method> is recommender",
)
EXPORTED = RUN._replace(files=(*RUN.files, "chain.json"), remedy=f"{RUN.remedy}; or a chain's: runs/<chain>")
BUNDLE = Folder("bundle", ("bundle.json", "current", "bundles", "bundles.json"), "recalign export RUN writes one")
COMMANDS = {
    "chain": Command("train, post-train and compare policies of a log, and report", "run.chain.chain", ("chains",)),
    "update": Command("continue a finished chain on a log that has grown", "run.chain.update.update"),
    "init": Command("write the YAML that describes your own table of events", "data.events.init_command.init"),
    "check": Command("report what a log holds and whether it can be trained on", "run.commands.check", LOG),
    "rewards": Command("compare candidate rewards of a log, before any training", "run.commands.rewards", LOG),
    "prepare": Command("prepare a log that is larger than memory", "run.commands.prepare", LOG),
    "configs": Command("list the shipped YAML files, or print one", "cli._configs"),
    "tune": Command("search the settings of a stage, and write the best as YAML", "run.chain.tune.tune", STAGE),
    "fit": Command("train one stage: a recommender, a reward model or a post-training method", FIT, STAGE),
    "validate": Command("compute the validation metrics of a trained stage", FIT, STAGE),
    "test": Command("compute the test metrics of a trained stage", FIT, STAGE),
    "predict": Command("write every user's recommendations to Parquet", FIT, STAGE),
    "recommend": Command("print a few users' recommendations as a table", "run.commands.recommend", folder=RUN),
    "export": Command("make a bundle of a policy, to be served", "serve.export.command.export", folder=EXPORTED),
    "items": Command("add new items to a bundle by their features", "serve.export.new_items.items"),
    "serve": Command("serve a bundle over HTTP", "serve.server.command.serve", folder=BUNDLE),
    "feedback": Command("join served lists with their outcomes", "serve.feedback.feedback_command.feedback"),
    "offpolicy": Command(
        "estimate the value of a candidate from served lists", "serve.loop.offpolicy_command.offpolicy"
    ),
    "monitor": Command("report changes since a version was first served", "serve.loop.monitor_command.monitor"),
    "compare": Command("compare a chain's methods again, from its run folders", "evaluation.report.compare"),
    "report": Command("write report.html of a chain again, from its run folders", "evaluation.report.report"),
    "dashboard": Command("create a workspace in Weights & Biases", "run.chain.published.dashboard"),
    "tokenize": Command("write each item as a few codes (semantic ids)", "run.stage.tokens.run_command", LOG),
    "simulate": Command("simulate a log whose true rewards are known", "data.simulation.simulate_command.simulate"),
}
STAGES = [name for name, command in COMMANDS.items() if command.function == FIT]
READ_WORDS = (*STAGES, "chain", "update", "init", "configs", "tune", "serve", "feedback", "tokenize")
"""Commands that parse their arguments themselves; for the others, function arguments become options."""

STAGE_HELP = """\
usage: recalign {command} NAME ... [OPTIONS]

{summary}

NAME ...             YAML files of the stage and the log, such as: asft ml-1m
--config FILE        the same by path; later files override earlier ones
--model.KEY VALUE    a setting of the model, such as --model.lr 1e-5
--data.KEY VALUE     a setting of the data, such as --data.root DIR
--trainer.KEY VALUE  a setting of Lightning's Trainer, such as --trainer.max_epochs 3
--early_stopping.KEY VALUE
                     a setting of Lightning's EarlyStopping, such as --early_stopping.patience 8
--optimizer NAME, --lr_scheduler NAME, --optimizer.KEY VALUE
                     torch's, in place of the stage's own, such as SGD, StepLR
--seed_everything N  the random seed; it also names the run folder
--run.KEY VALUE      the run folder <root>/<chain>/<name>/seed-<n>; KEY is root, chain or name
--wandb MODE         Weights & Biases: online, offline (default), or false for no logging
--threads N          torch threads (default: number of idle cores; when resuming, as in the first run)
--ckpt_path last     resume this run where it stopped
--print_config       print the whole configuration and stop

All options, with types: recalign {command} NAME --help"""

USAGE = """\
recalign {version}: align a generative recommender with what users value, from logged feedback alone

usage: recalign COMMAND [NAME ...] [OPTIONS]      recalign COMMAND --help

{commands}

NAME is a YAML file, or the name of a shipped one; it is short for --config FILE:
  recalign chain ml-100k
  recalign fit asft ml-1m --model.temperature 0.5

exit codes: 0 done; 1 internal error (please report); 2 invalid input; 3 training failed;
4 --strict: concerns (check), an alarm or overdue lists (monitor); 130 interrupted; 141 output closed; 143 SIGTERM.
Resume a fit with --ckpt_path last."""


def usage() -> str:
    """What ``recalign --help`` prints."""
    commands = "\n".join(f"  {name:<10} {one.summary}" for name, one in COMMANDS.items())
    return USAGE.format(version=version("recalign"), commands=commands)


def main(argv: list[str] | None = None) -> int:
    """Run a command from its command-line arguments (None: ``sys.argv[1:]``). Returns the exit code."""
    command, *words = (sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        _run(command, words)
    except (InputError, TrainingError) as error:
        print(f"recalign {command}: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 3
    except KeyboardInterrupt as stop:
        remedy = "give the same command again to go on" if command in ("chain", "tune", "update") else str(stop)
        print(f"recalign {command}: interrupted" + (f"\n  -> {remedy}" if remedy else ""), file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader has closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains again at exit
        return 141
    except OSError as error:
        if error.errno not in (*FULL, *REFUSED):
            raise
        print(f"recalign {command}: {_unusable(error)}", file=sys.stderr)
        return 2
    return 0


def _unusable(error: OSError) -> InputError:
    """The message for a path that cannot be read or written; for a full disk, with its mount point."""
    where = None if error.filename is None else str(error.filename)
    if error.errno not in FULL:
        remedy = "check its permissions, or name another path"
        return InputError(error.strerror or str(error), where=where, remedy=remedy)
    place = Path(where or Path.cwd()).resolve()
    mount = next(one for one in (place, *place.parents) if one.is_mount())
    what = f"cannot be written: {error.strerror} (disk mounted at {mount})"
    return InputError(what, where=where, remedy="free space there, or write elsewhere")


def with_config_files(command: str, words: list[str]) -> list[str]:
    """Replace names by the files they stand for: ``chain ml-100k`` -> ``--config .../conf/chains/ml-100k.yaml``.

    Names stand before the first option, or follow ``--config``.

    Raises:
        InputError: a name is neither a file nor shipped.
    """
    kinds = itertools.chain(COMMANDS[command].names, itertools.repeat(COMMANDS[command].names[-1]))
    found: list[str] = []
    names = True
    for option, value, own in iter_options(words):
        names = names and not option
        if option == "--log" and value:  # before slow imports
            configs.find(value, "logs")
        named = names or option in ("--config", "-c")
        found += ["--config", str(configs.find(value, next(kinds)))] if named and value is not None else own
    return found


def require_folder(kind: Folder, words: list[str]) -> None:
    """Refuse a folder of the wrong kind before slow imports.

    Raises:
        InputError: it holds none of the files of this kind.
    """
    named = next((value for option, value, _ in iter_options(words) if option in ("", "--run") and value), None)
    if named is not None and not any((Path(named) / file).exists() for file in kind.files):
        raise InputError(f"there is no {kind.what} in this folder", where=named, remedy=kind.remedy)


def _run(command: str, words: list[str]) -> None:
    if command in ("-h", "--help"):
        print(usage())
        return
    if command == "--version":
        print(version("recalign"))
        return
    if command not in COMMANDS:
        near = nearest(command, COMMANDS)
        remedy = f"did you mean {near}?" if near else f"there are: {', '.join(COMMANDS)}"
        raise InputError("there is no such command", remedy=remedy)
    one = COMMANDS[command]
    if command in STAGES and words in (["-h"], ["--help"]):
        print(STAGE_HELP.format(command=command, summary=one.summary))
        return
    words = _choose_wandb(words)
    if one.folder:
        require_folder(one.folder, words)
    words = with_config_files(command, words) if one.names else words
    module, _, name = one.function.rpartition(".")
    function = getattr(import_module(f"recalign.{module}"), name)
    if command in READ_WORDS:
        function([command, *words] if command in STAGES else words)
    else:
        from recalign.run.stage.settings import instantiated, parse_call

        function(**instantiated(*parse_call(command, one.summary, function, words)))


def _choose_wandb(words: list[str]) -> list[str]:
    """Remove ``--wandb online|offline|false`` and set WANDB_MODE, which child processes inherit."""
    kept: list[str] = []
    modes = {"online": "online", "offline": "offline", "false": "disabled"}
    for option, value, own in iter_options(words):
        if option != "--wandb":
            kept += own
        elif value in modes:
            os.environ["WANDB_MODE"] = modes[value]
        else:
            what = f"must be {' or '.join(modes)}, not {value or 'empty'}"
            raise InputError(what, where=option, remedy="leave it out for offline")
    return kept


def _configs(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="recalign configs", description=COMMANDS["configs"].summary)
    parser.add_argument("name", nargs="?", help="file to print, such as asft or chains/ml-100k")
    name = parser.parse_args(words).name
    print(configs.find(name).read_text(encoding="utf-8").rstrip() if name else configs.listing())
