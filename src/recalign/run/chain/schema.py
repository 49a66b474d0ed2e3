"""JSON Schemas of the YAML, by which an editor completes and checks it; made from the classes that the YAML sets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

from jsonargparse import ArgumentParser
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from recalign.posttrain import experimental  # noqa: F401 (its classes are described too)
from recalign.run.chain.experiment import Chain
from recalign.run.stage.checkpoint import RunCheckpoint
from recalign.run.stage.folder import RunConfig

OF_OTHERS = ("callbacks", "logger", "plugins", "profiler", "strategy")
"""Settings of the trainer that take any class of Lightning: not described."""
UNDESCRIBED = ("optimizer", "lr_scheduler", "ckpt_path")
Schema = dict[str, Any]
OWN: Schema = {
    "type": "object",
    "required": ["class_path"],
    "properties": {"class_path": {"type": "string", "pattern": r"^(?!recalign\.)"}, "init_args": {"type": "object"}},
}
"""A class that is no part of recalign."""


def schema(kind: Literal["stage", "chain"]) -> Schema:
    """A JSON Schema of a kind of YAML: ``chain``, or ``stage``, which logs, presets and recipes have parts of.

    No key is required, and a class may be left out: what files leave out, others set.
    """
    parser = ArgumentParser()
    parser.add_subclass_arguments(LightningModule, "model")
    parser.add_subclass_arguments(LightningDataModule, "data")
    parser.add_class_arguments(Trainer, "trainer", skip=set(OF_OTHERS))
    parser.add_class_arguments(RunConfig, "run")
    parser.add_class_arguments(RunCheckpoint, "checkpoint")
    parser.add_class_arguments(EarlyStopping, "early_stopping")
    parser.add_argument("--seed_everything", type=int, help="Seed of everything; names the run folder.")
    stage: Schema = json.loads(parser.get_completion_script("jsonschema"))
    stage["properties"] |= dict.fromkeys(UNDESCRIBED, True)
    stage["properties"]["trainer"]["properties"] |= dict.fromkeys(OF_OTHERS, True)
    _relax(stage)
    if kind == "stage":
        return stage
    parser = ArgumentParser()
    parser.add_class_arguments(Chain)
    chain: Schema = json.loads(parser.get_completion_script("jsonschema"))
    _relax(chain)
    chain["$defs"] = chain.get("$defs", {}) | stage.pop("$defs")
    for name in ("trainer", "data"):
        chain["properties"][name] = stage["properties"][name]
    chain["properties"]["stages"]["additionalProperties"] = {name: stage[name] for name in ("type", "properties")}
    return chain


def _relax(schema: Schema) -> None:
    """Relax a schema for partial YAML: parts, arguments of a class that an earlier file names, ``${...}``."""
    for node in list(_nodes(schema)):
        if "properties" in node:
            node.pop("required", None)
        if classes := [one for one in node.get("anyOf", ()) if "class_path" in one.get("properties", {})]:
            found: dict[str, list[Schema]] = {}  # the arguments of any of them, alone or under init_args
            for one in classes:
                one["required"] = ["class_path"]
                for name, argument in one["properties"]["init_args"].get("properties", {}).items():
                    if argument not in found.setdefault(name, []):
                        found[name].append(argument)
            own = {name: some[0] if len(some) == 1 else {"anyOf": some} for name, some in found.items()}
            closed = {"type": "object", "additionalProperties": False}
            node["anyOf"] += [closed | {"properties": own | {"init_args": closed | {"properties": own}}}, OWN]
        if node.get("type") in ("integer", "number", "boolean"):
            node |= {"type": [node["type"], "string"], "pattern": r"^\$\{"}


def _nodes(schema: Any) -> Iterator[Schema]:
    """All mappings of a schema, the inner ones last."""
    if isinstance(schema, dict):
        yield schema
    for one in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _nodes(one)
