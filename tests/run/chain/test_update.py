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
from recalign.run.chain.command import IDS
from recalign.run.chain.update import WARM_STARTED_STAGE, Update, update_plan
from recalign.run.stage import RunFolder

pytestmark = pytest.mark.slow

CHAIN = """
log: simulated
methods: [popularity, start, asft, bc]
highlight: asft
data: {root: data, max_length: 24}
trainer: {max_epochs: 2, accelerator: cpu, enable_progress_bar: false}
stages:
  asft: {trainer: {max_epochs: 3}}
  reward: {data: {batch_tokens: 1600, max_length: 20}}
  judge_select: {data: {reward: true_reward}}
  judge_report: {data: {reward: true_reward}}
"""
JUDGES = ("judge_select", "judge_report")
STAGES = ("recommender", "reward", "asft", *JUDGES)
GROWN = ("--log=simulated", "--data.root=later", "--epochs=0.5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chain on a log, the log as it is a day later under later/, and nothing else."""
    path = tiny.prepare(tmp_path_factory.mktemp("update"))
    write(simulate(World(users=60, items=50, events=1500)), path / "later")
    events = pl.read_parquet(path / "later/simulated/events.parquet")
    assert events["timestamp"].is_sorted()
    events.head(1100).write_parquet(path / "data/simulated/events.parquet")
    (path / "conf/chains/tiny.yaml").write_text(CHAIN)
    said = tiny.chain(path)
    assert said.code == 0, said.err
    return path


@pytest.fixture(scope="module")
def updated(folder: Path) -> tiny.Said:
    said = tiny.recalign(folder, "update", "runs/tiny", *GROWN)
    assert said.code == 0, said.err
    return said


def run(folder: Path, chain: str, stage: str) -> RunFolder:
    return RunFolder(folder / "runs" / chain / stage / "seed-0")


def last(folder: Path, chain: str, stage: str) -> dict:
    return read_checkpoint(run(folder, chain, stage).last)


@pytest.mark.long
@pytest.mark.usefixtures("updated")
def test_the_recommender_goes_on_and_the_others_begin_anew(folder: Path):
    where = Path("runs/tiny/recommender/seed-0/checkpoints")
    for stage, epochs in {WARM_STARTED_STAGE: 1, **dict.fromkeys(("reward", *JUDGES), 2), "asft": 3}.items():
        own = yaml.safe_load(run(folder, "tiny-update", stage).config.read_text())
        data, model = own["data"]["init_args"], own["model"]["init_args"]
        assert own["trainer"]["max_epochs"] == epochs
        assert data["grows_from"] == "runs/tiny-update/ids-before"
        assert data["max_length"] == (20 if stage == "reward" else 24)  # though the log's YAML says 200
        if stage == WARM_STARTED_STAGE:
            assert Path(model["grows_from"]) in (where / "best.ckpt", where / "last.ckpt")
        else:
            assert "grows_from" not in model
    start = json.loads(run(folder, "tiny-update", "asft").manifest.read_text())["upstream"]["model.init_from"]["path"]
    assert "runs/tiny-update/recommender" in start  # the start of the day, not the earlier one


@pytest.mark.usefixtures("updated")
def test_update_records_the_ids_of_the_grown_log(folder: Path):
    before, after = (EarlierLog(str(folder / "runs" / name / IDS)) for name in ("tiny", "tiny-update"))
    assert after.users["user"].head(len(before.users)).equals(before.users["user"])
    assert after.items.head(len(before.items)).equals(before.items)
    assert after.users["known"].sum() > before.users["known"].sum()
    groups = {"reward": "A", "asft": "A", "judge_select": "B1", "judge_report": "B2"}
    for stage in STAGES:
        checkpoint, earlier = last(folder, "tiny-update", stage), last(folder, "tiny", stage)
        assert checkpoint["catalogue"] == after.facts["catalogue"]
        assert checkpoint["hyper_parameters"]["num_items"] == len(after.items)
        if stage in groups:  # judges' users are nobody else's before or after
            assert checkpoint["users"]["group"] == earlier["users"]["group"] == groups[stage]
            assert checkpoint["users"]["count"] >= earlier["users"]["count"]
    table = pl.read_csv(folder / "runs/tiny-update/comparison.csv")
    assert set(table["method"]) == {"popularity", "start", "asft", "bc"}
    assert (folder / "runs/tiny-update/report.html").is_file()


@pytest.mark.usefixtures("updated")
def test_the_same_update_again_runs_nothing_and_the_next_one_counts_from_the_first(folder: Path):
    again = tiny.recalign(folder, "update", "runs/tiny", *GROWN)
    assert again.code == 0, again.err
    assert again.out.count("unchanged: ") == 8  # six stages, the evaluation and the comparison
    record = json.loads((folder / "runs/tiny-update/chain.json").read_text())
    assert record["goes_on_from"] == "runs/tiny"
    assert record["epochs"]["recommender/seed-0"] == 2  # not the one of the update
    weights = [last(folder, one, "recommender")["state_dict"] for one in ("tiny", "tiny-update")]
    rows = [one["policy.item_embedding.weight"].float() for one in weights]
    assert torch.cosine_similarity(rows[0][1:], rows[1][1 : len(rows[0])]).mean() > 0.9  # they went on from there


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("runs/tiny", "--log=simulated", "--epochs=0"), "epochs: 0.0 is not above 0"),
        (("runs/tiny", "--log=simulated", "--workers=0"), "workers: 0 is not above 0"),
        (("runs/tiny", "--log=simulated", "--data.root=less", "--name=less"), "this log lacks"),
        (("runs/tiny", "--log=simulated", "--data.reward=true_reward", "--name=other"), "reward: is 'true_reward'"),
        (("runs/tiny", "--log=simulated", "--name=tiny"), "name: "),
    ],
    ids=["no epochs", "no workers", "no users", "another reward", "its own folder"],
)
def test_update_refuses_invalid_chains_and_logs_before_anything_runs(folder: Path, words: tuple[str, ...], said: str):
    events = pl.read_parquet(folder / "later/simulated/events.parquet")
    for part in ("world.yaml", "truth.npz"):
        (folder / "less/simulated").mkdir(parents=True, exist_ok=True)
        (folder / "less/simulated" / part).write_bytes((folder / "data/simulated" / part).read_bytes())
    events.filter(pl.col("user") > np.int64(3)).write_parquet(folder / "less/simulated/events.parquet")
    found = tiny.recalign(folder, "update", *words)
    assert (found.code, said in found.err, "stage 1" in found.out) == (2, True, False)


