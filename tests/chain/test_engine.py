"""Where a chain's tasks run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import tiny
import torch

from recalign.chain import Chain, engine
from recalign.chain.cluster import _room
from recalign.errors import InputError


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--workers=0"], "workers: 0 is not above 0\n"),
        (["--threads=0"], "threads: 0 is not above 0\n"),
        (["--engine=rya"], "engine"),
        (["--workers=3", "--engine=ray"], "engine: this engine needs Ray\n  -> pip install 'recalign[ray]'"),
    ],
)
def test_what_cannot_run_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str):
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    tiny.prepare(tmp_path)
    result = tiny.chain(tmp_path, *words)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("visible", "count", "given"),
    [(None, 0, [None] * 3), (None, 2, ["0", "1", "0"]), ("4,7", 2, ["4", "7", "4"]), ("", 0, [None] * 3)],
)
def test_gpus_are_dealt_out(monkeypatch: pytest.MonkeyPatch, visible: str | None, count: int, given: list[str | None]):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    seen: list[dict[str, str]] = []
    monkeypatch.setattr(engine, "LocalWorkers", seen.extend)
    engine.workers_of(Chain(log="simulated", methods=["start"], workers=3))
    assert [environment.get("CUDA_VISIBLE_DEVICES") for environment in seen] == given


def test_a_cluster_has_room_or_says_what_it_lacks():
    assert _room({"CPU": 8.0, "GPU": 3.0}, {"CPU": 2.0, "GPU": 0.5}) == 4
    assert _room({"CPU": 3.0}, {"CPU": 1.0, "GPU": 0.0}) == 3
    with pytest.raises(InputError, match=r"8 CPU, 0 GPU, too little for one task"):
        _room({"CPU": 8.0}, {"CPU": 1.0, "GPU": 1.0})
