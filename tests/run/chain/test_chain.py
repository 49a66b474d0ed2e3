"""The chain: what it runs, what it runs again, and what it refuses before it runs anything."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
import tiny
import torch
import wandb
import yaml
from filelock import FileLock
from lightning import Trainer

from recalign.data.events import LogMapping
from recalign.data.simulation import World
from recalign.errors import InputError
from recalign.reward import RewardData
from recalign.run import configs
from recalign.run.chain import BASE_STAGES, Chain, Plan
from recalign.run.chain import command as chain_command
from recalign.run.chain import plan as chain_plan
from recalign.run.chain.checks import check_stage_settings, make_world
from recalign.run.chain.command import of_log, split_overrides
from recalign.run.chain.steps import steps_of
from recalign.run.stage import Stage, parse_stage
from recalign.run.stage import parsed as parsed_stage

RUNS = Path("runs/tiny")
TRAINED = (*BASE_STAGES, "bc", "asft")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tiny.Said]:
    """A folder in which the tiny chain has run, and what it said. Left as it is by every test."""
    folder = tiny.prepare(tmp_path_factory.mktemp("first"))
    return folder, tiny.chain(folder)


@pytest.fixture
def again(first: tuple[Path, tiny.Said], tmp_path: Path) -> Path:
    """A copy of that folder."""
    return shutil.copytree(first[0], tmp_path / "again")


@pytest.fixture
def here(first: tuple[Path, tiny.Said], monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder itself, for what only reads; the current folder."""
    monkeypatch.chdir(first[0])
    return first[0]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which nothing has run. Left as it is by every test."""
    folder = tiny.prepare(tmp_path_factory.mktemp("prepared"))
    return folder


def commands(out: str) -> list[str]:
    return [line.strip() for line in out.splitlines() if line.startswith("  recalign fit")]


def stages(out: str) -> list[str]:
    """Names of the stages that were run."""
    return [word.split("=")[1] for line in commands(out) for word in shlex.split(line) if word.startswith("--run.name")]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def planned(*words: str, **settings: Any) -> dict[str, Stage]:
    overrides = split_overrides(words)[1]
    chain = Chain(log="simulated", methods=["start", "asft"], data={"root": "data"}, **settings)
    plan = Plan(chain, Path("conf/chains/tiny.yaml"), overrides)
    check_stage_settings(plan, parsed := plan.parse())
    return parsed


def test_a_chain_leaves_runs_a_comparison_and_a_report(first: tuple[Path, tiny.Said]):
    folder, said = first
    assert said.code == 0
    assert stages(said.out) == list(TRAINED)
    assert [line.partition(":")[0] for line in said.out.splitlines() if line.startswith("stage ")] == [
        f"stage {n} of 7" for n in range(1, 8)
    ]
    assert "runs/tiny/comparison.csv\nruns/tiny/report.html\n" in said.out
    assert "…" not in said.out  # no figure is cut where there is no terminal
    for stage in TRAINED:
        left = {path.name for path in (folder / RUNS / stage / "seed-0").iterdir()}
        assert {"checkpoints", "config.yaml", "manifest.json", "metrics.csv"} <= left
    for method in ("popularity", "start", "rerank", "bc", "asft"):
        left = {path.name for path in (folder / RUNS / method / "seed-0/evaluation").iterdir()}
        assert left == {"digests.json", "examples.json", "summary.json", "test.parquet", "validation.parquet"}
    table = pl.read_csv(folder / RUNS / "comparison.csv")
    assert table.columns == ["method", "seed", "split", "metric", "value", "ci_low", "ci_high"]
    assert set(table["method"]) == {"popularity", "start", "rerank", "bc", "asft"}
    metrics = {"all/ndcg@10", "high/ndcg@10", "value/judge@10", "value/true@10", "policy/kl", "cost/steps"}
    assert metrics <= set(table["metric"])
    assert "split" in json.loads((folder / RUNS / "check.json").read_text())
    assert (folder / RUNS / "report.html").read_text().rstrip().endswith("</html>")


@pytest.mark.long
def test_two_workers_leave_the_figures_of_one_process(first: tuple[Path, tiny.Said], tmp_path: Path, trial):
    trial("Reproducible figures", "a chain's stages on two workers, in another folder")
    tiny.prepare(tmp_path)
    said = tiny.chain(tmp_path, "--workers=2")
    assert said.code == 0, said.err
    tables = [(folder / RUNS / "comparison.csv").read_text().splitlines() for folder in (first[0], tmp_path)]
    ours, theirs = ([row for row in table if "cost/seconds" not in row] for table in tables)
    assert ours == theirs
    assert "done 9 of 9: evaluation/seed-0\n" in said.out  # of which two parts came earlier
    logs = "\n".join(log.read_text() for log in (tmp_path / RUNS / "logs").iterdir())
    assert sorted(stages(logs)) == sorted(stages(first[1].out))
    assert json.loads((tmp_path / RUNS / "asft/seed-0/manifest.json").read_text())["threads"] == 1


@pytest.mark.slow
def test_a_second_call_runs_nothing_and_says_so(again: Path):
    table = (again / RUNS / "comparison.csv").read_text()
    written = {path: path.stat().st_mtime_ns for path in again.glob("runs/tiny/*/seed-0/**/*")}
    said = tiny.chain(again)
    assert said.code == 0
    assert commands(said.out) == []
    assert [f"unchanged: runs/tiny/{stage}/seed-0" in said.out for stage in TRAINED] == [True] * len(TRAINED)
    assert "unchanged: the evaluation of seed 0" in said.out
    assert {path: path.stat().st_mtime_ns for path in again.glob("runs/tiny/*/seed-0/**/*")} == written
    assert (again / RUNS / "comparison.csv").read_text() == table


@pytest.mark.slow
def test_a_second_call_parses_each_stage_once(again: Path, monkeypatch: pytest.MonkeyPatch):
    parsed = []

    def parse(argv: list[str], *settings: dict[str, Any]) -> Stage:
        parsed.append(argv)
        return parse_stage(argv, *settings)

    monkeypatch.setattr(chain_plan, "parse_stage", parse)
    assert tiny.chain(again).code == 0
    assert len(parsed) == len(TRAINED)


@pytest.mark.slow
def test_another_setting_of_asft_runs_it_and_its_evaluation_alone(again: Path):
    said = tiny.chain(again, "--stages.asft.model.temperature", "0.6")
    assert said.code == 0
    assert stages(said.out) == ["asft"]
    assert "  evaluated: asft\n" in said.out
    assert (again / RUNS / "asft/seed-0.previous/evaluation").is_dir()  # which the comparison must not read
    config = (again / RUNS / "asft/seed-0/config.yaml").read_text()
    assert "temperature: 0.6" in config


@pytest.mark.slow
def test_an_upstream_that_changed_runs_what_follows(again: Path):
    said = tiny.chain(again, "--stages.reward.model.lr=0.01", "--methods", "[start, bc, asft]")
    assert stages(said.out) == ["reward", "asft"]  # whose rewards are the model's predictions; bc reads none
    assert "  evaluated: start, bc, asft\n" in said.out  # the figure reward_model@10 is the reward model's


@pytest.mark.slow
def test_seeds_are_chains_of_their_own_and_old_methods_stay_out_of_the_table(again: Path):
    said = tiny.chain(again, "--seeds", "[0, 1]", "--methods", "[start, asft]")
    assert said.code == 0
    assert stages(said.out) == [*BASE_STAGES, "asft"]
    table = pl.read_csv(again / RUNS / "comparison.csv").filter(metric="all/ndcg@10", split="test")
    assert set(table["method"]) == {"start", "asft"}
    assert table.filter(method="asft")["seed"].to_list() == ["0", "1", "all"]
    assert table.filter(seed="all")["ci_low"].null_count() == 0
    ours = [weights(again / RUNS / f"recommender/seed-{seed}") for seed in (0, 1)]
    assert any((ours[0][name] != ours[1][name]).any() for name in ours[0])


def test_compare_and_report_read_the_run_folders(again: Path):
    for path in (again / RUNS).glob("*.*"):
        path.unlink()
    said = tiny.recalign(again, "report", "runs/tiny")
    assert said.code == 2
    assert "recalign compare runs/tiny" in said.err
    said = tiny.recalign(again, "compare", "runs/tiny", "--draws", "50")
    assert said.code == 0
    assert "asft" in said.out
    assert said.out.endswith("runs/tiny/comparison.csv\n")
    said = tiny.recalign(again, "report", "runs/tiny")
    assert said.code == 0
    assert said.out.endswith("runs/tiny/report.html\n")
    assert (again / RUNS / "report.html").is_file()


@pytest.mark.slow
def test_an_interrupted_chain_goes_on_where_it_was(again: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    shutil.rmtree(again / RUNS / "asft")
    with monkeypatch.context() as patch:
        patch.setattr("recalign.posttrain.weighted.WeightedSFT.training_step", interrupt)
        patch.setattr("signal.signal", lambda *_: None)  # Lightning switches Ctrl-C off for good
        said = tiny.chain(again, "--methods=[asft]")
    assert said.code == 130
    assert said.err.endswith("recalign chain: interrupted\n  -> give the same command again to go on\n")
    said = tiny.chain(again, "--methods=[asft]")
    assert said.code == 0
    assert stages(said.out) == ["asft"]


@pytest.mark.long
def test_figures_of_checkpoints_that_are_gone_are_not_shown(again: Path, monkeypatch: pytest.MonkeyPatch):
    """A chain is killed when it has trained the reward model anew, and nothing yet that stands on it."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("recalign.posttrain.weighted.WeightedSFT.training_step", interrupt)
        patch.setattr("signal.signal", lambda *_: None)
        assert tiny.chain(again, "--stages.reward.model.lr=0.01").code == 130
    for command in ("report", "compare"):
        said = tiny.recalign(again, command, "runs/tiny")
        assert said.code == 2, said.out
        assert "reward/seed-0/checkpoints/best.ckpt" in said.err
        assert "recalign chain" in said.err
    assert tiny.chain(again, "--stages.reward.model.lr=0.01").code == 0
    assert tiny.recalign(again, "report", "runs/tiny").code == 0


