"""Real stages, killed at any moment and continued, end as runs that never were: 20 kills a family (``--trials``)."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import killed
import pytest
import tiny

from recalign.run.stage import RunFolder

KILLS = 20
FAMILIES = {
    "recommender": "recommender",
    "reward": "reward",
    "judge": "judge",
    "weighted": "asft",
    "pairs": "dpo",
    "sampled actions": "grpo",
    "clipped actions": "ppo",
    "policy gradient": "reinforce",
    "values": "iql",
    "codes": "recommender-onerec --model.sizes=[8,8]",
}
SETTINGS = {"epochs": [], "steps": ["--checkpoint.save_last_every_n_steps=2"]}
COMMON = ["--config=conf/logs/simulated.yaml", "--data.root=data", "--data.max_length=24", "--data.batch_tokens=512"]
COMMON += ["--trainer.max_epochs=2", "--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recommender and a reward model to start from."""
    place = tmp_path_factory.mktemp("killed")
    killed.apart(tiny.prepare, place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for stage in ("recommender", "reward"):
            assert killed.fit(f"--config={stage}", *COMMON, "--run.chain=simulated") == 0
    return place


@pytest.mark.long
@pytest.mark.parametrize("saves", SETTINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_kill_shows(folder: Path, monkeypatch: pytest.MonkeyPatch, trial, share, family: str, saves: str):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    stage, *own = FAMILIES[family].split()
    words = [f"--config={stage}", *COMMON, *own, *SETTINGS[saves], "--run.chain=simulated"]
    name = f"{family} {saves}"
    began = time.monotonic()
    assert killed.fit(*words, f"--run.name={name} whole") == 0
    seconds, whole = time.monotonic() - began, RunFolder(Path(f"runs/simulated/{name} whole/seed-0"))
    moments = random.Random(name)
    for kill in range(share(KILLS // len(SETTINGS))):
        run = RunFolder(Path(f"runs/simulated/{name} {kill}/seed-0"))
        own = [*words, f"--run.name={name} {kill}"]
        by = signal.SIGTERM if kill % 3 == 2 else signal.SIGKILL
        killed.fit(*own, after=moments.uniform(0, seconds), by=by)
        trial("Exact continuation", f"{by.name} at a random moment of a fit: {stage}")
        if kill % 2 and run.last.exists():  # once more
            killed.fit(*own, "--ckpt_path=last", after=moments.uniform(0, seconds))
        killed.continue_until_done(run, *own)
        assert killed.differences(whole, run) == []
