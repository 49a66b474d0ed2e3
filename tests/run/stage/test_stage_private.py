"""What is used of Lightning beyond its public API is still there; seen in lightning 2.6.6."""

from pathlib import Path

import torch
from lightning.pytorch.callbacks import WeightAveraging

from recalign.run.stage import parse_stage, run_stage
from recalign.run.stage.callbacks import batches_done
from recalign.run.stage.checks import CLASS_PATH, TRAINED_WEIGHTS

FIT = ["fit", "--config", "toy.yaml", "--trainer.enable_progress_bar", "false"]


def test_batches_are_counted_over_continuations():
    assert batches_done(run_stage(parse_stage(FIT)).trainer) == 12
    assert batches_done(run_stage(parse_stage([*FIT, "--trainer.max_epochs=3", "--ckpt_path=last"])).trainer) == 18


def test_a_checkpoint_names_its_class_and_holds_the_trained_weights_beside_an_average():
    run_stage(parse_stage([*FIT, "--trainer.callbacks+=recalign.recommender.PolynomialAveraging"]))
    content = torch.load(Path("runs/toy/recommender/seed-0/checkpoints/last.ckpt"), weights_only=True)
    assert content["hyper_parameters"][CLASS_PATH] == "stage_doubles.Toy"
    assert content[TRAINED_WEIGHTS].keys() == content["state_dict"].keys()
    assert TRAINED_WEIGHTS in WeightAveraging.on_save_checkpoint.__code__.co_consts