@pytest.mark.long
def test_a_row_whose_own_checkpoint_is_gone_is_left_out(again: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("recalign.posttrain.weighted.WeightedSFT.training_step", interrupt)
        patch.setattr("signal.signal", lambda *_: None)
        assert tiny.chain(again, "--stages.asft.model.temperature=0.6").code == 130
    said = tiny.recalign(again, "report", "runs/tiny")
    assert said.code == 2
    assert "asft/seed-0" in said.err
    assert "recalign compare runs/tiny" in said.err
    assert tiny.recalign(again, "compare", "runs/tiny").code == 0
    assert "asft" not in set(pl.read_csv(again / RUNS / "comparison.csv")["method"])
    assert tiny.recalign(again, "report", "runs/tiny").code == 0
    assert tiny.chain(again, "--stages.asft.model.temperature=0.6").code == 0
    assert "asft" in set(pl.read_csv(again / RUNS / "comparison.csv")["method"])


@pytest.mark.slow
def test_a_truncated_evaluation_is_made_again(again: Path):
    summary = again / RUNS / "asft/seed-0/evaluation/summary.json"
    summary.write_bytes(summary.read_bytes()[:-20])
    said = tiny.recalign(again, "compare", "runs/tiny", "--draws=50")
    assert said.code == 2
    assert "summary.json" in said.err
    said = tiny.chain(again)
    assert said.code == 0, said.err
    assert "  evaluated: asft\n" in said.out
    assert commands(said.out) == []


@pytest.mark.slow
def test_the_value_of_a_variable_is_written_nowhere(again: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WHO", "1.2345678")
    said = tiny.chain(again, "--data.log.where=item > ${oc.env:WHO}", "--methods", "[start, bc]")
    assert said.code == 0, said.err
    files = [path for path in (again / "runs").rglob("*") if path.is_file() and path.suffix != ".ckpt"]
    assert [path for path in files if b"1.2345678" in path.read_bytes()] == []
    assert "${oc.env:WHO}" in (again / "runs/tiny/check.json").read_text()


@pytest.mark.slow
def test_one_process_at_a_time_runs_a_chain_in_a_folder(again: Path):
    with FileLock((again / RUNS).with_name(".tiny.lock")):
        result = tiny.chain(again)
    assert result.code == 2
    assert "runs/tiny: another process is running a chain in this folder" in result.err
    assert tiny.chain(again).code == 0


@pytest.mark.slow
def test_another_logs_chain_is_not_replaced(again: Path):
    log = yaml.safe_load((again / "conf/logs/simulated.yaml").read_text())
    log["data"]["log"]["name"] = "other"
    (again / "conf/logs/other.yaml").write_text(yaml.safe_dump(log))
    result = tiny.chain(again, "--log=other")
    assert result.code == 2
    assert "runs/tiny: it holds a chain of the log 'simulated', and this one is of 'other'" in result.err
    assert commands(result.out) == []


def test_a_finished_run_stays_where_a_reward_model_of_another_reward_is_refused(again: Path):
    run, reward = again / RUNS / "asft/seed-0", again / RUNS / "reward/seed-0/checkpoints/best.ckpt"
    words = [f"--config={run}/config.yaml", "--data.reward=0 - reward", f"--data.reward_model={reward}"]
    result = tiny.recalign(again, "fit", *words)
    assert result.code == 2
    assert "this reward model predicts 'reward', and the reward here is '0 - reward'" in result.err
    assert (run / "checkpoints/best.ckpt").is_file()
    assert not run.with_name("seed-0.previous").exists()


@pytest.mark.slow
def test_where_no_method_has_settings_nothing_is_searched(again: Path):
    result = tiny.chain(again, "--trials=2", "--methods=[popularity, start]")
    assert result.code == 0, result.err
    assert not (again / RUNS / "search.csv").exists()


def test_the_printed_line_runs_alone_and_gives_the_same_weights(again: Path, first: tuple[Path, tiny.Said]):
    line = commands(first[1].out)[-1]
    said = tiny.recalign(again, *shlex.split(line)[1:], "--run.name=alone")
    assert said.code == 0
    assert said.out == "runs/tiny/alone/seed-0: fit done, runs/tiny/alone/seed-0/checkpoints/best.ckpt\n"
    ours, theirs = weights(again / RUNS / "alone/seed-0"), weights(again / RUNS / "asft/seed-0")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_wandb_files_are_grouped_by_chain(again: Path, monkeypatch: pytest.MonkeyPatch):
    from recalign.run.chain import chain

    monkeypatch.chdir(again)
    monkeypatch.setenv("WANDB_MODE", "offline")
    chain(["--config", "conf/chains/tiny.yaml", "--methods=[asft]", "--stages.asft.trainer.log_every_n_steps=1"])
    wandb.teardown()  # a finished run is still being written by W&B's own process: wait for that to end
    (file,) = (again / RUNS / "asft/seed-0/wandb").glob("offline-run-*/*.wandb")
    content = file.read_bytes()
    assert all(word in content for word in (b"tiny", b"asft/seed-0", b"policy/kl"))


@pytest.mark.usefixtures("here")
def test_overrides_reach_one_stage_or_all():
    parsed = planned(
        *(
            "--trainer.max_epochs",
            "3",
            "--stages.asft.model.temperature=0.5",
            "--stages.reward.trainer.max_epochs",
            "7",
        ),
        trainer={"precision": "bf16-mixed", "max_epochs": 2},
        stages={"asft": {"model": {"temperature": 9, "lr": 0.5}}},
        name="mine",
    )
    assert {stage: p.config["trainer"]["max_epochs"] for stage, p in parsed.items()} == {
        "recommender": 3,
        "reward": 7,
        "judge_select": 3,
        "judge_report": 3,
        "asft": 3,
    }
    assert {p.config["trainer"]["precision"] for p in parsed.values()} == {"bf16-mixed"}
    assert parsed["asft"].config["model"]["init_args"]["temperature"] == 0.5
    assert parsed["asft"].config["model"]["init_args"]["lr"] == 0.5
    assert {p.folder.path.parents[1] for p in parsed.values()} == {Path("runs/mine")}
    users = {stage: p.config["data"]["init_args"]["users"] for stage, p in parsed.items()}
    assert (users["judge_select"], users["judge_report"], users["reward"], users["asft"]) == ("B1", "B2", "A", "A")


@pytest.mark.usefixtures("here")
def test_settings_of_a_method_that_is_left_out_are_no_mistake():
    """A chain's YAML has settings of `wbc`, and ``--methods`` names other rows; a misspelt stage is still refused."""
    file, methods = Path("conf/chains/tiny.yaml"), ["start", "asft"]
    kept = Plan(Chain(log="simulated", methods=methods, stages={"wbc": {"data": {"baseline": "user"}}}), file, {})
    assert "wbc" not in kept.stages
    for stages, typed in ({"wcb": {}}, []), ({}, ["--stages.wbc.data.baseline=user"]):
        with pytest.raises(InputError, match="trains no"):
            Plan(Chain(log="simulated", methods=methods, stages=stages), file, split_overrides(typed)[1])


def test_settings_of_a_method_apply_to_its_placebos_first():
    stages = {
        "asft": {"data": {"baseline": "item"}, "model": {"transform": "sign", "temperature": 0.7}},
        "asft_random": {"model": {"transform": "rank"}},
    }
    overrides = split_overrides(["--stages.asft.model.temperature=0.3", "--stages.asft_random.data.soft=2"])[1]
    methods, placebos = ["asft", "asft_permuted", "asft_random"], {"asft_permuted": "asft", "asft_random": "asft"}
    chain = Chain(log="simulated", methods=methods, placebos=placebos, data={"root": "data"}, stages=stages)
    parsed = Plan(chain, Path("conf/chains/tiny.yaml"), overrides).parse()

    def said(stage: str, part: str, key: str) -> Any:
        return parsed[stage].config[part]["init_args"][key]

    assert [said(stage, "data", "baseline") for stage in chain.methods] == ["item"] * 3
    assert [said(stage, "model", "transform") for stage in chain.methods] == ["sign", "sign", "rank"]
    assert [said(stage, "model", "temperature") for stage in chain.methods] == [0.3] * 3
    assert [said(stage, "data", "soft") for stage in chain.methods] == [1.0, 1.0, 2.0]
    names = [parsed[stage].config["data"]["class_path"].rpartition(".")[2] for stage in chain.methods]
    assert names == ["PostTrainingData", "PermutedPostTrainingData", "ShuffledPostTrainingData"]


@pytest.mark.usefixtures("here")
def test_runs_of_methods_import_the_users_encoder_that_their_policy_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "own_encoder.py").write_text("from recalign.nn import HSTU\n\n\nclass Own(HSTU): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_loss.py").touch()
    own = {"recommender": {"model.encoder": "own_encoder.Own"}}

    def imports(stage: str, file: str = "conf/chains/tiny.yaml", **stages: Any) -> list[str]:
        chain = Chain(log="simulated", methods=["start", "asft"], data={"root": "data"}, stages=stages)
        return Plan(chain, Path(file), {}).parse()[stage].config["run"]["imports"]

    assert imports("asft", **own) == imports("reward", **own) == ["own_encoder"]
    assert imports("recommender", **own) == imports("asft") == []
    assert imports("asft", **own, asft={"run.imports": ["own_loss"]}) == ["own_loss", "own_encoder"]
    (tmp_path / "methods").mkdir()
    method = yaml.safe_load((configs.shipped() / "methods/asft.yaml").read_text())
    (tmp_path / "methods/asft.yaml").write_text(yaml.safe_dump({**method, "run": {"imports": ["own_loss"]}}))
    assert imports("asft", str(tmp_path / "chains/tiny.yaml"), **own) == ["own_loss", "own_encoder"]


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_placebo_takes_the_temperature_that_its_method_found(monkeypatch: pytest.MonkeyPatch):
    methods, placebos = ["asft_permuted", "asft", "bc"], {"asft_permuted": "asft"}
    chain = Chain(log="simulated", methods=methods, placebos=placebos, data={"root": "data"})
    plan = Plan(chain, Path("conf/chains/tiny.yaml"), {})
    monkeypatch.setattr(Stage, "load", lambda stage: SimpleNamespace(checkpoint=stage.folder.path))
    monkeypatch.setattr(
        "recalign.run.chain.plan.read_checkpoint",
        lambda path: {"facts": {"temperature": {"asft": 0.469}[path.parent.name]}},
    )

    def temperature(*stage: Any) -> Any:
        return plan.stage(*stage).config["model"]["init_args"]["temperature"]

    assert [temperature(method, 0, None) for method in methods] == [0.469, "auto", "auto"]
    chosen = {"model.lr": 0.1, "model.temperature": "auto"}
    assert temperature("asft_permuted", 0, chosen) == 0.469
    assert temperature("asft_permuted", 0, chosen | {"model.temperature": 0.8}) == 0.8
    earlier = yaml.safe_load(Path(plan.yaml("asft_permuted")).read_text())
    earlier["model"]["init_args"] = {"temperature": 0.3}  # as the placebo of a chain that is updated has it
    Path("earlier.yaml").write_text(yaml.safe_dump(earlier))
    begin_with = lambda plan, name, _: ("earlier.yaml" if name == "asft_permuted" else plan.yaml(name), {})  # noqa: E731
    plan = Plan(chain, Path("conf/chains/tiny.yaml"), {}, begin_with)
    assert temperature("asft_permuted", 0, None) == 0.469
    steps = {step.name: step.needs for step in steps_of(plan, {}, [])}
    assert [*steps][-4:-1] == ["asft/seed-0", "bc/seed-0", "asft_permuted/seed-0"]
    assert "asft/seed-0" in steps["asft_permuted/seed-0"]
    assert steps["bc/seed-0"] == ("recommender/seed-0",)  # what it starts from, and no judge
    assert steps["judge_report/seed-0"] == ()
    parts = {step.name: step.needs for step in steps_of(plan, {}, [], side_by_side=True) if "evaluation" in step.name}
    needs = [set(needs) - {f"{stage}/seed-0" for stage in BASE_STAGES} for needs in parts.values()]
    assert needs == [set(), {"asft/seed-0", "evaluation-untrained/seed-0"}, {*steps, *parts} & needs[2]]
    assert {"bc/seed-0", "asft_permuted/seed-0", "evaluation-half/seed-0"} <= needs[2]


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_evaluation_ignores_settings_of_the_reward_model():
    settings = {"max_length": 5, "reward": "high"}
    chain = Chain(
        log="simulated",
        methods=["start"],
        data={"root": "data", "max_length": 20},
        stages={"reward": {"data": settings}},
    )
    for words, length in (([], 20), (["--data.max_length=30"], 30), (["--stages.reward.data.max_length=6"], 20)):
        plan = Plan(chain, Path("conf/chains/tiny.yaml"), split_overrides(words)[1])
        data = plan.data(0)
        assert (data.max_length, data.reward, data.know_request, data.users) == (length, "reward", False, "A")
        assert plan.parse()["reward"].config["data"]["init_args"]["reward"] == "high"


def test_methods_are_evaluated_on_the_machine_that_the_chain_names(here: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(parsed_stage, "Trainer", lambda **given: asked.append(given) or Trainer(logger=False))
    overrides = split_overrides(["--trainer.accelerator=cpu", "--stages.reward.trainer.accelerator=gpu"])[1]
    chain = Chain(log="simulated", methods=["start"], trainer={"devices": [1]}, data={"root": "data"})
    Plan(chain, Path("conf/chains/tiny.yaml"), overrides).device()
    assert [(given["accelerator"], given["devices"]) for given in asked] == [("cpu", [1])]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data.reward=null", "--data.high=null"], "data.reward: no event has a reward in .* of users A\n"),
        (["--stages.judge_report.data.reward=null"], "data.reward: no event has a reward in .* of users B2\n"),
        (["--data.share_a=1"], r"data\.share_a: there are no users B1 in this log\n"),
    ],
)
def test_rewards_that_are_missing_are_noticed_before_anything_is_trained(prepared: Path, words: list[str], said: str):
    result = tiny.chain(prepared, "--methods", "[start, asft]", *words)
    assert result.code == 2
    assert re.search(said, result.err), result.err
    assert commands(result.out) == []


