"""Which stage of how many, and how much time is left as far as that is known."""

from __future__ import annotations

import pytest

from recalign.chain.progress import Progress, about


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, ""),
        (0.2, ", about 10 s left"),
        (31, ", about 40 s left"),
        (200, ", about 3 min left"),
        (5400, ", about 1.5 h left"),
    ],
)
def test_a_time_is_rounded_to_what_is_known(seconds: float, said: str):
    assert about(seconds) == said


def test_nothing_is_said_of_the_time_until_something_has_run(monkeypatch: pytest.MonkeyPatch, capsys):
    clock = iter([0.0, 0.0, 0.2, 60.2, 180.2])
    monkeypatch.setattr("recalign.chain.progress.time.monotonic", lambda: next(clock))
    progress = Progress(4, "stage")
    for number, name in enumerate(("unchanged", "minute", "two", "last")):
        progress.begin(number, name)
    assert capsys.readouterr().out.splitlines() == [
        "stage 1 of 4: unchanged",
        "stage 2 of 4: minute",
        "stage 3 of 4, about 2 min left: two",
        "stage 4 of 4, about 2 min left: last",
    ]
