"""Every method as the command runs it, from one tiny chain's recommender and reward model."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch

from recalign.recommender.interpolation import ALL_RETAINED

pytestmark = pytest.mark.slow

METHODS = [
    "ppo",
    "grpo",
    "ecpo",
    "reinforce",
    "cql",
    "iql",
    "awac",
    "dpo",
    "ipo",
    "sdpo",
    "simpo",
    "kto",
    "ipa",
    "gbpo",
    "wbc",
]
UPSTREAM = {"model.init_from": "recommender", "data.reward_model": "reward"}
PAIRS = {"ipo": "generated"}  # as YAML has them: logged, and sampled for S-DPO


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tiny.Said]:
    """A chain's folder, and what it said."""
    folder = tiny.prepare(tmp_path_factory.mktemp("tiny"))
    settings = [f"--stages.{method}.data.pairs={pairs}" for method, pairs in PAIRS.items()]
    settings.append("--stages.wbc.data.baseline=user")  # a log of choices has nothing bad
    return folder, tiny.chain(folder, f"--methods=[start, {', '.join(METHODS)}]", *settings)


@pytest.mark.long
def test_command_runs_every_method_and_kind_of_pairs(chain):
    folder, said = chain
    assert said.code == 0, said.err
    assert f"  evaluated: start, {', '.join(METHODS)}" in said.out
    for method in METHODS:
        assert (folder / "runs/tiny" / method / "seed-0/checkpoints/best.ckpt").is_file()


def test_resumed_run_equals_an_uninterrupted_run(chain, monkeypatch):
    monkeypatch.setattr("recalign.posttrain.keep.alpha_within_budget", lambda kept, keep: (0.5, ALL_RETAINED))
    folder, _ = chain

    def fit(name, epochs, *more):
        words = ["--config=conf/methods/asft.yaml", "--config=conf/logs/simulated.yaml", "--data.root=data"]
        words += [f"--{key}={folder}/runs/tiny/{run}/seed-0/checkpoints/best.ckpt" for key, run in UPSTREAM.items()]
        words += [f"--run.name={name}", f"--trainer.max_epochs={epochs}", "--trainer.accelerator=cpu"]
        words += ["--model.lr=0.03", "--model.keep=0.9", "--data.max_length=24", "--data.batch_tokens=256", *more]
        said = tiny.recalign(folder, "fit", *words)
        assert said.code == 0, said.err
        return torch.load(folder / f"runs/simulated/{name}/seed-0/checkpoints/last.ckpt", weights_only=True)

    fit("broken", 1)
    whole, broken = fit("whole", 2), fit("broken", 2, "--ckpt_path=last")
    for state in ("state_dict", "current_model_state"):
        assert whole[state].keys() == broken[state].keys()
        assert all(torch.equal(whole[state][key], broken[state][key]) for key in whole[state])
    assert whole["facts"]["reach"] == broken["facts"]["reach"] == 0.5
    assert any(
        not torch.equal(whole["state_dict"][key], whole["current_model_state"][key]) for key in whole["state_dict"]
    )
    with pytest.raises(AssertionError, match=r"model\.keep: is None now"):
        fit("broken", 3, "--ckpt_path=last", "--model.keep=null")