def test_a_chain_and_its_log_may_lie_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tiny.prepare(tmp_path)
    elsewhere = tmp_path / "elsewhere/deep"
    elsewhere.mkdir(parents=True)
    shutil.copy(tmp_path / "conf/logs/simulated.yaml", elsewhere / "mine.yaml")
    monkeypatch.chdir(tmp_path)
    plan = Plan(Chain(log="mine.yaml", methods=["start"]), elsewhere / "own.yaml", {})
    assert (plan.log, plan.name) == (elsewhere / "mine.yaml", "own")
    assert plan.found("methods/asft.yaml") == Path("conf/methods/asft.yaml")  # one's own before the one that is shipped
    monkeypatch.chdir(elsewhere)
    shipped = Plan(Chain(log="mine.yaml", methods=["start"]), Path("own.yaml"), {}).found("methods/asft.yaml")
    assert shipped == configs.shipped() / "methods/asft.yaml"


def test_a_missing_world_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(
        "recalign.run.chain.checks.World", lambda shown: World(users=20, items=20, events=200, shown=shown)
    )
    data = RewardData(log=LogMapping("simulated", ["simulated/events.parquet"]), root=str(tmp_path))
    (tmp_path / "simulated").mkdir()  # by a run that was stopped while it wrote
    make_world(data, None)
    assert len(pl.read_parquet(tmp_path / "simulated/events.parquet")) == 200
    assert "making the default world" in capsys.readouterr().out
    make_world(data, None)
    shown = RewardData(log=LogMapping("simulated-shown", ["simulated/events.parquet"]), root=str(tmp_path / "shown"))
    make_world(shown, None)
    assert pl.read_parquet(tmp_path / "shown/simulated/events.parquet")["chosen"].mean() == 0.1
    capsys.readouterr()
    make_world(RewardData(log=LogMapping("other", ["simulated/x.parquet"]), root=str(tmp_path / "nowhere")), None)
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "nowhere").exists()


