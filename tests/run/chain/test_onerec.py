"""A chain whose recommender writes semantic ids: one line of its YAML changes, and everything runs."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
import tiny

pytestmark = pytest.mark.slow

RUNS = Path("runs/tiny")
ONEREC = ["--recommender=recommender-onerec", "--stages.recommender.trainer.max_epochs=1"]
EVERY = (
    "filtered_bc, reward_weighted, exp_reward, dpo, ipo, sdpo, simpo, kto, ipa, ppo, grpo, ecpo, gbpo, wbc, reinforce, "
    "cql, iql, awac"
)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tiny.Said]:
    folder = tiny.prepare(tmp_path_factory.mktemp("onerec"))
    return folder, tiny.chain(folder, *ONEREC, "--methods=[start, rerank, asft, ecpo]", "--placebos={}")


def test_one_line_makes_ids_first_and_everything_runs_on_them(first):
    folder, said = first
    assert said.code == 0, said.err
    assert said.out.index("recalign tokenize") < said.out.index("recalign fit")
    config = (folder / RUNS / "recommender/seed-0/config.yaml").read_text()
    assert "OneRecRecommender" in config
    assert "codes: runs/tiny/tokens/seed-0/codes.parquet" in config
    rows = pl.read_csv(folder / RUNS / "comparison.csv").filter(pl.col("metric") == "all/ndcg@10")
    assert set(rows["method"]) == {"start", "rerank", "asft", "ecpo"}


@pytest.mark.long
def test_chain_runs_again_only_if_the_semantic_ids_have_changed(first):
    folder, _ = first
    words = [*ONEREC, "--methods=[start, rerank, asft, ecpo]", "--placebos={}"]
    again = tiny.chain(folder, *words)
    assert again.code == 0, again.err
    assert "unchanged: runs/tiny/tokens/seed-0" in again.out
    assert "recalign fit" not in again.out
    other = ["--stages.tokens.sizes=[4, 16]", "--stages.tokens.allow_collapsed=true"]
    changed = tiny.chain(folder, *ONEREC, *other, "--methods=[start]", "--placebos={}", "--highlight=null")
    assert changed.code == 0, changed.err
    assert "recalign tokenize" in changed.out
    assert "recalign fit --config=conf/stages/recommender-onerec.yaml" in changed.out
    manifest = json.loads((folder / RUNS / "recommender/seed-0/manifest.json").read_text())
    ids = json.loads((folder / RUNS / "tokens/seed-0/manifest.json").read_text())
    assert manifest["upstream"]["model.codes"]["sha256"] == ids["digests"]["codes.parquet"]


def test_settings_of_ids_that_no_stage_makes_are_refused(first):
    said = tiny.chain(first[0], "--stages.tokens.sizes=[4, 16]", "--name=other")
    assert said.code == 2
    assert "this chain makes no semantic ids" in said.err


def test_chain_refuses_settings_of_tokens_that_it_sets_itself(first):
    said = tiny.chain(first[0], *ONEREC, "--stages.tokens.seed=5", "--name=other")
    assert said.code == 2
    assert "tokens, seed: the chain sets this itself" in said.err


def test_predict_works_with_onerec(first):
    folder, _ = first
    said = tiny.recalign(folder, "predict", f"--config={RUNS}/asft/seed-0/config.yaml")
    assert said.code == 0, said.err
    assert (folder / RUNS / "asft/seed-0/recommendations.parquet").is_file()


@pytest.mark.long
def test_every_method_runs_on_it(first):
    folder, _ = first
    said = tiny.chain(
        folder,
        *ONEREC,
        f"--methods=[start, rerank, bc, asft, {EVERY}]",
        "--placebos={}",
        "--stages.wbc.data.baseline=user",
    )
    assert said.code == 0, said.err
    assert "gbpo" in said.out
