"""A command's help, read from its source without importing it: with Lightning that would take seconds."""

from __future__ import annotations

import ast
from pathlib import Path
from textwrap import fill

DESCRIBED = {
    "chain": ("NAME ", "run/chain/experiment.py", "Chain"),
    "check": ("NAME ", "run/commands.py", "check"),
    "compare": ("FOLDER ", "evaluation/report.py", "compare"),
    "dashboard": ("", "run/chain/dashboard.py", "dashboard"),
    "export": ("RUN ", "serve/export/command.py", "export"),
    "items": ("add BUNDLE FILE ", "serve/export/new_items.py", "add_items"),
    "prepare": ("NAME ", "run/commands.py", "prepare"),
    "recommend": ("RUN ", "run/commands.py", "recommend"),
    "report": ("FOLDER ", "evaluation/report.py", "report"),
    "rewards": ("NAME ", "run/commands.py", "rewards"),
    "simulate": ("", "data/simulation/world.py", "World"),
    "tune": ("NAME ", "run/chain/tune.py", "Tune"),
    "update": ("RUN ", "run/chain/update.py", "Update"),
    "tokenize": ("NAME ", "recommender/semantic_ids/tokenize_command.py", "tokenize"),
}
"""Commands, what stands before their options, and the function or class whose arguments are these.

`feedback`, `init`, `monitor`, `offpolicy`, `serve` and `configs` are as fast as this.
"""

MORE = {
    "simulate": """\
--out
    the data root; its folder simulated/ gets the log; by default data
--config
    a file of settings, such as an earlier world.yaml
"""
}
"""Options that stand before those of `DESCRIBED`."""

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
        takes, file, name = DESCRIBED[command]
        options = MORE.get(command, "") + _options(file, name, takes)
    else:
        return None
    full = f"\n\nAll options, with types: recalign {command} {takes.split()[0]} --help" if takes else ""
    return f"usage: recalign {command} {takes}[OPTIONS]\n\n{summary}\n\n{options}{full}"


def _options(file: str, name: str, takes: str) -> str:
    """The documented arguments of a function, or attributes of a class; those that have a place have no dashes."""
    from docstring_parser import parse  # a server alone does without

    tree = ast.parse((Path(__file__).parents[1] / file).read_text(encoding="utf-8"))
    node = next(node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name)
    placed = takes.split() if isinstance(node, ast.FunctionDef) else ()
    lines = []
    for argument in parse(ast.get_docstring(node) or "").params:
        own = argument.arg_name.upper()
        lines.append(own if own in placed else f"--{argument.arg_name}")
        text = " ".join((argument.description or "").split())
        lines.append(fill(text, WIDTH, initial_indent="    ", subsequent_indent="    "))
    return "\n".join(lines)
