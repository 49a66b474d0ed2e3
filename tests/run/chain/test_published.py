"""A chain with W&B offline: its run holds the result, its stages' runs hold figures, histograms and lineage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import offline
import pytest
import tiny
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from recalign.cli import main
from recalign.evaluation.sources import Sources
from recalign.files import sha256
from recalign.run.chain import chain
from recalign.run.chain.published import _log, publish

pytestmark = pytest.mark.slow

SWEEP = Path(__file__).parents[3] / "conf/sweep/asft.yaml"
RUN = Path("runs/tiny")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a chain that was logged offline."""
    folder = tiny.prepare(tmp_path_factory.mktemp("published"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("WANDB_MODE", "offline")
        patch.delenv("RECALIGN_DATA", raising=False)
        given = ["--methods=[start, bc, asft]", "--baselines=[start, bc]", "--trainer.log_every_n_steps=1"]
        chain(["--config", "conf/chains/tiny.yaml", "--placebos={}", *given])
    return folder


@pytest.fixture(autouse=True)
def _here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.delenv("RECALIGN_DATA", raising=False)


@pytest.mark.long
def test_a_search_of_other_runs_is_not_attached():
    """Nor need there be users to show, as where a chain has no `start`."""
    logged: list[Any] = []
    run = SimpleNamespace(summary={}, log=lambda _: None, log_artifact=logged.append)
    stale = RUN / "search.csv"
    stale.write_text("method,trial\n")
    _log(run, RUN, RUN / "report.html", replace(Sources.of(RUN), examples=[]))
    stale.unlink()
    assert {"comparison.csv", "report.html"} <= logged[0].manifest.entries.keys()
    assert "search.csv" not in logged[0].manifest.entries


def test_one_run_holds_the_result():
    found = offline.read(RUN)
    assert (found.run["group"], found.run["job_type"], found.run["name"]) == ("tiny", "chain", "tiny")
    assert found.summary["decision/word"] in ("ship", "do not ship", "not decided")
    assert found.summary["decision/because"]
    assert {"trust/reward/seed-0", "trust/judge_report/seed-0", "check/verdict"} <= found.summary.keys()
    assert found.summary["test/value/judge@10/asft"] > 0
    comparison = found.table("comparison")
    assert [row[0] for row in comparison["data"]] == ["start", "bc", "asft"]
    row = dict(zip(comparison["columns"], comparison["data"][2], strict=True))
    assert row["all/ndcg@10 low"] < row["all/ndcg@10"] < row["all/ndcg@10 high"]
    examples = found.table("examples")
    assert examples["columns"] == ["user", "history", "before", "after"]
    assert all(all(row) for row in examples["data"])
    report = found.files[found.summary["report/path"]].read_text()
    assert report == (RUN / "report.html").read_text()
    artifact = found.artifacts["tiny-report"]
    assert artifact["files"] == ["check.json", "comparison.csv", "report.html"]
    best = artifact["metadata"]["checkpoints"]["asft/seed-0"]["checkpoints/best.ckpt"]
    assert best == sha256(RUN / "asft/seed-0/checkpoints/best.ckpt")


def test_a_result_is_logged_once(monkeypatch: pytest.MonkeyPatch):
    logged: list[Any] = []
    monkeypatch.setattr("recalign.run.chain.published.wandb_log", lambda *_, **__: logged.append(1))
    publish(RUN, RUN / "report.html", None, Sources.of(RUN))
    monkeypatch.setattr("recalign.run.chain.published.sha256", lambda _: "0" * 64)
    publish(RUN, RUN / "report.html", False, Sources.of(RUN))
    assert logged == []
    publish(RUN, RUN / "report.html", None, Sources.of(RUN))  # another page
    assert logged == [1]


def test_stages_log_what_their_users_watch():
    reward, asft = offline.read(RUN / "reward/seed-0"), offline.read(RUN / "asft/seed-0")
    for found, job in ((reward, "reward"), (asft, "asft")):
        assert (found.run["group"], found.run["job_type"]) == ("tiny", job)
        for name in ("train/loss", "train/lr", "train/grad_norm", "speed/step_seconds", "speed/memory_gb"):
            assert found.column(name), name
            assert min(found.column(name)) > 0, name
    for name in (
        "policy/kl",
        "policy/entropy",
        "advantage/ess",
        "advantage/clipped",
        "rank/nll",
        "policy/ndcg_retained",
    ):
        assert asft.column(name), name
    for name in ("advantage/values", "advantage/weights"):
        assert asft.column(f"{name}/_type") == ["histogram"]
        assert len(asft.column(f"{name}/values")[0]) == 64
    assert asft.best["rank/all/ndcg@10"] == "max"
    assert asft.summary["rank/all/ndcg@10"] == {"max": max(asft.column("rank/all/ndcg@10"))}
    assert reward.best["reward/rmse"] == "min"
    assert reward.summary["reward/rmse"] == {"min": min(reward.column("reward/rmse"))}
    assert reward.summary["trust/verdict"]
    assert reward.table("trust/calibration_table")["columns"][:2] == ["predicted", "observed"]


def test_artifacts_name_what_they_were_made_from():
    found = offline.read(RUN / "asft/seed-0").artifacts["tiny-asft-seed-0"]
    assert (found["type"], found["files"]) == ("model", ["best.ckpt"])
    manifest = json.loads((RUN / "asft/seed-0/manifest.json").read_text())
    assert found["metadata"]["sha256"] == manifest["digests"]["checkpoints/best.ckpt"]
    assert found["metadata"]["upstream"]["data.reward_model"]["sha256"] == sha256(
        RUN / "reward/seed-0/checkpoints/best.ckpt"
    )
    assert found["metadata"]["fingerprint"] == manifest["fingerprint"]


def test_an_agents_command_runs_in_a_folder_of_its_own_and_logs_what_is_maximised(monkeypatch: pytest.MonkeyPatch):
    sweep = yaml.safe_load(SWEEP.read_text())
    tried = {name: {"value": axis["max"]} for name, axis in sweep["parameters"].items()}
    arguments = create_sweep_command_args({"args": tried})["args"]
    command = [w for word in sweep["command"] for w in (arguments if word == "${args}" else [word])]
    words = ["simulated" if word == "ml-100k" else word for word in command[1:]]
    small = ["--data.root=data", "--data.max_length=24", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    judge = f"--trainer.callbacks.judge={RUN}/judge_select/seed-0/checkpoints/best.ckpt"
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    monkeypatch.setenv("WANDB_RUN_ID", "trial")
    assert main([*words, *small, judge, "--run.chain=tiny", "--trainer.enable_progress_bar=false"]) == 0
    found = offline.read(RUN / "asft-trial/seed-0")
    assert found.run["id"] == "trial"
    assert found.config["model"]["init_args"]["temperature"] == 1.0
    assert found.summary[sweep["metric"]["name"]] > 0
    assert 0.9 < found.summary["policy/ndcg_retained"] < 1.1
