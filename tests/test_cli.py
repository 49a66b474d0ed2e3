"""The `recalign` command: what its words do, and that whatever cannot be used ends in one message and exit code 2."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import polars as pl
import pytest
import tiny
from polars.testing import assert_frame_equal

from recalign import Log, load_policy
from recalign.cli import COMMANDS, main, with_config_files
from recalign.errors import InputError
from recalign.run import configs

HEAD = "who,what,moment,stars"
LOG = """
data:
  log: {name: own, files: [own.csv], user: who, item: what, timestamp: moment}
  reward: stars
  high: {expression: stars >= 4}
  split: {class_path: recalign.data.sequences.LeaveLast, init_args: {test: 1, validation: 1}}
  max_length: 16
"""
SHORT = ("--data.root=.", "--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false")
BEST = "runs/own/recommender/seed-0/checkpoints/best.ckpt"


def events() -> list[str]:
    """Rows of a log: 30 users, 8 of 20 items each, a star or five."""
    draw = random.Random(0)
    users = [(user, draw.sample(range(1, 21), 8)) for user in range(1, 31)]
    return [f"{u},{i},{100 * k + u},{draw.randint(1, 5)}" for u, items in users for k, i in enumerate(items)]


def write(folder: Path, *more: str, rows: list[str] | None = None) -> None:
    (folder / "own.csv").write_text("\n".join([HEAD, *(events() if rows is None else rows), *more]) + "\n")


def command(folder: Path, word: str, stage: str, *more: str) -> tiny.Said:
    """Run ``recalign fit|validate|test|predict`` of a stage on the log in a folder."""
    return tiny.recalign(folder, word, "--config", stage, "--config", "own.yaml", *SHORT, *more)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with conf/ and a small log with its YAML."""
    shutil.copytree(tiny.CONF, tmp_path / "conf")
    (tmp_path / "own.yaml").write_text(LOG)
    write(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a folder in which a policy was cloned and, with a reward model, post-trained."""
    folder = tmp_path_factory.mktemp("first")
    shutil.copytree(tiny.CONF, folder / "conf")
    (folder / "own.yaml").write_text(LOG)
    write(folder)
    for stage in ("recommender", "reward", "asft"):
        assert command(folder, "fit", stage).code == 0
    return folder


@pytest.fixture
def trained(first: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(first, tmp_path / "trained")


# The words


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_has_a_line_for_each_command(tmp_path: Path, words: list[str]):
    said = tiny.recalign(tmp_path, *words)
    assert said.code == 0
    assert all(any(line.split()[:1] == [name] for line in said.out.splitlines()) for name in COMMANDS)
    assert max(map(len, said.out.splitlines())) <= 120
    assert "exit codes" in said.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_where_the_table_says_and_has_help(tmp_path: Path, name: str):
    module, _, function = COMMANDS[name].function.rpartition(".")
    assert callable(getattr(import_module(f"recalign.{module}"), function))
    if name in ("fit", "check", "init", "configs"):
        with suppress(SystemExit):
            tiny.recalign(tmp_path, name, "--help")


@pytest.mark.parametrize("mode", ["online", "offline", "disabled"])
def test_wandb_is_chosen_by_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str):
    monkeypatch.setenv("WANDB_MODE", "unset")
    assert main(["configs", "--wandb", "false" if mode == "disabled" else mode]) == 0
    assert os.environ["WANDB_MODE"] == mode


# Names of YAML


def test_names_before_the_first_option_and_after_config_become_files(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    (folder / "conf/methods/mine.yaml").write_text("model: {}")
    ours = [str(configs.shipped() / f"{name}.yaml") for name in ("methods/asft", "logs/ml-1m")]
    assert with_config_files("fit", ["mine", "own.yaml", "--model.lr", "0.1"]) == [
        *("--config", "conf/methods/mine.yaml", "--config", "own.yaml", "--model.lr", "0.1")
    ]
    shutil.rmtree(folder / "conf")
    assert with_config_files("fit", ["asft", "--config=ml-1m"]) == ["--config", ours[0], "--config", ours[1]]
    assert with_config_files("fit", ["-c", "asft", "--config", "ml-1m"]) == ["--config", ours[0], "--config", ours[1]]
    assert with_config_files("chain", ["ml-100k"]) == ["--config", str(configs.shipped() / "chains/ml-100k.yaml")]
    assert with_config_files("check", ["ml-100k"]) == ["--config", str(configs.shipped() / "logs/ml-100k.yaml")]


def test_the_users_own_conf_comes_before_what_is_shipped(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    assert configs.find("asft") == Path("conf/methods/asft.yaml")
    assert configs.find("ml-100k", "chains") == Path("conf/chains/ml-100k.yaml")
    (folder / "asft").write_text("")
    assert configs.find("asft") == Path("asft")
    (folder / "dpo").mkdir()  # a folder hides no name
    assert configs.find("dpo") == Path("conf/methods/dpo.yaml")
    (folder / "own").mkdir()
    with pytest.raises(InputError, match="own: is a folder"):
        configs.find("own")


def test_configs_lists_each_shipped_file_with_its_first_line(tmp_path: Path):
    said = tiny.recalign(tmp_path, "configs")
    lines = {line.split()[0]: line for line in said.out.splitlines() if line.startswith("  ")}
    assert (
        set(lines)
        == set(configs.names())
        == {str(path.relative_to(tiny.CONF).with_suffix("")) for path in tiny.CONF.rglob("*.yaml")}
    )
    assert "A-SFT: fine-tune on the log" in lines["methods/asft"]


def test_configs_prints_a_file_as_it_is(tmp_path: Path):
    for name, file in (("dpo", "methods/dpo.yaml"), ("chains/ml-100k", "chains/ml-100k.yaml")):
        assert tiny.recalign(tmp_path, "configs", name).out == (tiny.CONF / file).read_text()


def test_a_stage_runs_by_name_in_a_folder_without_conf(folder: Path):
    shutil.rmtree(folder / "conf")
    assert tiny.recalign(folder, "fit", "recommender", "own.yaml", *SHORT, "--trainer.limit_train_batches=1").code == 0
    assert (folder / BEST).is_file()


def test_the_light_commands_do_without_torch(tmp_path: Path):
    code = "import sys; from recalign.cli import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    for words in (["--help"], ["fit", "-h"], ["configs"], ["configs", "asft"]):
        subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path, check=True, capture_output=True)


# Commands


def test_a_wrong_folder_is_refused_before_anything_slow_is_imported(tmp_path: Path):
    code = "import sys; from recalign.cli import main; codes = [main([one, 'gone']) for one in sys.argv[1:]]; "
    code += "print(codes, {'torch', 'polars', 'numpy', 'pydantic', 'fastapi'} & {*sys.modules}); "
    code += "import time; assert time.process_time() < 2"
    words = [sys.executable, "-c", code, "serve", "export", "recommend"]
    done = subprocess.run(words, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout == "[2, 2, 2] set()\n"
    assert [line[:16] for line in done.stderr.splitlines()[::2]] == [
        "recalign serve: ",
        "recalign export:",
        "recalign recomme",
    ]


def test_check_says_what_a_log_holds_and_trains_nothing(folder: Path):
    write(folder, "1,999,90000,5")
    said = tiny.recalign(folder, "check", "--config", "own.yaml", "--data.root", ".")
    assert said.code == 0
    assert "241 rows read from own.csv" in said.out
    for word in ("reward histogram", "split", "leaks", "unseen in training"):
        assert word in said.out
    assert not (folder / "runs").exists()


@pytest.mark.slow
def test_predict_writes_each_users_items_with_scores(trained: Path):
    said = command(trained, "predict", "recommender", "--model.top_k=4")
    assert said.code == 0
    frame = pl.read_parquet(trained / "runs/own/recommender/seed-0/recommendations.parquet")
    assert frame.columns == ["user", "rank", "item", "score"]
    assert set(frame["user"]) == set(range(1, 31))
    assert frame.group_by("user").len()["len"].unique().to_list() == [4]
    seen = {tuple(map(int, row.split(",")[:2])) for row in events()}
    assert not seen & set(zip(frame["user"], frame["item"], strict=True))
    steps = frame.sort("user", "rank").select(pl.col("score").diff().over("user")).drop_nulls()
    assert (steps["score"] <= 0).all()


@pytest.mark.slow
def test_validate_and_test_leave_their_figures(trained: Path):
    for word, file, figure in (("validate", "validate.csv", "rank/all/mrr"), ("test", "test.csv", "rank/test/all/mrr")):
        assert command(trained, word, "asft").code == 0
        assert figure in pl.read_csv(trained / "runs/own/asft/seed-0" / file).columns


@pytest.mark.slow
@pytest.mark.parametrize("word", ["--data.reward=stars * 2", "--data.users=B2", "--data.share_a=0.5"])
def test_a_reward_model_is_tested_on_its_own_rewards_and_users(trained: Path, word: str):
    trust = trained / "runs/own/reward/seed-0/trust.json"
    before = trust.read_bytes()
    assert command(trained, "test", "reward", word).code == 2
    assert trust.read_bytes() == before
    assert command(trained, "test", "reward").code == 0


def test_ids_on_the_command_line_are_text(trained: Path):
    said = tiny.recalign(trained, "recommend", "runs/own/recommender/seed-0", "--k=1", "--users=[010, 7]")
    assert said.code == 0
    assert [line.split()[1] for line in said.out.splitlines() if line.startswith("│")] == ["7", "10"]  # no octal 8


def test_the_command_and_python_give_one_answer(trained: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(trained)
    run = Path("runs/own/asft/seed-0")
    assert tiny.recalign(trained, "recommend", str(run), "--k=3").code == 0
    policy = load_policy(Log.from_config("own.yaml", folder="runs/own", root="."), run)
    assert_frame_equal(pl.read_parquet(run / "recommendations.parquet"), policy.recommend(k=3))


def test_a_user_without_a_known_event_is_said(folder: Path):
    """User 99 has one event, of an item that nobody else met, after the end of training."""
    write(folder, "99,999,2000,5")
    split = "--data.split={class_path: recalign.data.sequences.TimeSplit}"
    assert command(folder, "fit", "recommender", split).code == 0
    said = tiny.recalign(folder, "recommend", "runs/own/recommender/seed-0", "--users=[99, 1]", "--k=1")
    users = pl.read_parquet(folder / "runs/own/recommender/seed-0/recommendations.parquet")["user"].n_unique()
    assert said.code == 0
    assert f"recommendations for {users} users" in said.out
    assert "no list for 99: no event with an item of the catalogue, or" in said.out


def test_training_that_cannot_go_on_exits_with_3(trained: Path):
    said = command(trained, "fit", "asft", "--model.lr=1e39", "--trainer.max_epochs=3")  # infinite as a float32
    assert said.code == 3
    assert "fit: weights are NaN or infinite: policy." in said.err  # they are, before the next loss is
    assert ".ckpt is not written\n  -> lower the learning rate" in said.err


# Bad input


@pytest.mark.parametrize("stage", ["recommender", "asft"])
def test_a_policy_of_another_catalogue_is_refused_before_the_earlier_run_is_put_aside(trained: Path, stage: str):
    write(trained, *(f"{user},77,{user},3" for user in range(1, 31)))
    (trained / BEST).rename(trained / "other.ckpt")
    kept = trained / f"runs/own/{stage}/seed-0/checkpoints/last.ckpt"
    said = command(trained, "fit", stage, "--model.init_from=other.ckpt")
    assert said.code == 2
    assert "other.ckpt" in said.err
    assert kept.exists()


@pytest.mark.parametrize("flag", [["--strict"], ["--strict", "true"], ["--strict=true"]])
def test_a_log_with_concerns_fails_a_strict_check(folder: Path, flag: list[str]):
    words = ["check", "own.yaml", "--data.root=."]  # few users: intervals will be wide
    assert tiny.recalign(folder, *words).code == 0
    with pytest.raises(SystemExit) as stop:
        tiny.recalign(folder, *words, *flag)
    assert stop.value.code == 4
