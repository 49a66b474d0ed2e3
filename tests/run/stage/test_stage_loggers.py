"""CSV rows that are never lost, and W&B that never gets in the way."""

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
import wandb

from recalign.run.stage import parse_stage, run_stage
from recalign.run.stage.callbacks import TrainingMonitor
from recalign.run.stage.loggers import CSVLog, wandb_name

FIT = ["fit", "--config", "toy.yaml", "--trainer.enable_progress_bar", "false"]
RUN = Path("runs/toy/recommender/seed-0")


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open()))


def test_new_columns_keep_earlier_rows(folder: Path):
    log = CSVLog(folder / "m.csv")
    log.log_metrics({"a": 1.0, "epoch": 0}, step=1)
    log.log_metrics({"b": 2.0, "epoch": 0}, step=2)
    log.log_metrics({"a": 3.0, "epoch": 1}, step=3)
    assert rows(folder / "m.csv") == [
        {"epoch": "0", "step": "1", "a": "1.0", "b": ""},
        {"epoch": "0", "step": "2", "a": "", "b": "2.0"},
        {"epoch": "1", "step": "3", "a": "3.0", "b": ""},
    ]


def test_a_row_that_was_cut_off_is_dropped(folder: Path):
    path = folder / "m.csv"
    CSVLog(path).log_metrics({"a": 1.0}, step=1)
    path.write_bytes(path.read_bytes() + b"0,2,1.")
    CSVLog(path).log_metrics({"a": 3.0}, step=3)
    assert [(r["step"], r["a"]) for r in rows(path)] == [("1", "1.0"), ("3", "3.0")]


def test_wandb_is_offline_without_an_account_and_leaves_files(monkeypatch: pytest.MonkeyPatch):
    wandb.teardown()  # of an earlier test's process: its address would come back with the environment, when it is gone
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    run_stage(parse_stage(FIT))
    wandb.teardown()  # a finished run is still being written by W&B's own process: wait for that to end
    (run,) = (RUN / "wandb").glob("offline-run-*")
    content = next(run.glob("*.wandb")).read_bytes()
    for word in (b"rank/loss", b"recommender/seed-0", b"toy", b"stage_doubles.Toy"):
        assert word in content  # figures, name, group and configuration
    assert (RUN / "metrics.csv").exists()


def fail(*_: Any, **__: Any) -> None:
    raise RuntimeError("wandb is broken\nat great length")


@pytest.fixture
def break_wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Makes a function of W&B fail, by its name. The run that is left is finished after the test, even a failed one."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield lambda name: monkeypatch.setattr(f"wandb.{name}", fail)
    monkeypatch.undo()
    wandb.finish()


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["init", "Settings", "sdk.wandb_run.Run.log", "sdk.wandb_run.Run.finish"])
def test_a_broken_wandb_costs_one_warning(
    broken: str, break_wandb: Callable[[str], None], warned: Callable[[], list[str]]
):
    break_wandb(broken)
    run_stage(parse_stage(FIT))
    assert json.loads((RUN / "manifest.json").read_text())["status"] == "finished"
    assert warned() == ["W&B is off for this run: wandb is broken"]


def test_online_without_an_account_falls_back_to_offline(
    monkeypatch: pytest.MonkeyPatch, warned: Callable[[], list[str]]
):
    seen: dict[str, Any] = {}
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr("wandb.login", lambda prompt: prompt)  # no account: logged in only if asked
    monkeypatch.setattr("wandb.init", lambda **kwargs: seen.update(kwargs) or MagicMock())
    run_stage(parse_stage(FIT))
    assert seen["mode"] == "offline"
    assert "no account" in warned()[0]


