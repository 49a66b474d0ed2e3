"""Runs from end to end on doubles: the same run again, continued runs, and checkpoints that do not fit."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from stage_doubles import STAGE

from recalign.errors import InputError, TrainingError
from recalign.run.configs import find
from recalign.run.stage import RunFolder, StageResult, parse_stage, run_stage

RUN = RunFolder(Path("runs/toy/recommender/seed-0"))


def fit(*words: str) -> StageResult:
    return run_stage(parse_stage(["fit", "--config", "toy.yaml", "--trainer.enable_progress_bar", "false", *words]))


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def assert_same_weights(one: Path, other: Path) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a file of figures, without what was measured of the machine."""
    return [{k: v for k, v in row.items() if not k.startswith("speed/")} for row in csv.DictReader(path.open())]


def complaint(*words: str, command: str = "fit") -> str:
    with pytest.raises(InputError) as caught:
        run_stage(parse_stage([command, "--config", "toy.yaml", *words]))
    return str(caught.value)


def test_a_fit_leaves_a_whole_run_folder():
    result = fit()
    assert result.checkpoint == RUN.best
    assert sorted(p.name for p in RUN.path.iterdir()) == ["checkpoints", "config.yaml", "manifest.json", "metrics.csv"]
    assert sorted(p.name for p in RUN.checkpoints.iterdir()) == ["best.ckpt", "last.ckpt"]
    assert [r["step"] for r in rows(RUN.figures("fit")) if r["rank/loss"]] == ["5", "11"]


def test_config_yaml_repeats_the_run():
    fit("--model.learning_rate", "0.02", "--seed_everything", "3")
    first = RunFolder(Path("runs/toy/recommender/seed-3"))
    run_stage(parse_stage(["fit", "--config", str(first.config), "--run.name", "again"]))
    again = RunFolder(Path("runs/toy/again/seed-3"))
    assert_same_weights(first.last, again.last)
    assert rows(first.figures("fit")) == rows(again.figures("fit"))


def test_a_continued_run_equals_one_that_was_never_interrupted():
    fit("--trainer.max_epochs", "4", "--run.name", "whole")
    whole = RunFolder(Path("runs/toy/whole/seed-0"))
    fit("--trainer.max_epochs", "2")
    first_half = RUN.figures("fit").read_text()
    result = fit("--trainer.max_epochs", "4", "--ckpt_path", "last")
    assert_same_weights(whole.last, RUN.last)
    assert_same_weights(whole.best, RUN.best)
    assert RUN.figures("fit").read_text().startswith(first_half)  # rows are appended
    assert rows(RUN.figures("fit")) == rows(whole.figures("fit"))
    assert result.trainer.checkpoint_callback.best_model_score == pytest.approx(
        min(float(r["rank/loss"]) for r in rows(RUN.figures("fit")) if r["rank/loss"])
    )
    optimizer = torch.load(RUN.last, weights_only=True)["optimizer_states"][0]["state"][0]["step"]
    assert optimizer == 24
    assert yaml.safe_load(RUN.config.read_text())["ckpt_path"] is None  # repeats the whole run, not its second half


@pytest.mark.slow
@pytest.mark.parametrize(
    "word",
    [
        "--optimizer.lr=0.5",
        "--trainer.gradient_clip_val=0.1",
        "--trainer.accumulate_grad_batches=2",
        "--trainer.limit_train_batches=2",
        "--trainer.precision=bf16-mixed",
        "--early_stopping.patience=3",
        "--model.learning_rate=0.5",
        "--model.encoder.dropout=0.1",
        "--data.reward=other",
    ],
)
def test_a_run_is_not_continued_with_settings_that_it_did_not_begin_with(began: Path, word: str):
    """An optimiser's would be ignored, and the others make a run of two halves that passes for one of them."""
    shutil.copytree(began, "runs")
    message = complaint("--trainer.max_epochs=2", "--ckpt_path=last", *BEGAN, word)
    assert message.startswith(word.partition("=")[0].lstrip("-"))
    assert "without --ckpt_path" in message


