"""A request is the command line that it prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recalign.errors import InputError
from recalign.stage import Request, parse_stage
from recalign.stage.request import settings_of

CONF = Path(__file__).parents[2] / "conf"
LOG = CONF / "data/ml-1m.yaml"

REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "nothing": ("recommender", {}),
    "numbers": ("asft", {"seed_everything": 3, "model.temperature": "0.25", "model.lr": "1e-5", "model.keep": None}),
    "nested class": ("recommender", {"model.encoder.dim": 32, "model.encoder.heads": "2"}),
    "another class": ("recommender", {"model.encoder": {"class_path": "recalign.nn.SASRec", "init_args": {"dim": 8}}}),
    "a class by name": ("recommender", {"model.encoder": "recalign.nn.SASRec", "model.encoder.dim": "24"}),
    "trainer": ("posttrain/dpo", {"trainer.max_epochs": 2, "trainer.logger": False, "trainer.precision": "bf16-mixed"}),
    "data": ("reward", {"data.high.expression": "rating = 4", "data.reward": "rating - 1, 2"}),
    "a split": ("reward", {"data.split": {"class_path": "recalign.sequences.LeaveLast", "init_args": {"test": 2}}}),
    "users": ("judge", {"data.users": "B1", "run.name": "judge_select", "run.root": "elsewhere"}),
    "null": ("asft", {"data.high": "null", "model.clip": "null"}),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_a_request_and_its_command_line_give_one_configuration(case: str):
    stage, settings = REQUESTS[case]
    request = Request((CONF / f"{stage}.yaml", LOG), settings)
    asked, typed = parse_stage(request), parse_stage(request.words())
    assert asked.config == typed.config
    assert (asked.folder, asked.command, asked.log) == (typed.folder, typed.command, typed.log)


def test_a_later_files_data_replace_an_earlier_whole(tmp_path: Path):
    (tmp_path / "one.yaml").write_text("data: {high: {quantile: 0.75, within: duration}, log: {where: a > 1}}")
    (tmp_path / "two.yaml").write_text("data: {high: {expression: rating > 4}}")
    files = (CONF / "reward.yaml", tmp_path / "one.yaml", tmp_path / "two.yaml")
    data = Request(files).config()["data"]["init_args"]
    assert data["high"] == {"expression": "rating > 4"}
    assert data["log"] == {"where": "a > 1"}


def test_settings_by_dotted_key_keep_a_class_whole():
    nested = {"model": {"lr": 0.1, "clip": None}, "data": {"reward": "a, b", "split": {"class_path": "X"}}}
    assert dict(settings_of(nested)) == {
        "model.lr": 0.1,
        "model.clip": None,
        "data.reward": "a, b",
        "data.split": {"class_path": "X"},
    }


def test_a_broken_file_and_a_broken_reference_are_named(tmp_path: Path):
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(InputError, match=r"bad.yaml, line .: not YAML"):
        Request((tmp_path / "bad.yaml",)).config()
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(InputError, match="holds no keys"):
        Request((tmp_path / "list.yaml",)).config()
    with pytest.raises(InputError, match=r"max_lengt\} points to nothing"):
        parse_stage(Request((CONF / "reward.yaml", LOG), {"model.lr": "${data.init_args.max_lengt}"}))
