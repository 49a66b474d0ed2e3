"""What is used of Lightning beyond its public API, as seen in 2.6.6; tests/test_private.py lists every such name."""

from lightning import Trainer

CLASS_PATH = "_class_path"
"""Key of the model's class among the hyper-parameters of a checkpoint of LightningCLI."""

TRAINED_WEIGHTS = "current_model_state"
"""Key of the weights that training goes on from, in a checkpoint whose ``state_dict`` holds an average."""


def batches_done(trainer: Trainer) -> int:
    """Training batches since the start of the run, over all its continuations; the one that runs does not count."""
    return trainer.fit_loop.total_batch_idx + 1


def validates_now(trainer: Trainer) -> bool:
    """Whether the batch that just ended is followed by validation."""
    return trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher)  # type: ignore[arg-type]
