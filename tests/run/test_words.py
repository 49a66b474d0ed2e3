"""Settings as words of a command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from jsonargparse import ArgumentParser, Namespace

from recalign.data.events.yaml_text import yaml_text
from recalign.errors import InputError
from recalign.run.words import iter_options, to_argv, to_builtin, with_flags


def command(run: str, dry_run: bool = False, name: str = "") -> None: ...


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--dry-run"], ["--dry_run=true"]),
        (["--dry_run", "--name", "a"], ["--dry_run=true", "--name", "a"]),
        (["--dry_run", "runs/a"], ["--dry_run=true", "runs/a"]),
        (["--dry_run", "False", "runs/a"], ["--dry_run", "False", "runs/a"]),
        (["--dry_run=false", "--name"], ["--dry_run=false", "--name"]),
    ],
)
def test_a_bare_flag_is_true_and_takes_no_other_word(words: list[str], expected: list[str]):
    assert with_flags(command, words) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--a.b=c"], [("--a.b", "c", ["--a.b=c"])]),
        (["--a.b", "c=d"], [("--a.b", "c=d", ["--a.b", "c=d"])]),
        (["--lr", "-1"], [("--lr", "-1", ["--lr", "-1"])]),
        (["--print_config", "-c", "x"], [("--print_config", None, ["--print_config"]), ("-c", "x", ["-c", "x"])]),
        (["asft", "--help"], [("", "asft", ["asft"]), ("--help", None, ["--help"])]),
        (["--a="], [("--a", "", ["--a="])]),
        ([], []),
    ],
)
def test_words_are_split_into_options_and_values(words: list[str], expected: list):
    assert list(iter_options(words)) == expected


def test_nested_and_dotted_settings_are_the_same_words():
    dotted = {"model.lr": np.float64(0.1), "model.clip": None, "data.reward": "a, b", "data.split": {"class_path": "X"}}
    nested = {"model": {"lr": 0.1, "clip": None}, "data": {"reward": "a, b", "split": {"class_path": "X"}}}
    words = ["--model.lr=0.1", "--model.clip=null", "--data.reward=a, b", '--data.split={"class_path": "X"}']
    assert list(to_argv(dotted)) == list(to_argv(nested)) == words


@pytest.mark.parametrize(
    "text", ["1e-4", "1E6", "1.5e3", ".5", "._5", "1_0", "0104257", "yes", "null", "2026-11-30", "e4"]
)
def test_text_that_looks_like_a_number_is_read_back_as_text(text: str):
    """PyYAML and jsonargparse disagree on what a number is; runs are written by one and read by the other."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--name", type=str)
    parser.add_argument("--lr", type=float)
    written = yaml_text({"name": text, "lr": 1e-5})
    assert parser.parse_string(written) == Namespace(name=text, lr=1e-5)
    assert yaml.safe_load(written) == {"name": text, "lr": 1e-5}


def test_an_object_is_no_setting():
    with pytest.raises(InputError, match=r"a\.b: .*object.* cannot be a setting"):
        to_builtin({"a": {"b": [1, object()]}})


def test_values_of_other_libraries_become_plain():
    given = {"lr": np.float32(0.5), "sizes": np.array([64, 32]), "file": Path("a/b"), "more": ({"x": np.int64(3)},)}
    assert to_builtin(given) == {"lr": 0.5, "sizes": [64, 32], "file": "a/b", "more": [{"x": 3}]}