def test_a_world_of_other_settings_is_made_anew_and_the_same_one_is_not(tmp_path: Path):
    data = RewardData(log=LogMapping("simulated", ["simulated/events.parquet"]), root=str(tmp_path))
    file = tmp_path / "simulated/events.parquet"
    for events in (200, 150):
        make_world(data, World(users=20, items=20, events=events))
        assert len(pl.read_parquet(file)) == events
    written = file.stat().st_mtime_ns
    make_world(data, World(users=20, items=20, events=150))
    assert file.stat().st_mtime_ns == written


def test_overrides_are_told_from_the_chains_own_words():
    words = ["--config", "a.yaml", "--data.root=d", "--seeds", "[1]", "--stages.asft.model.lr", "-1", "--data.x", "1"]
    own, overrides = split_overrides(words)
    assert own == ["--config", "a.yaml", "--seeds", "[1]"]
    assert overrides == {None: [{"data.root": "d"}, {"data.x": "1"}], "asft": [{"model.lr": "-1"}]}


def test_a_log_stands_for_the_default_chain_named_after_it(tmp_path: Path):
    log, stage = tmp_path / "events.yaml", str(configs.find("asft"))
    default = f"--config={configs.find('chains/own-log')}"
    for data, name in (({"log": {"name": "shop"}}, "shop"), ({"reward": "stars"}, "events")):
        log.write_text(yaml.safe_dump({"data": data}))
        words = of_log(["--config", str(log), "--seeds=[1]"])
        assert words == [default, f"--log={log}", f"--name={name}", "--seeds=[1]"]
    log.write_text(yaml.safe_dump({"log": "shop", "data": {"max_length": 50}}))
    for words in (["--config", str(log)], ["-c", stage], ["--config", "gone.yaml"], ["--log", str(log)]):
        assert of_log(words) == words


