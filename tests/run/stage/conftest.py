"""The doubles are named by class path in YAML, so they must be importable; every test has a folder of its own."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from stage_doubles import STAGE

POST = """
seed_everything: 0
run: {name: asft}
trainer: {max_epochs: 1, accelerator: cpu, devices: 1, limit_val_batches: 0}
model: {class_path: stage_doubles.ToyPost}
data: {class_path: stage_doubles.ToyPostData, init_args: {log: {name: toy, files: [toy.csv]}}}
"""


@pytest.fixture
def warned(recwarn: pytest.WarningsRecorder) -> Callable[[], list[str]]:
    """Messages of the warnings so far. Without ResourceWarning, which may be about objects that other tests left."""
    return lambda: [str(one.message) for one in recwarn if not issubclass(one.category, ResourceWarning)]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with the YAML of a stage (toy.yaml) and of one that starts from it (post.yaml)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    torch.set_num_threads(1)
    Path("toy.yaml").write_text(STAGE)
    Path("post.yaml").write_text(POST)
    return tmp_path


@pytest.fixture(scope="session")
def one_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``runs`` of one finished fit of toy.yaml."""
    from recalign.run.stage import parse_stage, run_stage

    place = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("WANDB_MODE", "disabled")
        Path("toy.yaml").write_text(STAGE)
        run_stage(parse_stage(["fit", "--config", "toy.yaml", "--trainer.enable_progress_bar", "false"]))
    return place / "runs"


@pytest.fixture
def trained(folder: Path, one_run: Path) -> None:
    """A finished run of toy.yaml in the current folder."""
    shutil.copytree(one_run, folder / "runs")
