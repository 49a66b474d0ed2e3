"""The next day: a chain goes on with its log as it has grown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tiny
import torch
import yaml

from recalign.data.sequences.earlier import EarlierLog
from recalign.data.simulation import World, simulate, write
from recalign.errors import InputError
from recalign.recommender.checkpoint import read_checkpoint
from recalign.run.chain.run import IDS
from recalign.run.chain.update import GOES_ON, Update, UpdatePlan
from recalign.run.stage import RunFolder

pytestmark = pytest.mark.slow

CHAIN = """
log: simulated
methods: [popularity, start, asft]
highlight: asft
data: {root: data, max_length: 24}
trainer: {max_epochs: 2, accelerator: cpu, enable_progress_bar: false}
stages:
  asft: {trainer: {max_epochs: 3}}
  reward: {data: {batch_tokens: 1600, max_length: 20}}
  judge_select: {data: {reward: true_reward}}
  judge_report: {data: {reward: true_reward}}
"""
STAGES = ("recommender", "reward", "asft")
JUDGES = ("judge_select", "judge_report")
GROWN = ("--log=simulated", "--data.root=later", "--epochs=0.5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chain on a log, the log as it is a day later under later/, and nothing else."""
    path = tiny.prepare(tmp_path_factory.mktemp("update"))
    write(simulate(World(users=60, items=50, events=1500)), path / "later")
    events = pl.read_parquet(path / "later/simulated/events.parquet")
    assert events["timestamp"].is_sorted()
    events.head(1100).write_parquet(path / "data/simulated/events.parquet")
    (path / "conf/chain/tiny.yaml").write_text(CHAIN)
    said = tiny.chain(path)
    assert said.code == 0, said.err
    return path


@pytest.fixture(scope="module")
def updated(folder: Path) -> tiny.Said:
    said = tiny.recalign(
        folder, "update", "runs/tiny", "--log=simulated", "--data.root=later", "--epochs=0.5", "--verbose"
    )
    assert said.code == 0, said.err
    return said


def run(folder: Path, chain: str, stage: str) -> RunFolder:
    return RunFolder(folder / "runs" / chain / stage / "seed-0")


def config(folder: Path, chain: str, stage: str) -> dict:
    return yaml.safe_load(run(folder, chain, stage).config.read_text())


@pytest.mark.usefixtures("updated")
def test_the_recommender_goes_on_and_the_others_begin_anew(folder: Path):
    now = config(folder, "tiny-update", GOES_ON)
    where = Path("runs/tiny/recommender/seed-0/checkpoints")
    assert Path(now["model"]["init_args"]["grows_from"]) in (where / "best.ckpt", where / "last.ckpt")
    for stage, epochs in {GOES_ON: 1, **dict.fromkeys(("reward", *JUDGES), 2), "asft": 3}.items():
        own = config(folder, "tiny-update", stage)
        assert own["trainer"]["max_epochs"] == epochs
        assert own["data"]["init_args"]["grows_from"] == "runs/tiny-update/ids-before"
        length = 20 if stage == "reward" else 24  # though the log's YAML says 200
        assert own["data"]["init_args"]["max_length"] == length
        assert stage == GOES_ON or "grows_from" not in own["model"]["init_args"]
    start = json.loads(run(folder, "tiny-update", "asft").manifest.read_text())["upstream"]["model.init_from"]["path"]
    assert "runs/tiny-update/recommender" in start  # the start of the day, not the earlier one


@pytest.mark.usefixtures("updated")
def test_what_the_chain_leaves_is_that_of_the_grown_log(folder: Path):
    before, after = (EarlierLog.read(folder / "runs" / name / IDS) for name in ("tiny", "tiny-update"))
    assert after.users["user"].head(len(before.users)).equals(before.users["user"])
    assert after.items.head(len(before.items)).equals(before.items)
    assert after.users["known"].sum() > before.users["known"].sum()
    for stage in (*STAGES, *JUDGES):
        checkpoint = read_checkpoint(run(folder, "tiny-update", stage).last)
        assert checkpoint["catalogue"] == after.facts["catalogue"]
        assert checkpoint["hyper_parameters"]["num_items"] == len(after.items)
    table = pl.read_csv(folder / "runs/tiny-update/comparison.csv")
    assert set(table["method"]) == {"popularity", "start", "asft"}
    assert (folder / "runs/tiny-update/report.html").is_file()


@pytest.mark.usefixtures("updated")
def test_judges_users_are_nobody_elses_before_or_after(folder: Path):
    groups = {}
    for chain in ("tiny", "tiny-update"):
        for stage in (*STAGES[1:], *JUDGES):
            users = read_checkpoint(run(folder, chain, stage).last)["users"]
            groups[chain, stage] = users["group"], users["count"]
    assert {stage: group for (_, stage), (group, _) in groups.items()} == {
        "reward": "A",
        "asft": "A",
        "judge_select": "B1",
        "judge_report": "B2",
    }
    assert groups["tiny-update", "reward"][1] >= groups["tiny", "reward"][1]