def test_quick_chain_trains_the_highlight_and_placebos_alone():
    given = yaml.safe_load(configs.find("own-log", "chains").read_text())
    quick = Chain(**given).quickened()
    assert quick.trained == ["asft", "asft_permuted", "asft_random", "rerank_permuted"]
    dropped = ["bc", "reward_weighted", "reward_weighted_permuted"]
    assert quick.methods == [method for method in given["methods"] if method not in dropped]
    assert Chain(log="", methods=["start", "bc", "bc_rerank", "asft"], highlight="asft").quickened().methods == [
        "start",
        "asft",
    ]
    reranked = Chain(log="", methods=["start", "bc", "asft", "asft_rerank"], highlight="asft_rerank")
    assert reranked.quickened().quickened().methods == ["start", "asft", "asft_rerank"]


@pytest.mark.usefixtures("here")
def test_quick_chain_names_the_methods_that_it_leaves_out(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(chain_command, "run_chain", lambda plan: plan.folder)
    chain_command.chain(["--config", "conf/chains/tiny.yaml", "--quick", "true", "--methods", "[start, bc, asft, dpo]"])
    assert capsys.readouterr().out == "quick: without bc, dpo\n"


def test_plan_finds_files_above_the_chain_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tiny.prepare(tmp_path)
    monkeypatch.chdir(tmp_path / "conf/chains")
    found = Plan(Chain(log="simulated", methods=["start"]), Path("tiny.yaml"), {}).found("methods/asft.yaml")
    assert found is not None
    assert found.samefile(tmp_path / "conf/methods/asft.yaml")
    monkeypatch.chdir(tmp_path)
    for name in ("my-chain.yaml", "asft.yaml"):  # beside one another
        Path(name).write_text("{}")
    assert Plan(Chain(log="simulated", methods=["start"]), Path("my-chain.yaml"), {}).found("asft.yaml") == Path(
        "asft.yaml"
    )


@pytest.mark.usefixtures("here")
def test_appended_settings_of_all_stages_come_before_those_of_one():
    stages = {"asft": {"trainer": {"callbacks+": "LearningRateMonitor"}}}
    words = ["--trainer.callbacks+=LambdaCallback"] * 2 + ["--stages.asft.trainer.callbacks+=ModelSummary"]
    parsed = planned(*words, trainer={"callbacks+": ["DeviceStatsMonitor"]}, stages=stages)

    def callbacks(stage: str) -> list[str]:
        return [one["class_path"].rpartition(".")[2] for one in parsed[stage].config["trainer"]["callbacks"]]

    typed = ["LambdaCallback", "LambdaCallback"]
    assert callbacks("reward") == ["DeviceStatsMonitor", *typed]
    assert callbacks("asft") == ["DeviceStatsMonitor", "LearningRateMonitor", *typed, "ModelSummary"]


@pytest.mark.slow
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("stage", ["recommender", "reward", "judge_report", "asft"])
def test_a_stage_that_reads_other_times_than_the_evaluation_is_refused(stage: str):
    with pytest.raises(InputError, match=f"{stage}, data.request_time: this stage has request_time 'known'"):
        planned(f"--stages.{stage}.data.request_time=known")
    planned("--data.request_time=known")


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_judges_have_room_for_the_histories_that_they_judge():
    short = "--stages.judge_report.data.max_length=5"
    with pytest.raises(InputError, match=r"judge_report, model\.encoder\.max_length: .* limited to 5 events; .* 20\n"):
        planned(short, "--data.max_length=20")
    planned(short, "--data.max_length=20", "--stages.judge_report.model.encoder.init_args.max_length=20")


@pytest.mark.slow
def test_a_reward_model_of_another_reward_is_refused_before_anything_is_trained(here: Path):
    said = tiny.chain(here, "--name=own", "--methods=[start, rerank]", "--stages.reward.data.reward=reward * 2")
    assert said.code == 2
    assert "stages.reward.data: the reward model would learn" in said.err
    assert not list(here.glob("runs/own/*/seed-0/manifest.json"))
