"""Settings as words of a command."""

from __future__ import annotations

import pytest

from recalign.keys import with_flags


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
