"""What is said where other processes keep the cores busy."""

from __future__ import annotations

import pytest

from recalign.cores import say_if_busy


@pytest.mark.parametrize(("load", "said"), [(0.9, ""), (6.4, "recalign: 2 cores are shared with others (load 6)")])
def test_busy_cores_are_mentioned_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], load: float, said: str
):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    say_if_busy.cache_clear()
    say_if_busy()
    err = capsys.readouterr().err
    assert err.startswith(said)
    assert bool(err) == bool(said)
    say_if_busy()
    assert capsys.readouterr().err == ""
