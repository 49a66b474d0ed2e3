"""The JSON Schemas: every shipped YAML is valid, and what a run would refuse of keys and types is not."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from jsonschema import Draft202012Validator

from recalign.run.stage.settings import load

pytestmark = pytest.mark.slow

CONF = Path(__file__).parents[3] / "conf"
CHAINS = sorted((CONF / "chain").glob("*.yaml"))
OTHERS = {CONF / "search.yaml", CONF / "tokens.yaml", *CONF.glob("sweep/*"), *CONF.glob("rewards/*"), *CHAINS}
STAGES = sorted({*CONF.rglob("*.yaml")} - OTHERS)


@functools.cache
def validator(kind: Literal["stage", "chain"]) -> Draft202012Validator:
    """By the command, in a process of its own: a schema has all classes of its process, doubles of tests too."""
    words = [sys.executable, "-m", "recalign", "configs", "--schema", kind]
    made = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    Draft202012Validator.check_schema(made)
    return Draft202012Validator(made)


def kind_of(path: Path) -> Literal["stage", "chain"]:
    return "chain" if path in CHAINS else "stage"


@pytest.mark.parametrize("path", [*STAGES, *CHAINS], ids=lambda path: str(path.relative_to(CONF)))
def test_every_shipped_yaml_is_valid(path: Path):
    assert [error.json_path for error in validator(kind_of(path)).iter_errors(load(path))] == []


WRONG = [
    ("asft", "model: {class_path: recalign.posttrain.WeightedSFT, init_args: {temprature: 0.5}}"),
    ("asft", "model: {class_path: recalign.posttrain.WeightedSFT, init_args: {temperature: high}}"),
    ("asft", "model: {class_path: recalign.posttrain.WeightdSFT}"),
    ("asft", "model: {init_args: {temprature: 0.5}}"),
    ("asft", "trainer: {max_epoch: 3}"),
    ("asft", "trainer: {max_epochs: three}"),
    ("data/ml-1m", "data: {log: {name: own, files: own.csv}}"),
    ("data/ml-1m", "data: {log: {name: own, fils: [own.csv]}}"),
    ("data/ml-1m", "date: {}"),
    ("chain/ml-1m-methods", "seeds: 3"),
    ("chain/ml-1m-methods", "method: [start]"),
    ("chain/ml-1m-methods", "stages: {asft: {trainer: {max_epoch: 3}}}"),
]


@pytest.mark.parametrize(("name", "mistake"), WRONG)
def test_a_misspelt_key_and_a_wrong_type_are_seen(name: str, mistake: str):
    path = CONF / f"{name}.yaml"
    wrong: dict[str, Any] = load(path) | yaml.safe_load(mistake)
    assert not validator(kind_of(path)).is_valid(wrong)


def test_a_class_of_ones_own_is_not_described():
    assert validator("stage").is_valid({"model": {"class_path": "margin.Margin", "init_args": {"margin": 1}}})


def test_keys_are_explained_as_in_their_classes():
    data = validator("stage").schema["$defs"]["LightningDataModule"]
    assert "padded events of a batch" in json.dumps(data)
