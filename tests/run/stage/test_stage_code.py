"""Which edits of the source make a run stale."""

import importlib
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from sources import forget

from recalign import code
from recalign.run.stage import parse_stage, run_stage

STAGES = {
    "recommender": ["recalign.recommender.Recommender", "recalign.recommender.RecommenderData", "recalign.nn.HSTU"],
    "reward": ["recalign.reward.RewardModel", "recalign.reward.RewardData"],
    "asft": ["recalign.posttrain.WeightedSFT", "recalign.posttrain.PostTrainingData"],
    "dpo": ["recalign.posttrain.Preferences", "recalign.posttrain.PairData"],
    "evaluation": list(code.EVALUATION),
}


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A copy of recalign's source that digests are made of, and the digests."""
    copy = shutil.copytree(code.SOURCE, tmp_path_factory.mktemp("copy") / "recalign")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code, "SOURCE", copy)
        yield copy, digests()
    forget()


def digests() -> dict[str, str]:
    forget()
    return {stage: code.code_digest(paths) for stage, paths in STAGES.items()}


@pytest.mark.parametrize(
    ("file", "old", "new", "stale"),
    [
        ("posttrain/pairs.py", "return ", "return 2 * ", {"dpo"}),
        ("posttrain/weighted.py", "return ", "return 2 * ", {"asft"}),
        ("nn/hstu.py", "return ", "return 2 * ", {"recommender", "evaluation"}),
        ("reward/heads.py", "return ", "return 2 * ", {"reward", "asft", "dpo", "evaluation"}),
        ("data/sequences/windows.py", "return ", "return 2 * ", set(STAGES)),
        ("evaluation/value.py", "return ", "return 2 * ", {"evaluation"}),
        ("posttrain/pairs.py", '"""', '"""More to read. ', set()),
        ("posttrain/pairs.py", "\nimport ", "\n# why\nimport ", set()),
        ("errors.py", "class ", "class Another: ...\n\n\nclass ", set()),
    ],
)
def test_an_edit_makes_stale_what_stands_on_it(
    copied: tuple[Path, dict[str, str]], file: str, old: str, new: str, stale: set[str]
):
    source, before = copied
    text = (source / file).read_text()
    (source / file).write_text(text.replace(old, new, 1))
    after = digests()
    (source / file).write_text(text)
    assert {stage for stage in STAGES if before[stage] != after[stage]} == stale


def test_versions_count(monkeypatch: pytest.MonkeyPatch):
    ours, theirs = code.code_digest(STAGES["dpo"]), code.code_digest([*STAGES["dpo"], "rich.table.Table"])
    for changed, same in (("polars", False), ("rich", True)):
        monkeypatch.setattr(code, "version", lambda name, changed=changed: version(name) + ".1" * (name == changed))
        assert (code.code_digest(STAGES["dpo"]) == ours) is same
        assert code.code_digest([*STAGES["dpo"], "rich.table.Table"]) != theirs


def test_a_module_that_was_copied_beside_installed_ones_counts_by_its_bytes(tmp_path, monkeypatch):
    place = tmp_path / "site-packages"
    place.mkdir()
    monkeypatch.syspath_prepend(place)
    (place / "copied.py").write_text("class Mine: ...\n")
    before = code.code_digest(["copied.Mine"])
    (place / "copied.py").write_text("class Mine: other = True\n")
    assert code.code_digest(["copied.Mine"]) != before


def test_a_class_of_ones_own_counts_with_the_modules_beside_it(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(folder)
    Path("my_model.py").write_text("from stage_doubles import Toy\nimport my_loss\n\nclass Mine(Toy): ...\n")
    Path("my_loss.py").write_text("import os\n\ndef loss(x): return x\n")
    Path("mine.yaml").write_text(Path("toy.yaml").read_text().replace("stage_doubles.Toy\n", "my_model.Mine\n"))
    words = ["fit", "--config", "mine.yaml", "--trainer.enable_progress_bar=false"]
    forget()
    run_stage(parse_stage(words))
    assert parse_stage(words).state().fresh
    Path("my_loss.py").write_text("import os\n\ndef loss(x): return 2 * x\n")
    forget()
    assert not parse_stage(words).state().fresh


def test_a_class_that_was_typed_in_never_counts_as_unchanged(monkeypatch: pytest.MonkeyPatch):
    """A notebook's ``__main__`` has no file: nobody knows what its classes said."""
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    forget()
    typed = [code.code_digest([*STAGES["dpo"], "__main__.Mine"]) for _ in range(2)]
    assert len(set(typed)) == 2
    forget()
    assert len({code.code_digest(["builtins.dict"]) for _ in range(2)}) == 1


def test_a_module_that_was_loaded_again_counts_as_it_is_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Until then the process runs what it had read."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "own_model.py").write_text("import own_loss\n\nclass Mine: ...\n")
    (tmp_path / "own_loss.py").write_text("def loss(x): return x\n")
    import own_model  # type: ignore[import-not-found]

    before = code.code_digest(["own_model.Mine"])
    (tmp_path / "own_loss.py").write_text("def loss(x): return 2 * x\n")
    assert code.code_digest(["own_model.Mine"]) == before
    importlib.reload(own_model.own_loss)
    assert code.code_digest(["own_model.Mine"]) != before