BEGAN = ("--optimizer=SGD", "--optimizer.lr=0.1", "--early_stopping={monitor: rank/loss, patience: 2}")


@pytest.fixture(scope="module")
def began(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``runs`` of a fit of toy.yaml with `BEGAN`, which may be continued."""
    place = tmp_path_factory.mktemp("began")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        Path("toy.yaml").write_text(STAGE)
        fit("--trainer.max_epochs", "1", *BEGAN)
    return place / "runs"


@pytest.mark.slow
def test_averaged_weights_are_handed_over_and_a_continued_run_averages_on():
    average = ["--trainer.callbacks+=recalign.recommender.PolynomialAveraging"]
    fit("--trainer.max_epochs", "4", "--run.name", "plain")
    fit("--trainer.max_epochs", "4", "--run.name", "whole", *average)
    fit("--trainer.max_epochs", "2", *average)
    fit("--trainer.max_epochs", "4", "--ckpt_path", "last", *average)
    plain, whole = (Path(f"runs/toy/{name}/seed-0/checkpoints") for name in ("plain", "whole"))
    assert_same_weights(whole / "last.ckpt", RUN.last)
    assert_same_weights(whole / "best.ckpt", RUN.best)
    trained = torch.load(whole / "last.ckpt", weights_only=True)["current_model_state"]
    assert all(torch.equal(trained[k], w) for k, w in weights(plain / "last.ckpt").items())  # training is the same
    assert not torch.equal(trained["head.weight"], weights(whole / "last.ckpt")["head.weight"])


def test_averaged_weights_are_not_trained_on():
    fit("--trainer.max_epochs", "1", "--trainer.callbacks+=recalign.recommender.PolynomialAveraging")
    for callbacks in ("[]", "[{class_path: lightning.pytorch.callbacks.EMAWeightAveraging}]"):
        with pytest.raises(InputError, match="average"):
            fit("--trainer.max_epochs", "2", "--ckpt_path", "last", f"--trainer.callbacks={callbacks}")


def test_a_run_that_stopped_within_an_epoch_goes_on_with_its_next_batch():
    fit("--trainer.max_epochs", "2", "--run.name", "whole")
    stop = ["--trainer.callbacks", '[{"class_path": "stage_doubles.StopAt", "init_args": {"step": 8}}]']
    with pytest.raises(RuntimeError, match="pulled the plug"):
        fit("--trainer.max_epochs", "2", "--checkpoint.save_last_every_n_steps", "4", *stop)
    assert torch.load(RUN.last, weights_only=True)["global_step"] == 8
    fit("--trainer.max_epochs", "2", "--checkpoint.save_last_every_n_steps", "4", "--ckpt_path", "last")
    assert_same_weights(Path("runs/toy/whole/seed-0/checkpoints/last.ckpt"), RUN.last)


def test_a_run_that_ended_by_its_steps_goes_on_within_the_epoch():
    fit("--trainer.max_steps", "10", "--run.name", "whole")
    fit("--trainer.max_steps", "8")
    fit("--trainer.max_steps", "10", "--ckpt_path", "last")
    assert_same_weights(Path("runs/toy/whole/seed-0/checkpoints/last.ckpt"), RUN.last)


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["--early_stopping={monitor: rank/loss, patience: 9}"]])
def test_a_run_that_ended_by_its_steps_at_the_end_of_an_epoch_goes_on_with_the_next(words: list[str]):
    whole = fit("--trainer.max_steps", "14", "--run.name", "whole", *words)
    fit("--trainer.max_steps", "6", *words)
    result = fit("--trainer.max_steps", "14", "--ckpt_path", "last", *words)
    assert (result.trainer.max_steps, result.trainer.current_epoch) == (14, whole.trainer.current_epoch)
    assert_same_weights(Path("runs/toy/whole/seed-0/checkpoints/last.ckpt"), RUN.last)
    assert rows(RUN.figures("fit")) == rows(RunFolder(Path("runs/toy/whole/seed-0")).figures("fit"))


def test_a_run_that_ends_by_its_steps_within_an_epoch_is_validated_there():
    fit("--trainer.max_steps", "2", "--early_stopping.monitor", "rank/loss")
    assert torch.load(RUN.best, weights_only=True)["global_step"] == 2
    assert [row["step"] for row in rows(RUN.figures("fit")) if row["rank/loss"]] == ["1"]


def test_last_is_the_last_epoch_even_where_the_best_is_older():
    fit("--checkpoint.mode", "max", "--trainer.max_epochs", "3")
    assert torch.load(RUN.best, weights_only=True)["epoch"] == 0
    assert torch.load(RUN.last, weights_only=True)["epoch"] == 2


@pytest.mark.usefixtures("trained")
def test_a_fresh_fit_never_mixes_with_the_run_before_it():
    (RUN.path / "evaluation").mkdir()
    old = RUN.figures("fit").read_text()
    fit("--trainer.max_epochs", "1")
    assert len([r for r in rows(RUN.figures("fit")) if r["rank/loss"]]) == 1
    assert not (RUN.path / "evaluation").exists()
    assert RUN.previous.joinpath("metrics.csv").read_text() == old
    assert RUN.previous.joinpath("evaluation").exists()


@pytest.mark.usefixtures("trained")
def test_a_run_does_not_empty_the_folder_it_starts_from():
    fit()
    assert "would empty" in complaint("--ckpt_path", str(RUN.previous / "checkpoints/last.ckpt"))
    assert RUN.previous.exists()


@pytest.mark.usefixtures("trained")
def test_a_checkpoint_of_another_class_is_refused_and_never_built():
    encoder = "{class_path: stage_doubles.Mixer}"
    Path("other.yaml").write_text(f"model: {{class_path: stage_doubles.OtherToy, init_args: {{encoder: {encoder}}}}}")
    message = complaint("--config", "other.yaml", "--ckpt_path", "last")
    what = "is 'stage_doubles.OtherToy' now; the run was started with 'stage_doubles.Toy'"
    assert message.startswith(f"model.class_path: {what}")


def test_a_checkpoint_of_something_else_is_refused():
    torch.save({"state_dict": {}}, "other.ckpt")
    assert "not a checkpoint of `recalign fit`" in complaint("--ckpt_path", "other.ckpt")


def test_a_checkpoint_is_read_without_running_what_it_holds():
    parameters = {"_class_path": "stage_doubles.Toy", "x": Path("evil")}
    torch.save({"state_dict": {}, "hyper_parameters": parameters}, "evil.ckpt")
    assert "not a usable checkpoint" in complaint("--ckpt_path", "evil.ckpt")


@pytest.mark.usefixtures("trained")
def test_validate_test_and_predict_use_the_best_checkpoint_and_leave_the_run_alone():
    before = RUN.manifest.read_text(), RUN.config.read_text(), RUN.figures("fit").read_text()
    for command in ("validate", "test", "predict"):
        result = run_stage(parse_stage([command, "--config", "toy.yaml"]))
        assert result.checkpoint == RUN.best
        assert torch.equal(result.model.head.weight.detach(), weights(RUN.best)["head.weight"])
    assert before == (RUN.manifest.read_text(), RUN.config.read_text(), RUN.figures("fit").read_text())
    assert len(rows(RUN.figures("test"))) == 1
    run_stage(parse_stage(["test", "--config", "toy.yaml"]))
    assert len(rows(RUN.figures("test"))) == 1


@pytest.mark.usefixtures("trained")
def test_evaluating_a_checkpoint_outside_a_run_leaves_what_lies_there_alone():
    for place, beside in (
        ("models", {"config.yaml", "test.csv", "manifest.json"}),
        ("checkpoints", {"config.yaml", "test.csv"}),
    ):
        Path("own", place).mkdir(parents=True)
        shutil.copy(RUN.best, f"own/{place}/best.ckpt")
        for name in beside:
            Path("own", name).write_text("{}")
        run_stage(parse_stage(["test", "--config", "toy.yaml", "--ckpt_path", f"own/{place}/best.ckpt"]))
        assert (RUN.path / "test.csv").is_file()
        assert {name: Path("own", name).read_text() for name in beside} == dict.fromkeys(beside, "{}")
        shutil.rmtree("own")


@pytest.mark.usefixtures("trained")
def test_a_checkpoint_that_a_callback_keeps_within_the_run_is_continued_as_the_runs_own():
    Path(RUN.path, "every").mkdir()
    shutil.copy(RUN.last, RUN.path / "every/one.ckpt")
    parsed = parse_stage(["fit", "--config", "toy.yaml", "--ckpt_path", str(RUN.path / "every/one.ckpt")])
    assert parsed.continued is not None
    assert parsed.in_place


@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_checkpoint_that_lacks_weights_is_refused(command: str):
    fit()
    checkpoint = torch.load(RUN.last, weights_only=True)
    name = next(iter(checkpoint["state_dict"]))
    del checkpoint["state_dict"][name]
    torch.save(checkpoint, "older.ckpt")
    message = complaint("--ckpt_path", "older.ckpt", command=command)
    assert f"older.ckpt: lacks the weights ['{name}']" in message
    assert "train that stage again" in message


@pytest.mark.parametrize("option", ["--checkpoint.monitor", "--early_stopping.monitor"])
def test_a_monitor_that_nothing_logs_says_what_is_logged(option: str):
    message = complaint(option, "rank/los")
    assert "rank/los" in message
    assert "rank/loss" in message


def test_a_run_says_nothing_that_a_user_could_not_use(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, warned: Callable[[], list[str]]
):
    fit()
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert warned() == []


def test_a_nan_stops_the_run_and_names_where():
    with pytest.raises(TrainingError) as caught:
        fit("--model.poison", "9")
    message = str(caught.value)
    assert "step 9 (epoch 1, batch 3)" in message
    assert "the last good checkpoint is runs/toy/recommender/seed-0/checkpoints/last.ckpt" in message
    assert not parse_stage(["fit", "--config", "toy.yaml"]).state().fresh
    assert torch.load(RUN.last, weights_only=True)["epoch"] == 0


def test_an_interrupted_run_is_marked_and_can_go_on(monkeypatch: pytest.MonkeyPatch):
    fit("--run.name", "whole")
    epoch = iter(range(2))

    def interrupt(*_: Any) -> None:
        if next(epoch):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("stage_doubles.Toy.on_validation_start", interrupt)
        patch.setattr("signal.signal", lambda *_: None)  # Lightning switches Ctrl-C off for good
        with pytest.raises(KeyboardInterrupt, match="--ckpt_path last"):
            fit()
    said = yaml.safe_load(RUN.manifest.read_text())
    assert (said["status"], said["error"]) == ("failed", "KeyboardInterrupt")
    fit("--ckpt_path", "last")
    assert yaml.safe_load(RUN.manifest.read_text())["status"] == "finished"
    assert_same_weights(Path("runs/toy/whole/seed-0/checkpoints/last.ckpt"), RUN.last)


def test_an_interrupted_evaluation_is_not_sent_to_another_checkpoint(monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    fit()
    monkeypatch.setattr("stage_doubles.Toy.test_step", interrupt)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # Lightning switches Ctrl-C off for good
    with pytest.raises(KeyboardInterrupt, match="run the same command again"):
        run_stage(parse_stage(["test", "--config", "toy.yaml"]))


def test_another_optimizer_and_a_scheduler_take_the_place_of_the_stages_own():
    words = ("--optimizer=SGD", "--optimizer.lr=0.5", "--lr_scheduler=StepLR", "--lr_scheduler.step_size=1")
    result = fit(*words, "--trainer.max_epochs=3", "--lr_scheduler.gamma=0.1")
    assert isinstance(result.trainer.optimizers[0], torch.optim.SGD)
    rates = {int(row["epoch"]): float(row["train/lr"]) for row in rows(RUN.figures("fit")) if row["train/lr"]}
    assert rates == {0: pytest.approx(0.5), 1: pytest.approx(0.05), 2: pytest.approx(0.005)}
    assert "lr_scheduler" in yaml.safe_load(RUN.config.read_text())
    fit()
    assert not {"optimizer", "lr_scheduler"} & yaml.safe_load(RUN.config.read_text()).keys()


def test_a_run_that_stopped_early_is_not_continued_under_another_name():
    words = ["--trainer.max_epochs=6", "--early_stopping={monitor: rank/loss, mode: max, patience: 2}"]
    fit(*words)
    before = RUN.best.read_bytes()
    with pytest.raises(InputError, match="nothing is left to train"):
        fit(*words, "--run.name=again", f"--ckpt_path={RUN.last}")
    assert RUN.best.read_bytes() == before


def test_ones_own_checkpoints_are_not_what_is_handed_over():
    own = "{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: {every_n_epochs: 1, save_top_k: -1}}"
    trainer = fit(f"--trainer.callbacks+={own}").trainer
    assert Path(trainer.checkpoint_callback.best_model_path).resolve() == RUN.best.resolve()


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["--trainer.callbacks=[StochasticWeightAveraging]", "--trainer.callbacks.swa_lrs=0.01"], "trainer.callbacks"),
        (["--trainer.callbacks=[LearningRateFinder]"], "trainer.callbacks"),
        (["--trainer.callbacks=[EMAWeightAveraging, EMAWeightAveraging]"], "trainer.callbacks"),
        (["--config", str(find("reward").resolve()), "--trainer.callbacks=EMAWeightAveraging"], "trainer.callbacks"),
        (["--trainer.overfit_batches=2"], "--trainer.overfit_batches"),
        (["--trainer.default_root_dir=x"], "trainer.default_root_dir"),
        (["--lr_scheduler=ConstantLR"], "lr_scheduler"),
        (["--optimizer.lr=0.1"], "--optimizer.lr: there is no key 'optimizer.lr'\n  -> name its class first"),
        (["--optimizer=SGD", "--optimizer.lrr=0.1"], "--optimizer.lrr: there is no key 'optimizer.lrr'\n  -> did you"),
        (["--optimizer=Adamm"], "optimizer: there is no class 'Adamm'\n  -> did you mean Adam?"),
        (["--config", str(find("trainer/fsdp").resolve())], "trainer.strategy"),
        (["--trainer.strategy", "fsdp"], "trainer.strategy"),
        (["--trainer.limit_val_batches=0"], "trainer.limit_val_batches"),
    ],
)
def test_settings_of_which_a_run_would_not_be_what_it_says_are_refused(words: list[str], where: str):
    with pytest.raises(InputError) as refused:
        parse_stage(["fit", "--config", "toy.yaml", *words])
    assert str(refused.value).startswith(where)


@pytest.mark.parametrize(
    ("words", "says"), [(["--trainer.devices", "0"], "trainer"), (["--trainer.accelerator", "gpu"], "trainer")]
)
def test_devices_that_are_not_there_are_refused_before_the_data_is_read(
    words: list[str], says: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("stage_doubles.ToyData.read", lambda *_, **__: pytest.fail("the data was read"))
    assert says in complaint(*words)


def test_a_run_whose_other_process_is_gone_says_so(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any) -> None:
        raise RuntimeError("[../gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1")

    monkeypatch.setattr("stage_doubles.Toy.training_step", fail)
    monkeypatch.setattr("lightning.Trainer.world_size", 2)
    with pytest.raises(TrainingError, match=r"another process of this run is gone.*\n.*--ckpt_path last"):
        fit()
