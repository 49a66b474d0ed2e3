"""Settings as words of a command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from jsonargparse import Namespace

from recalign.keys import call, options, plain, settings_of, split, with_flags


def command(run: str, as_list: bool = False, name: str = "") -> None: ...


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--as-list"], ["--as_list=true"]),
        (["--as_list", "--name", "a"], ["--as_list=true", "--name", "a"]),
        (["--as_list", "runs/a"], ["--as_list=true", "runs/a"]),
        (["--as_list", "False", "runs/a"], ["--as_list", "False", "runs/a"]),
        (["--as_list=false", "--name"], ["--as_list=false", "--name"]),
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
    assert list(split(words)) == expected


def test_settings_as_words_as_nested_and_by_dotted_key():
    settings = {"model.lr": 0.1, "model.clip": None, "data.reward": "a, b", "data.split": {"class_path": "X"}}
    words = ["--config", "a.yaml", "--model.lr=0.1", "--model.clip=null", "--data.reward=a, b"]
    assert call((Path("a.yaml"),), settings) == [*words, '--data.split={"class_path": "X"}']
    assert dict(settings_of(Namespace(**settings).as_dict())) == settings


def test_values_of_other_libraries_become_plain():
    given = {"lr": np.float32(0.5), "sizes": np.array([64, 32]), "file": Path("a/b"), "more": ({"x": np.int64(3)},)}
    assert plain(given) == {"lr": 0.5, "sizes": [64, 32], "file": "a/b", "more": [{"x": 3}]}
    assert options({"data.sizes": np.array([64, 32])}) == ["--data.sizes=[64, 32]"]
