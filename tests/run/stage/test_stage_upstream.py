"""Where a stage finds what it starts from."""

import json
from pathlib import Path

import pytest
import torch

from recalign.errors import InputError
from recalign.run.stage import Manifest, RunFolder, parse_stage, run_stage, upstream


def a_run(path: str, log: str = "toy", finished: str = "2026-01-01", status: str = "finished") -> str:
    """A run folder with a checkpoint and a manifest; returns the checkpoint's path."""
    folder = RunFolder(Path(path))
    folder.checkpoints.mkdir(parents=True)
    torch.save({"hyper_parameters": {"_class_path": "stage_doubles.Toy"}, "state_dict": {}}, folder.best)
    manifest = Manifest(stage=folder.path.parent.name, log=log, seed=0, command="", checkpoint="checkpoints/best.ckpt")
    manifest.status, manifest.finished = status, finished  # type: ignore[assignment]
    manifest.write(folder)
    return str(folder.best)


def resolved(*words: str) -> tuple[str | None, str | None]:
    config = parse_stage(["fit", "--config", "post.yaml", *words]).config
    return config["model"]["init_args"]["init_from"], config["data"]["init_args"]["reward_model"]


def test_the_run_of_the_same_chain_and_seed_comes_first():
    own = a_run("runs/toy/recommender/seed-0", finished="2026-01-01")
    a_run("runs/toy/recommender/seed-1", finished="2026-03-03")
    a_run("runs/other/recommender/seed-0", finished="2026-02-02")
    assert resolved()[0] == own


@pytest.mark.parametrize(
    ("path", "log", "status"),
    [
        ("a/recommender/seed-0", "toy", "finished"),  # another chain's
        ("toy/recommender/seed-7", "toy", "finished"),  # another seed's
        ("toy/recommender/seed-0.previous", "toy", "finished"),
        ("toy/recommender/seed-0", "another", "finished"),
        ("toy/recommender/seed-0", "toy", "failed"),
        ("toy/recommender/seed-0", "toy", "running"),
    ],
)
def test_resolve_ignores_runs_of_other_stages_logs_or_states(path: str, log: str, status: str):
    a_run(f"runs/{path}", log=log, status=status)
    assert resolved()[0] is None


def test_a_parsed_command_finds_what_has_run_since():
    """A chain parses all stages before any has run."""
    given = a_run("elsewhere/reward/seed-0")
    words = ["fit", "--config", "post.yaml", f"--data.reward_model={given}"]
    assert parse_stage(words).with_upstreams() == parse_stage(words)
    early = parse_stage(words)
    a_run("runs/toy/recommender/seed-0")
    a_run("runs/toy/reward/seed-0")
    assert early != parse_stage(words) == early.with_upstreams()


def test_a_given_checkpoint_that_does_not_exist_is_an_error():
    a_run("runs/toy/recommender/seed-0")
    with pytest.raises(InputError, match=r"model\.init_from: there is no file nowhere\.ckpt\n.*leave it null"):
        resolved("--model.init_from", "nowhere.ckpt")


def test_without_one_the_stage_to_run_is_named_before_anything_is_read():
    a_run("runs/toy/recommender/seed-0")
    with pytest.raises(
        InputError, match=r"data\.reward_model: .*finished reward run of the log 'toy'(.|\n)*recalign fit reward"
    ):
        run_stage(parse_stage(["fit", "--config", "post.yaml"]))
    assert not Path("runs/toy/asft/seed-0").exists()


def test_a_broken_upstream_checkpoint_is_an_error():
    a_run("runs/toy/recommender/seed-0")
    Path(a_run("runs/toy/reward/seed-0")).write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="not a usable checkpoint"):
        run_stage(parse_stage(["fit", "--config", "post.yaml"]))


def test_a_broken_manifest_is_an_error_that_names_it():
    a_run("runs/toy/recommender/seed-0")
    Path("runs/toy/recommender/seed-0/manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"runs/toy/recommender/seed-0/manifest\.json: is not a manifest"):
        resolved()


def test_the_resolved_paths_are_in_config_and_manifest_and_are_kept_when_the_run_goes_on():
    own, reward = a_run("runs/other/recommender/seed-0"), a_run("runs/toy/reward/seed-0")
    result = run_stage(parse_stage(["fit", "--config", "post.yaml", "--model.init_from", own]))
    assert result.model.init_from == own
    assert result.datamodule.reward_model == reward
    folder = Path("runs/toy/asft/seed-0")
    assert own in (folder / "config.yaml").read_text()
    upstream = json.loads((folder / "manifest.json").read_text())["upstream"]
    assert upstream["model.init_from"]["path"] == own
    assert len(upstream["data.reward_model"]["sha256"]) == 64

    a_run("runs/toy/recommender/seed-0")  # newer and nearer, but not what the run began with
    again = run_stage(parse_stage(["fit", "--config", "post.yaml", "--ckpt_path", "last", "--trainer.max_epochs", "2"]))
    assert again.model.init_from == own
    elsewhere = f"--data.reward_model={Path(reward).resolve()}"  # the same bytes
    run_stage(
        parse_stage(["fit", "--config", "post.yaml", "--ckpt_path", "last", "--trainer.max_epochs", "3", elsewhere])
    )

    Path(own).write_bytes(Path(own).read_bytes() + b" ")
    with pytest.raises(InputError, match=r"model\.init_from: is .* now; the run was started with"):
        run_stage(parse_stage(["fit", "--config", "post.yaml", "--ckpt_path", "last", "--trainer.max_epochs", "4"]))


def test_a_run_that_starts_from_its_own_folder_is_refused():
    own = a_run("runs/toy/asft/seed-0")
    a_run("runs/toy/reward/seed-0")
    with pytest.raises(InputError, match="would empty"):
        run_stage(parse_stage(["fit", "--config", "post.yaml", "--model.init_from", own]))
    assert Path(own).exists()


@pytest.mark.parametrize(
    ("stage", "wanted", "held"), [("reward", "reward", "policy"), ("recommender", "policy", "reward")]
)
def test_a_checkpoint_of_another_network_is_refused_before_a_finished_run_is_set_aside(
    tmp_path: Path, stage: str, wanted: str, held: str
):
    torch.save({"state_dict": {}, "recipes": {held: {}}}, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match=f"data.x: the checkpoint .* holds no {wanted}"):
        upstream.require_upstreams(
            [upstream.Upstream("data", "x", stage, tmp_path / "other.ckpt", True)], RunFolder(tmp_path), "small"
        )