def test_a_methods_own_budget_stays(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    path = run(folder, "tiny", "asft").config
    text = path.read_text()
    path.write_text(text.replace("keep: 0.97", "keep: 0.8"))
    try:
        plan = update_plan(Update("runs/tiny", "simulated", name="own"), {})
        assert plan.parsed("asft", 0).config["model"]["init_args"]["keep"] == 0.8
    finally:
        path.write_text(text)


def test_a_chain_may_be_the_current_folder(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder / "runs/tiny")
    plan = update_plan(Update(run=".", log="simulated"), {})
    assert (plan.chain.name, Path(plan.chain.root)) == ("tiny-update", folder / "runs")


def test_ids_that_no_log_can_continue_leave_no_folder(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(_: EarlierLog) -> None:
        raise InputError("its items have features", where="runs/tiny/ids")

    monkeypatch.setattr(EarlierLog, "facts", property(refuse))
    found = tiny.recalign(folder, "update", "runs/tiny", "--log=simulated", "--name=never")
    assert (found.code, "runs/tiny/ids: " in found.err) == (2, True)
    assert not (folder / "runs/never").exists()


@pytest.mark.usefixtures("updated")
def test_settings_of_data_are_the_grown_logs_then_the_earlier_chains(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    log = yaml.safe_load((folder / "conf/logs/simulated.yaml").read_text())
    log["data"]["root"] = "later"
    (folder / "grown.yaml").write_text(yaml.safe_dump(log))
    plan = update_plan(Update("runs/tiny", "grown.yaml", name="other"), {"reward": [{"trainer.max_epochs": 3}]})
    assert plan.data(0).root == "later"  # the earlier chain's YAML said: data
    assert update_plan(Update("runs/tiny", "simulated", name="same"), {}).data(0).root == "data"
    # what the reward model alone was given holds for it alone
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
    assert (said.code, "runs/tiny/asft/seed-0: is not finished" in said.err) == (2, True)


@pytest.mark.usefixtures("updated")
@pytest.mark.parametrize("moved", ["tiny", "tiny-update"])
def test_an_updated_chain_may_be_renamed_and_does_without_the_earlier_one(folder: Path, moved: str):
    (folder / "runs" / moved).rename(folder / "runs/moved")
    try:
        chain = "moved" if moved == "tiny-update" else "tiny-update"
        said = tiny.recalign(folder, "recommend", f"runs/{chain}/asft/seed-0", "--k=2")
    finally:
        (folder / "runs/moved").rename(folder / "runs" / moved)
    assert said.code == 0, said.err
