"""What a run is known by, and when it need not be run again."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from recalign.run import cores
from recalign.run.stage import Manifest, RunFolder, parse_stage, run_stage
from recalign.run.stage.folder import git_state, run_key
from recalign.workers import torch_threads

RUN = RunFolder(Path("runs/toy/recommender/seed-0"))


def finished(*words: str) -> bool:
    fit = ["fit", "--config", "toy.yaml", "--trainer.enable_progress_bar", "false", *words]
    return parse_stage(fit).state().fresh


def read() -> Manifest:
    manifest = Manifest.read(RUN)
    assert manifest is not None
    return manifest


@pytest.mark.usefixtures("trained")
def test_a_manifest_holds_what_made_the_run():
    manifest = read()
    assert (manifest.stage, manifest.log, manifest.seed, manifest.status) == ("recommender", "toy", 0, "finished")
    assert manifest.command == "recalign fit --config toy.yaml --trainer.enable_progress_bar false"
    assert manifest.checkpoint == "checkpoints/best.ckpt"
    assert manifest.fingerprint == "toy/rating/7"
    assert set(manifest.versions) == {"recalign", "lightning", "torch", "polars", "python"}
    assert manifest.started < str(manifest.finished)
    assert manifest.seconds > 0


def test_a_fit_takes_the_threads_that_are_free_and_keeps_their_number(monkeypatch):
    fit = ["fit", "--config", "toy.yaml", "--trainer.enable_progress_bar", "false"]
    more, others = [*fit, "--ckpt_path", "last", "--trainer.max_epochs"], [3, 0, 3, 0, 3]

    def threads(words: list[str]) -> int:
        monkeypatch.setattr(cores, "others_running", lambda: others.pop(0))
        run_stage(parse_stage(words))
        return read().threads

    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(cores, "usable_cores", lambda: 4)
    with torch_threads(2):
        assert threads(fit) == 1
        assert threads([*more, "3"]) == 1  # others are not asked
        assert threads(fit) == 2
        assert threads([*more, "3"]) == 2
        assert threads([*fit, "--threads", "2"]) == 2
        assert finished()
        assert others == [3, 0, 3]


@pytest.mark.slow
@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(
    ("words", "done"),
    [
        ([], True),
        (["--run.root", "./runs"], True),
        (["--run.chain", "toy"], True),
        (["--data.root", "elsewhere"], True),
        (["--trainer.enable_progress_bar", "true"], True),
        (["--trainer.enable_model_summary", "true"], True),
        (["--trainer.callbacks+=lightning.pytorch.callbacks.TQDMProgressBar"], True),
        (["--trainer.log_every_n_steps", "1"], False),
        (["--trainer.callbacks+=lightning.pytorch.callbacks.LearningRateMonitor"], False),
        (["--model.learning_rate", "0.06"], False),
        (["--model.encoder.dropout", "0.1"], False),
        (["--trainer.max_epochs", "3"], False),
        (["--data.reward", "other"], False),
        (["--seed_everything", "1"], False),
        (["--run.name", "other"], False),
    ],
)
def test_only_what_changes_the_result_makes_a_run_new(words: list[str], done: bool):
    assert finished(*words) is done


@pytest.mark.usefixtures("trained")
def test_other_code_or_other_data_makes_a_run_new(monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr("recalign.run.stage.folder.code_digest", lambda settings: "other")
        assert not finished()
    monkeypatch.setattr("stage_doubles.ToyData.fingerprint", "other")
    assert not finished()


@pytest.mark.usefixtures("trained")
def test_a_run_that_did_not_end_or_lost_its_checkpoint_is_not_finished():
    manifest = read()
    for status in ("running", "failed"):
        manifest.status = status  # type: ignore[assignment]
        manifest.write(RUN)
        assert not finished()
    manifest.status = "finished"
    manifest.write(RUN)
    assert finished()
    RUN.best.unlink()
    assert not finished()


@pytest.mark.usefixtures("trained")
def test_the_bytes_of_an_upstream_checkpoint_count_and_its_path_does_not():
    reward = Path("reward.ckpt")
    reward.write_bytes(RUN.best.read_bytes())
    words = ["fit", "--config", "post.yaml", "--trainer.enable_progress_bar", "false", "--data.reward_model"]
    run_stage(parse_stage([*words, "reward.ckpt"]))
    assert parse_stage([*words, "reward.ckpt"]).state().fresh
    moved = reward.rename("moved.ckpt")
    assert parse_stage([*words, "moved.ckpt"]).state().fresh
    moved.write_bytes(RUN.last.read_bytes() + b" ")
    assert not parse_stage([*words, "moved.ckpt"]).state().fresh


def test_the_bytes_of_a_file_that_a_callback_reads_count_and_its_path_does_not():
    """Trials are ranked by what judges say: others make another trial, and a moved folder does not."""

    def key(judge: str) -> dict[str, Any]:
        callback = (
            f"{{class_path: recalign.evaluation.selection_callback.SelectionValue, init_args: {{judge: {judge}}}}}"
        )
        parsed = parse_stage(["fit", "--config", "toy.yaml", f"--trainer.callbacks+={callback}"])
        return run_key(parsed.config, (), None, {})

    for name, content in (("one", b"a"), ("same", b"a"), ("other", b"b")):
        Path(name).write_bytes(content)
    assert key("one") == key("same") != key("other")
    assert key("gone") != key("one")


@pytest.mark.usefixtures("trained")
def test_a_continued_run_has_the_key_of_the_whole_one_and_sums_the_time():
    before = read()
    run_stage(parse_stage(["fit", "--config", "toy.yaml", "--trainer.max_epochs", "3", "--ckpt_path", "last"]))
    assert read().seconds > before.seconds
    assert parse_stage(["fit", "--config", "toy.yaml", "--trainer.max_epochs", "3"]).state().fresh


@pytest.mark.usefixtures("trained")
def test_what_made_a_run_stale_is_named():
    words = ["fit", "--config", "toy.yaml"]
    assert parse_stage(words).state().fresh
    assert parse_stage([*words, "--model.learning_rate=0.06"]).state().changed == ["model.learning_rate"]
    assert parse_stage([*words, "--data.items=8"]).state().changed == ["data", "data.items"]
    RUN.last.write_bytes(b"")
    assert parse_stage(words).state().altered == ["checkpoints/last.ckpt"]


def test_git_state_is_of_our_own_checkout_only(monkeypatch: pytest.MonkeyPatch, folder: Path):
    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True)

    package = folder / "site" / "recalign"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "more.py").write_text("")
    monkeypatch.setattr("recalign.run.stage.folder.__file__", str(package / "run" / "stage" / "manifest.py"))
    assert git_state() is None  # no repository
    git("init")
    assert git_state() is None  # somebody else's repository, which does not track us
    git("add", "site")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "x")
    state = git_state()
    assert state is not None
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    (package / "more.py").write_text("changed")
    assert git_state() == state | {"dirty": True}