@pytest.mark.usefixtures("updated")
def test_the_same_update_again_runs_nothing_and_the_next_one_counts_from_the_first(folder: Path):
    again = tiny.recalign(folder, "update", "runs/tiny", *GROWN)
    assert again.code == 0, again.err
    assert again.out.count("unchanged: ") == 9  # six stages, the evaluation, the comparison and the page
    record = json.loads((folder / "runs/tiny-update/chain.json").read_text())
    assert record["goes_on_from"] == "runs/tiny"
    assert record["epochs"]["recommender/seed-0"] == 2  # not the one of the update
    weights = [read_checkpoint(run(folder, one, "recommender").last)["state_dict"] for one in ("tiny", "tiny-update")]
    rows = [one["policy.item_embedding.weight"].float() for one in weights]
    known = len(rows[0])
    near = torch.cosine_similarity(rows[0][1:], rows[1][1:known]).mean()
    assert near > 0.9  # they went on from there


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("runs/nothing", "--log=simulated"), "runs/nothing: holds no chain.json"),
        (("runs/tiny", "--log=simulated", "--epochs=0"), "epochs: 0.0 is not above 0"),
        (("runs/tiny", "--log=simulated", "--data.root=less", "--name=less"), "this log lacks"),
        (
            ("runs/tiny", "--log=simulated", "--data.reward=true_reward", "--name=other"),
            "data.reward: 'true_reward', and",
        ),
        (("runs/tiny", "more", "--log=simulated"), "'more' belongs to no option"),
        (("runs/tiny", "--log=simulated", "--name=tiny"), "an update cannot lie in the folder that it goes on from"),
    ],
    ids=["no chain", "no epochs", "no users", "another reward", "a stray word", "its own folder"],
)
def test_what_cannot_go_on_is_refused_before_anything_runs(folder: Path, words: tuple[str, ...], said: str):
    events = pl.read_parquet(folder / "later/simulated/events.parquet")
    for part in ("world.yaml", "truth.npz"):
        (folder / "less/simulated").mkdir(parents=True, exist_ok=True)
        (folder / "less/simulated" / part).write_bytes((folder / "data/simulated" / part).read_bytes())
    events.filter(pl.col("user") > np.int64(3)).write_parquet(folder / "less/simulated/events.parquet")
    found = tiny.recalign(folder, "update", *words)
    assert found.code == 2
    assert said in found.err
    assert "recalign fit" not in found.out


def test_a_methods_own_budget_stays(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    path = run(folder, "tiny", "asft").config
    text = path.read_text()
    assert "keep: 0.97" in text
    path.write_text(text.replace("keep: 0.97", "keep: 0.8"))
    try:
        plan = UpdatePlan(Update("runs/tiny", "simulated", name="held"), {})
        assert plan.parsed("asft", 0).config["model"]["init_args"]["keep"] == 0.8
    finally:
        path.write_text(text)


@pytest.mark.usefixtures("updated")
def test_an_updated_chain_may_be_renamed(folder: Path):
    (folder / "runs/tiny-update").rename(folder / "runs/moved")
    try:
        said = tiny.recalign(folder, "recommend", "runs/moved/asft/seed-0", "--k=2")
    finally:
        (folder / "runs/moved").rename(folder / "runs/tiny-update")
    assert said.code == 0, said.err


def test_a_chain_may_be_the_current_folder(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder / "runs/tiny")
    plan = UpdatePlan(Update(run=".", log="simulated"), {})
    assert plan.chain.name == "tiny-update"
    assert Path(plan.chain.root) == folder / "runs"


def test_ids_that_no_log_can_continue_leave_no_folder(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(_: Path) -> None:
        raise InputError("its items are known by their features", where="runs/tiny/ids")

    monkeypatch.setattr(EarlierLog, "read", refuse)
    found = tiny.recalign(folder, "update", "runs/tiny", "--log=simulated", "--name=never")
    assert (found.code, "known by their features" in found.err) == (2, True)
    assert not (folder / "runs/never").exists()


@pytest.mark.usefixtures("updated")
def test_a_log_that_says_where_its_rows_are_is_heard(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    log = yaml.safe_load((folder / "conf/data/simulated.yaml").read_text())
    log["data"]["root"] = "later"
    (folder / "grown.yaml").write_text(yaml.safe_dump(log))
    plan = UpdatePlan(Update("runs/tiny", "grown.yaml", name="told"), {})
    assert plan.data(0).root == "later"  # the earlier chain's YAML said: data
    assert plan.data(0).max_length == 24
    assert UpdatePlan(Update("runs/tiny", "simulated", name="same"), {}).data(0).root == "data"


@pytest.mark.usefixtures("updated")
def test_what_the_reward_model_alone_was_told_of_data_holds_for_it_alone(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    plan = UpdatePlan(Update("runs/tiny", "simulated", name="alone"), {"reward": {"trainer.max_epochs": 3}})
    assert (plan.data(0).batch_tokens, plan.data(0).max_length) == (3200, 24)
    own = plan.parsed("reward", 0).config["data"]["init_args"]
    assert (own["batch_tokens"], own["max_length"]) == (1600, 20)


def test_a_chain_that_has_not_finished_does_not_go_on(folder: Path):
    manifest = run(folder, "tiny", "asft").manifest
    kept = manifest.read_text()
    manifest.write_text(json.dumps(json.loads(kept) | {"status": "failed"}))
    try:
        said = tiny.recalign(folder, "update", "runs/tiny", "--log=simulated", "--name=third")
    finally:
        manifest.write_text(kept)
    assert said.code == 2
    assert "runs/tiny/asft/seed-0: is not finished" in said.err


@pytest.mark.usefixtures("updated")
def test_an_updated_run_does_without_the_earlier_chain(folder: Path):
    (folder / "runs/tiny").rename(folder / "runs/gone")
    try:
        said = tiny.recalign(folder, "recommend", "runs/tiny-update/asft/seed-0", "--k=2")
    finally:
        (folder / "runs/gone").rename(folder / "runs/tiny")
    assert said.code == 0, said.err