def test_logger_false_leaves_the_csv(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr("wandb.init", lambda **_: pytest.fail("W&B was started"))
    run_stage(parse_stage([*FIT, "--trainer.logger", "false"]))
    assert rows(RUN / "metrics.csv")


def test_a_run_that_is_open_is_left_alone(monkeypatch: pytest.MonkeyPatch, warned: Callable[[], list[str]]):
    monkeypatch.setenv("WANDB_MODE", "offline")
    with wandb.init(project="mine", dir=str(Path.cwd()), settings=wandb.Settings(silent=True)) as mine:
        run_stage(parse_stage(FIT))
        run_stage(parse_stage([*FIT, "--trainer.logger", own("WandbLogger")]))
        assert wandb.run is mine
    assert "another run is active" in warned()[0]


def test_a_run_that_failed_is_ended_so_that_the_next_one_can_begin(
    break_wandb: Callable[[str], None], warned: Callable[[], list[str]]
):
    break_wandb("sdk.wandb_run.Run.log_artifact")
    run_stage(parse_stage(FIT))
    assert wandb.run is None
    assert warned() == ["W&B is off for this run: wandb is broken"]


def test_an_artifact_is_called_as_wandb_allows():
    assert wandb.Artifact(wandb_name("läden 2/été-seed-0"), type="model").name == "l_den_2__t_-seed-0"


def test_ones_own_wandb_logger_takes_the_place_of_ours(monkeypatch: pytest.MonkeyPatch):
    seen: dict[str, Any] = {}
    run = MagicMock()
    monkeypatch.setenv("WANDB_MODE", "offline")

    def init(**kwargs: Any) -> MagicMock:
        seen.update(kwargs)
        monkeypatch.setattr("wandb.run", run)
        return run

    monkeypatch.setattr("wandb.init", init)
    run_stage(parse_stage([*FIT, "--trainer.logger", own("WandbLogger", project="mine")]))
    run.finish.assert_called_once_with(exit_code=0)  # or the next stage would log into it
    assert seen["project"] == "mine"
    assert rows(RUN / "metrics.csv")


def test_the_learning_rate_is_logged_beside_gradient_norm_time_and_memory():
    run_stage(parse_stage([*FIT, "--trainer.max_epochs=1"]))
    steps = [row for row in rows(RUN / "metrics.csv") if row["train/loss"]]
    assert [int(row["step"]) for row in steps] == [1, 3, 5]
    assert [float(row["train/lr"]) for row in steps] == [pytest.approx(0.05)] * 3
    for name in ("train/grad_norm", "speed/step_seconds", "speed/memory_gb"):
        assert all(float(row[name]) > 0 for row in steps), name


def test_a_step_that_accumulates_batches_takes_the_time_of_all_of_them(monkeypatch: pytest.MonkeyPatch):
    seconds: list[float] = []
    trainer: Any = SimpleNamespace(global_step=0, log_every_n_steps=2)
    trainer.strategy = SimpleNamespace(root_device=torch.device("cpu"))
    trainer.fit_loop = SimpleNamespace(total_batch_idx=-1)
    module: Any = SimpleNamespace(log_dict=lambda row: seconds.append(row["speed/step_seconds"]))
    clock = SimpleNamespace(monotonic=lambda: float(trainer.fit_loop.total_batch_idx))  # a second each
    monkeypatch.setattr("recalign.run.stage.callbacks.time", clock)
    monitor = TrainingMonitor()
    monitor.on_train_start(trainer, module)
    for batch in range(13):
        trainer.fit_loop.total_batch_idx, trainer.global_step = batch, (batch + 1) // 3
        monitor.on_train_batch_end(trainer, module)
    assert seconds == [3.0, 3.0]


def test_the_gradient_norm_is_worked_out_for_logged_steps_alone_and_is_that_before_clipping(
    monkeypatch: pytest.MonkeyPatch,
):
    found: list[float] = []
    whole = torch.nn.utils.get_total_norm
    monkeypatch.setattr("torch.nn.utils.get_total_norm", lambda each: found.append(float(whole(each))) or whole(each))
    run_stage(parse_stage([*FIT, "--trainer.max_epochs=1", "--trainer.gradient_clip_val=1e-6"]))
    logged = [float(row["train/grad_norm"]) for row in rows(RUN / "metrics.csv") if row["train/grad_norm"]]
    assert logged == pytest.approx(found)
    assert min(found) > 1e-3


def test_own_loggers_stand_beside_ours():
    logger = '{"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "mine"}}'
    result = run_stage(parse_stage([*FIT, "--trainer.logger", logger]))
    assert rows(RUN / "metrics.csv")
    assert list(Path("mine").rglob("metrics.csv"))
    assert len(result.trainer.loggers) == 2


def own(name: str, **settings: str) -> str:
    """A logger of Lightning's, for ``--trainer.logger``."""
    return json.dumps({"class_path": f"lightning.pytorch.loggers.{name}", "init_args": settings})
