"""Two processes on a CPU train as one does."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import polars as pl
import polars.selectors as cs
import pytest
import several
import torch
from shared_fits import CASES, COMMITTED, CURVE_STEPS, CURVES, STEPS, all_trained, committed, run_all, trained

from recalign import files
from recalign.errors import InputError
from recalign.recommender.checkpoint import load_net
from recalign.run import configs
from recalign.run.stage import RunFolder, parse_stage, run_stage

pytestmark = pytest.mark.slow

CONF = configs.shipped()
LOG = """
data:
  log: {name: tastes, files: [tastes.csv]}
  root: ROOT
  high: {expression: reward >= 4}
  split: {class_path: recalign.data.sequences.LeaveLast, init_args: {test: 3, validation: 2}}
  max_length: 32
  batch_tokens: 512
trainer: {accelerator: cpu, max_epochs: 2, enable_progress_bar: false, log_every_n_steps: 1}
"""
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]
PARTS = [f"--config={CONF}/trainer/fsdp.yaml", "--trainer.accelerator=cpu"]
SAME = ["--model.encoder.dropout=0", "--trainer.gradient_clip_val=1", "--trainer.max_epochs=2"]
BRIEF = ("full softmax", "onerec", "reward", "keep", "kto")
OWN_DRAWS = ("awac",)
"""Methods whose processes draw items of their own, so that only the mean agrees."""


@pytest.fixture(scope="module")
def pairs(request: pytest.FixtureRequest, log_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Each case, trained by two processes."""
    cases = list(CASES) if request.config.getoption("--long") else list(BRIEF)
    return several.together(all_trained, cases, log_root, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize(
    "case", [case if case in BRIEF else pytest.param(case, marks=pytest.mark.long) for case in CASES]
)
def test_two_processes_train_as_one(pairs, case: str, log_root: Path, tmp_path: Path):
    first, second = (copy.deepcopy(found[case]) for found in pairs)
    assert first["loss"] == second["loss"]
    assert first["figures"] == pytest.approx(second["figures"], nan_ok=True)
    assert all(first["weights"][name].equal(second["weights"][name]) for name in first["weights"])
    one = trained(case, log_root, tmp_path)
    assert len(one["loss"]) == STEPS
    assert first["events"] == one["events"]
    tolerance = 0.2 if case in OWN_DRAWS else 1e-5
    assert first["loss"] == pytest.approx(one["loss"], rel=tolerance, abs=tolerance)
    if case in files.read_json(CURVES):
        assert first["loss"][:CURVE_STEPS] == pytest.approx(committed(case), rel=COMMITTED)


def fit(name: str, *more: str, stage: str = "recommender") -> list[str]:
    return ["fit", f"--config={configs.find(stage)}", "--config=log.yaml", f"--run.name={name}", *more]


def predict(name: str, *more: str) -> list[str]:
    return ["predict", "--config", f"runs/tastes/{name}/seed-0/config.yaml", *more]


@pytest.fixture
def place(log_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "log.yaml").write_text(LOG.replace("ROOT", str(log_root)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_of_two_that_was_interrupted_ends_as_one_that_was_not(place: Path):
    several.together(
        run_all,
        place,
        [
            fit("whole", *TWO),
            fit("broken", *TWO, "--trainer.max_steps=6"),  # in the middle of the second epoch
            fit("broken", *TWO, "--ckpt_path=last"),
            predict("whole"),
        ],
    )
    whole, broken = (RunFolder(Path(f"runs/tastes/{name}/seed-0")) for name in ("whole", "broken"))
    states = [torch.load(run.last, weights_only=True)["current_model_state"] for run in (whole, broken)]
    assert all(states[0][name].equal(states[1][name]) for name in states[0])
    rows = [pl.read_csv(run.figures("fit")).select(~cs.starts_with("speed/")) for run in (whole, broken)]
    # It was validated where trainer.max_steps ended it.
    early = (pl.col("step") == 5) & pl.col("rank/all/ndcg@10").is_not_null()
    assert rows[1].filter(early).height == 1
    assert rows[0].equals(rows[1].filter(~early))
    assert rows[0].drop_nulls("train/loss")["step"].to_list() == list(range(8))  # each written once
    shared = pl.read_parquet(whole.path / "recommendations.parquet")
    run_stage(parse_stage(predict("whole", "--trainer.devices=1", "--trainer.strategy=auto")))
    alone = pl.read_parquet(whole.path / "recommendations.parquet")
    assert shared.drop("score").equals(alone.drop("score"))
    assert shared["score"].to_numpy() == pytest.approx(alone["score"].to_numpy(), abs=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("cluster", ["nodes", "slurm"])
def test_two_nodes_train_as_two_devices_do(place: Path, cluster: str):
    several.together(run_all, place, [fit("devices", *TWO)])
    nodes = [*TWO[1:], "--trainer.num_nodes=2", "--trainer.devices=1"]
    several.together(run_all, place, [fit("nodes", *nodes)], cluster=cluster)
    devices, nodes = (torch.load(f"runs/tastes/{name}/seed-0/checkpoints/best.ckpt") for name in ("devices", "nodes"))
    assert all(weight.equal(nodes["state_dict"][name]) for name, weight in devices["state_dict"].items())


@pytest.mark.long
def test_a_reward_model_of_two_is_trusted_as_that_of_one(place: Path):
    several.together(run_all, place, [fit("recommender", *TWO), fit("two", *TWO, stage="reward")])
    run_stage(parse_stage(fit("one", stage="reward")))
    two, one = (files.read_json(Path(f"runs/tastes/{name}/seed-0/trust.json")) for name in ("two", "one"))
    assert two["verdict"] == one["verdict"]


@pytest.mark.long
def test_two_processes_with_a_part_each_train_as_one(place: Path):
    several.together(run_all, place, [fit("parts", *PARTS, *SAME)])
    run_stage(parse_stage(fit("whole", "--trainer.callbacks=[]", *SAME)))
    runs = [RunFolder(Path(f"runs/tastes/{name}/seed-0")) for name in ("whole", "parts")]
    one, two = (pl.read_csv(run.figures("fit")).drop_nulls("train/loss") for run in runs)
    assert len(one) == 8
    for figure in ("train/loss", "train/grad_norm"):
        assert two[figure].to_list() == pytest.approx(one[figure].to_list(), rel=1e-5, abs=1e-5)
    whole, parts = (load_net(run.checkpoints / "best.ckpt", "policy").net.state_dict() for run in runs)
    for name, weight in whole.items():
        torch.testing.assert_close(parts[name], weight, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match=r"ModelParallelStrategy.*cannot resume"):
        run_stage(parse_stage(fit("parts", *PARTS, *SAME, "--ckpt_path=last")))
    run_stage(parse_stage(["predict", *fit("parts", *SAME)[1:]]))  # one process reads the checkpoint
    assert len(pl.read_parquet(runs[1].path / "recommendations.parquet"))
