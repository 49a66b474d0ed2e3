"""What a run refuses to lose, to believe, to run and to write down."""

import errno
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb

from recalign.artifacts import verify
from recalign.errors import InputError, TrainingError
from recalign.run.configs import find
from recalign.run.stage import RunFolder, StageResult, parse_stage, run_stage
from recalign.run.stage.record import record_trust
from recalign.run.stage.settings import load
from recalign.workers import locked

FIT = ["fit", "--config", "toy.yaml", "--trainer.enable_progress_bar", "false"]
FEATURED = ["--data.log.items.file=items.csv", "--data.log.items.id=item", "--data.log.items.features.year=number"]
RUN = RunFolder(Path("runs/toy/recommender/seed-0"))


def fit(*words: str) -> StageResult:
    return run_stage(parse_stage([*FIT, *words]))


def complaint(*words: str, command: str = "fit") -> str:
    with pytest.raises(InputError) as caught:
        run_stage(parse_stage([command, "--config", "toy.yaml", *words]))
    return str(caught.value)


@pytest.mark.usefixtures("trained")
def test_an_altered_checkpoint_is_refused_and_its_run_is_not_taken_for_done():
    assert parse_stage(FIT).state().fresh
    content = torch.load(RUN.best, weights_only=True)
    content["state_dict"]["head.bias"] += 1e-3
    torch.save(content, RUN.best)
    assert "was changed after its run: SHA-256 differs from manifest.json" in complaint(command="test")
    assert not parse_stage(FIT).state().fresh


@pytest.mark.usefixtures("trained")
def test_a_trust_report_is_recorded_where_the_test_writes_it_anew():
    RUN.trust.write_text("")
    assert not verify(RUN.trust, "")
    for content in ("{}", "[]"):
        began = time.time() - 1  # clocks of files are coarse
        RUN.trust.write_text(content)
        record_trust(RUN, began)
        assert verify(RUN.trust, "")
    assert parse_stage(FIT).state().fresh
    RUN.trust.write_text("{}")
    record_trust(RUN, time.time() + 1)
    assert not parse_stage(FIT).state().fresh


@pytest.mark.usefixtures("trained")
def test_a_flipped_bit_is_noticed_without_a_manifest():
    damaged = bytearray(RUN.last.read_bytes())
    damaged[damaged.index(torch.load(RUN.last, weights_only=True)["state_dict"]["head.bias"].numpy().tobytes())] ^= 1
    Path("damaged.ckpt").write_bytes(damaged)
    assert "is damaged" in complaint("--ckpt_path", "damaged.ckpt")


def test_weights_that_are_not_finite_are_neither_saved_nor_read(monkeypatch: pytest.MonkeyPatch):
    def poison(self: Any) -> None:
        self.head.bias.data[0] = float("nan")

    fit("--trainer.max_epochs", "1")
    good = RUN.last.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("stage_doubles.Toy.on_train_epoch_end", poison)
        with pytest.raises(TrainingError, match=r"NaN or infinite: head\.bias; "):
            fit("--trainer.max_epochs", "2", "--ckpt_path", "last")
    assert RUN.last.read_bytes() == good
    content = torch.load(RUN.last, weights_only=True)
    content["state_dict"]["head.bias"][0] = float("nan")
    torch.save(content, "bad.ckpt")
    assert "weights are NaN or infinite: head.bias" in complaint("--ckpt_path", "bad.ckpt")


@pytest.mark.parametrize(
    "option",
    [
        "--trainer.max_epochs=0",
        "--trainer.max_steps=0",
        "--trainer.limit_train_batches=0",
        "--checkpoint.save_last_every_n_steps=0",
        "--trainer.log_every_n_steps=0",
        "--trainer.accumulate_grad_batches=0",
        "--trainer.check_val_every_n_epoch=-1",
        "--trainer.num_nodes=0",
        "--trainer.gradient_clip_val=-1",
        "--trainer.precision=bf16-true",
        "--trainer.precision=64-true",
        "--trainer.accelerator=mps",
        "--trainer.limit_val_batches=0",
        "--model.temperature=0",
    ],
)
def test_settings_that_a_method_cannot_train_with_are_refused_when_parsed(option: str):
    with pytest.raises(InputError, match=option.strip("-").partition("=")[0]):
        parse_stage(["fit", "--config", str(find("asft")), option])


