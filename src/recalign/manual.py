"""A command's help, read from its source without importing it: with Lightning that would take seconds."""

from __future__ import annotations

import ast
from pathlib import Path
from textwrap import fill

DESCRIBED = {
    "chain": ("chain/experiment.py", "Chain"),
    "check": ("commands.py", "check"),
    "compare": ("evaluation/report.py", "compare"),
    "dashboard": ("chain/dashboard.py", "dashboard"),
    "export": ("export/command.py", "export"),
    "prepare": ("commands.py", "prepare"),
    "recommend": ("commands.py", "recommend"),
    "report": ("evaluation/report.py", "report"),
    "simulate": ("simulation/world.py", "World"),
    "tune": ("chain/tune.py", "Tune"),
    "tokenize": ("semantic_ids/tokenize_command.py", "tokenize"),
}
"""Commands, and the function or class whose arguments are their options; those without are as fast as this."""

STAGE = """\
NAME ...             YAML of the stage and of the log, such as: asft ml-1m
--config FILE        the same, as files; later ones win
--model.KEY VALUE    a setting of the model, such as --model.lr 1e-5
--data.KEY VALUE     a setting of the data, such as --data.root DIR
--trainer.KEY VALUE  a setting of Lightning's Trainer, such as --trainer.max_epochs 3
--early_stopping.KEY VALUE
                     of Lightning's EarlyStopping, such as --early_stopping.patience 8
--optimizer NAME, --lr_scheduler NAME, --optimizer.KEY VALUE
                     of torch, in place of the stage's own, such as SGD, StepLR
--seed_everything N  the seed
--run.KEY VALUE      where the run's folder is: name, root, chain
--ckpt_path last     go on with this run where it stopped
--print_config       print the whole configuration and stop"""
"""Options of the commands that run a stage."""

STAGES = ("fit", "validate", "test", "predict")
WIDTH = 80


def manual(command: str, summary: str) -> str | None:
    """What ``recalign COMMAND --help`` prints; None for a command that is not described here.

    Args:
        command: the first word.
        summary: what it does.
    """
    if command in STAGES:
        takes, options = "NAME ... ", STAGE
    elif command in DESCRIBED:
        node = _source(*DESCRIBED[command])
        takes, options = _takes(node), _options(node)
    else:
        return None
    full = f"\n\nAll options, with types: recalign {command} {takes.split()[0]} --help" if takes else ""
    return f"usage: recalign {command} {takes}[OPTIONS]\n\n{summary}\n\n{options}{full}"


def _source(file: str, name: str) -> ast.ClassDef | ast.FunctionDef:
    tree = ast.parse((Path(__file__).parent / file).read_text(encoding="utf-8"))
    return next(node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name)


def _takes(node: ast.ClassDef | ast.FunctionDef) -> str:
    """What stands before the options: the function's required arguments, or names of YAML."""
    if isinstance(node, ast.ClassDef):
        return "" if node.name == "World" else "NAME "  # every other one is the content of a YAML file
    if any(argument.arg == "data" for argument in node.args.kwonlyargs):
        return "NAME "
    return "".join(f"{name.upper()} " for name in _required(node))


def _required(node: ast.FunctionDef) -> list[str]:
    return [argument.arg for argument in node.args.args[: len(node.args.args) - len(node.args.defaults)]]


def _options(node: ast.ClassDef | ast.FunctionDef) -> str:
    """The documented arguments of a function, or attributes of a class."""
    from docstring_parser import parse  # a server alone does without

    required = _required(node) if isinstance(node, ast.FunctionDef) else []
    lines = []
    for argument in parse(ast.get_docstring(node) or "").params:
        name = argument.arg_name
        lines.append(name.upper() if name in required else f"--{name}")
        text = " ".join((argument.description or "").split())
        lines.append(fill(text, WIDTH, initial_indent="    ", subsequent_indent="    "))
    return "\n".join(lines)
