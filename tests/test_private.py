"""Private names of other libraries: one list of those in use. A new release may move them; this notices."""

from __future__ import annotations

import ast
import inspect
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.amp.grad_scaler
from jsonargparse import ArgumentParser
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from torch.nn.parallel import DistributedDataParallel

SOURCE = Path(__file__).parents[1] / "src" / "recalign"
USED: dict[str, Any] = {
    "_check_value_key": ArgumentParser,  # stage/settings.py overrides it
    "_data_fetcher": _FitLoop,
    "_ddp_params_and_buffers_to_ignore": DistributedDataParallel,
    "_foreach_lerp_": torch,
    "_processes": ProcessPoolExecutor,
    "_should_check_val_fx": _TrainingEpochLoop,
    "_step_supports_amp_scaling": torch.amp.grad_scaler,
    "_wandb_init": WandbLogger,
}
"""Each name with what holds it; as seen in lightning 2.6.6, jsonargparse 4.53 and torch 2.11."""
PUBLIC = {"_exit", "_replace", "_repr_html_"}
"""Of os, of named tuples, and a protocol of notebooks."""


def own(tree: ast.AST) -> set[str]:
    """Names that a file defines: functions, classes, attributes and arguments."""
    nodes = list(ast.walk(tree))
    names = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    names |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    return names | {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def foreign() -> set[str]:
    """Private attributes that are used and nowhere defined, and private methods that a class of ours overrides."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in SOURCE.rglob("*.py")]
    defined = set().union(*map(own, trees))
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    above = {node.attr for node in nodes if isinstance(node.value, ast.Call) and ast.unparse(node.value) == "super()"}
    stored = {node.attr for node in nodes if isinstance(node.ctx, ast.Store) and ast.unparse(node.value) != "self"}
    used = {node.attr for node in nodes} - defined | above | stored
    return {name for name in used if name.startswith("_") and not name.startswith("__")} - PUBLIC


def test_every_private_name_of_another_library_is_listed():
    assert foreign() == set(USED)


@pytest.mark.parametrize("name", USED)
def test_what_is_listed_is_still_there(name: str):
    assert hasattr(USED[name], name) or name in inspect.getsource(USED[name])