def test_a_mac_trains_on_its_cpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("recalign.run.stage.command.MPSAccelerator.is_available", lambda: True)
    for given, taken in (("auto", "cpu"), ("gpu", "gpu")):
        words = ["fit", "--config", str(find("asft")), "--config", str(find("logs/ml-100k"))]
        assert parse_stage([*words, f"--trainer.accelerator={given}"]).config["trainer"]["accelerator"] == taken


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["fit", "asft"], "item ids only"),
        (["fit", "recommender-onerec"], "item ids only"),
        (["predict", "recommender"], "for training only"),
        (["fit", "recommender", "--trainer.callbacks=recalign.recommender.PolynomialAveraging"], "average"),
        (["fit", "recommender", "--trainer.strategy.init_args.save_distributed_checkpoint=true"], "whole checkpoints"),
    ],
)
def test_what_needs_all_weights_is_refused_where_they_are_in_parts(words: list[str], why: str):
    command, stage, *more = words
    with pytest.raises(InputError, match=f"trainer.strategy: .*{why}"):
        parse_stage([command, f"--config={find(stage)}", f"--config={find('trainer/fsdp')}", *more])


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["fit", "recommender-onerec"], "trainer.strategy"),
        (["fit", "reward"], "trainer.strategy"),
        (["fit", "methods/ppo"], "trainer.strategy"),
        (["fit", "recommender"], "model.memory"),
        (["fit", "recommender", "--model.memory=false", *FEATURED], "data.log.items.features"),
    ],
)
def test_what_needs_whole_item_tables_is_refused_where_their_rows_are_sharded(words: list[str], where: str):
    command, stage, *more = words
    with pytest.raises(InputError) as refused:
        parse_stage([command, f"--config={find(stage)}", f"--config={find('trainer/row-sharding')}", *more])
    assert refused.value.where == where


def test_a_full_disk_is_named_and_the_old_checkpoint_stays(monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    fit("--trainer.max_epochs", "1")
    good = RUN.last.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("recalign.recommender.checkpoint.torch.save", full)
        with pytest.raises(OSError, match="No space left on device") as refused:
            fit("--trainer.max_epochs=2", "--ckpt_path=last")
    assert Path(refused.value.filename).parent == RUN.checkpoints.resolve()
    assert RUN.last.read_bytes() == good


def test_a_folder_has_one_writer():
    with locked(RUN.path, "training", "wait"):
        assert f"{RUN.path}: another process is training in this folder" in complaint()
    fit()


def test_a_process_trains_in_one_thread(monkeypatch: pytest.MonkeyPatch):
    """Both would draw from one random state, and read settings in one parser."""

    def in_another_thread(*_: Any) -> None:
        with ThreadPoolExecutor(1) as thread:
            refused.append(str(thread.submit(parse_stage, FIT).exception()))

    refused: list[str] = []
    monkeypatch.setattr("stage_doubles.Toy.on_fit_start", in_another_thread)
    fit()
    in_another_thread()
    assert [said.partition(":")[0] for said in refused] == ["threads", "None"]


@pytest.mark.parametrize(
    ("default", "other", "own"), [("dtype", torch.double, torch.float32), ("device", "meta", None)]
)
def test_defaults_of_torch_that_nothing_was_made_for_are_refused(default: str, other: Any, own: Any):
    set_default = getattr(torch, f"set_default_{default}")
    set_default(other)
    try:
        assert complaint().startswith("torch: ")
    finally:
        set_default(own)


def test_a_folder_of_any_name_writes_no_line_of_yaml(folder: Path):
    fit("--run.root", "a\nevil: 1\x1b")
    [config] = folder.glob("a*/toy/recommender/seed-0/config.yaml")
    assert load(config)["run"]["root"] == "a\nevil: 1\x1b"
    assert "evil" not in load(config)


@pytest.mark.parametrize("spelling", ["${oc.env:SHOP_TOKEN}", "${ oc.env : 'SHOP_TOKEN' }"])
def test_a_secret_from_the_environment_is_not_written_down(monkeypatch: pytest.MonkeyPatch, spelling: str):
    monkeypatch.setenv("SHOP_TOKEN", "s3cret-t0ken")
    monkeypatch.setenv("WANDB_API_KEY", "k3y" * 14)
    monkeypatch.setenv("WANDB_MODE", "offline")
    result = fit("--data.root", f"https://me:{spelling}@shop")
    assert result.datamodule.root == "https://me:s3cret-t0ken@shop"
    wandb.teardown()  # a finished run is still being written by W&B's own process: wait for that to end
    assert "https://me:${oc.env:SHOP_TOKEN}@shop" in RUN.config.read_text()
    for file in RUN.path.rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        assert b"s3cret-t0ken" not in content, file
        assert b"k3yk3y" not in content, file


def test_yaml_tags_make_nothing(folder: Path):
    Path("evil.yaml").write_text(f"model: !!python/object/apply:os.system ['touch {folder}/harm']\n")
    assert "evil.yaml, line 1: is not YAML" in complaint("--config", "evil.yaml")
    assert not (folder / "harm").exists()


@pytest.mark.usefixtures("trained")
def test_an_instantiator_is_not_called(folder: Path):
    content = torch.load(RUN.last, weights_only=True)
    content["hyper_parameters"]["_instantiator"] = "os.system"
    torch.save(content, "evil.ckpt")
    run_stage(parse_stage(["test", "--config", "toy.yaml", "--ckpt_path", "evil.ckpt"]))
    content["hyper_parameters"]["_class_path"] = "this.Toy"
    torch.save(content, "evil.ckpt")
    assert "the run was started with 'this.Toy'" in complaint("--ckpt_path", "evil.ckpt")
    assert "this" not in sys.modules
