"""JSON Schemas of the YAML, by which an editor completes and checks it; made from the classes that the YAML sets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

from jsonargparse import ArgumentParser
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

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
    stage = _loose(_of_stage())
    if kind == "stage":
        return stage
    parser = ArgumentParser()
    parser.add_class_arguments(Chain)
    chain = _loose(json.loads(parser.get_completion_script("jsonschema")))
    chain["$defs"] = chain.get("$defs", {}) | stage.pop("$defs")
    for name in ("trainer", "data"):
        chain["properties"][name] = stage["properties"][name]
    chain["properties"]["stages"]["additionalProperties"] = {name: stage[name] for name in ("type", "properties")}
    return chain


def _of_stage() -> Schema:
    parser = ArgumentParser()
    parser.add_subclass_arguments(LightningModule, "model")
    parser.add_subclass_arguments(LightningDataModule, "data")
    parser.add_class_arguments(Trainer, "trainer", skip=set(OF_OTHERS))
    parser.add_class_arguments(RunConfig, "run")
    parser.add_class_arguments(RunCheckpoint, "checkpoint")
    parser.add_class_arguments(EarlyStopping, "early_stopping")
    parser.add_argument("--seed_everything", type=int, help="Seed of everything; names the run folder.")
    made: Schema = json.loads(parser.get_completion_script("jsonschema"))
    made["properties"] |= dict.fromkeys(UNDESCRIBED, True)
    made["properties"]["trainer"]["properties"] |= dict.fromkeys(OF_OTHERS, True)
    return made


def _loose(made: Schema) -> Schema:
    """Allow what several files may: parts of it, arguments of a class that an earlier file names, ``${...}``."""
    for node in list(_nodes(made)):
        if "properties" in node:
            node.pop("required", None)
        classes = [one for one in node.get("anyOf", ()) if "class_path" in one.get("properties", {})]
        if classes:
            node["anyOf"] += [_arguments(classes), OWN]
        if node.get("type") in ("integer", "number", "boolean"):
            node |= {"type": [node["type"], "string"], "pattern": r"^\$\{"}
    return made


def _arguments(classes: list[Schema]) -> Schema:
    """The arguments of any of some classes, alone or under ``init_args``; each class must name itself."""
    found: dict[str, list[Schema]] = {}
    for one in classes:
        one["required"] = ["class_path"]
        for name, argument in one["properties"]["init_args"].get("properties", {}).items():
            if argument not in found.setdefault(name, []):
                found[name].append(argument)
    own = {name: some[0] if len(some) == 1 else {"anyOf": some} for name, some in found.items()}
    closed = {"type": "object", "additionalProperties": False}
    return closed | {"properties": own | {"init_args": closed | {"properties": own}}}


def _nodes(schema: Any) -> Iterator[Schema]:
    """All mappings of a schema, the inner ones last."""
    if isinstance(schema, dict):
        yield schema
        for one in schema.values():
            yield from _nodes(one)
    elif isinstance(schema, list):
        for one in schema:
            yield from _nodes(one)
