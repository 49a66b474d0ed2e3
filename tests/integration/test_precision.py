"""bf16-mixed through the command: every stage's losses and figures stay near those of float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tiny

pytestmark = pytest.mark.long  # by default, test_trajectories.py holds bf16 to the committed losses

STAGES = ("recommender", "reward", "asft")
LOSS = {"recommender": 0.02, "reward": 0.05, "asft": 0.02}  # relative, of the mean over a run's steps
SCHEDULE = ("--trainer.max_epochs=2", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run folders of the three stages in both precisions, on the tiny world; each starts from its own kind."""
    folder = tiny.prepare(tmp_path_factory.mktemp("precision"))
    for precision in ("32-true", "bf16-mixed"):
        for stage in STAGES:
            words = ["--config", f"conf/{stage}.yaml", "--config", "conf/data/simulated.yaml", "--data.root=data"]
            words += ["--data.max_length=24", "--trainer.log_every_n_steps=1", f"--run.chain={precision}", *SCHEDULE]
            said = tiny.recalign(folder, "fit", *words, f"--trainer.precision={precision}")
            assert said.code == 0, said.err
    return {precision: folder / "runs" / precision for precision in ("32-true", "bf16-mixed")}


def column(runs: Path, stage: str, name: str) -> np.ndarray:
    figures = pl.read_csv(runs / stage / "seed-0/metrics.csv", infer_schema_length=None)
    return figures[name].drop_nulls().to_numpy()


@pytest.mark.parametrize("stage", STAGES)
def test_losses_take_the_same_course(runs: dict[str, Path], stage: str):
    plain, mixed = (column(runs[precision], stage, "train/loss") for precision in ("32-true", "bf16-mixed"))
    assert len(plain) == len(mixed) > 1
    assert np.isfinite(mixed).all()
    assert not np.array_equal(plain, mixed)  # the precision arrived
    assert abs(mixed.mean() - plain.mean()) <= LOSS[stage] * abs(plain.mean())
    np.testing.assert_allclose(mixed, plain, rtol=2 * LOSS[stage])


@pytest.mark.parametrize("stage", ["recommender", "asft"])
def test_ranks_are_similar(runs: dict[str, Path], stage: str):
    plain, mixed = (column(runs[precision], stage, "rank/all/mrr") for precision in ("32-true", "bf16-mixed"))
    np.testing.assert_allclose(mixed, plain, atol=0.02)


def test_rewards_are_predicted_alike(runs: dict[str, Path]):
    plain, mixed = (column(runs[precision], "reward", "reward/rmse") for precision in ("32-true", "bf16-mixed"))
    np.testing.assert_allclose(mixed, plain, rtol=0.03)
