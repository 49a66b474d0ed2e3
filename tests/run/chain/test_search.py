"""The comparison in small: a chain that searches, trains what was chosen with every seed, and can be interrupted."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import tiny
import torch
import yaml

from recalign.errors import InputError
from recalign.evaluation.comparison import NDCG_HIGH
from recalign.evaluation.selection import ERROR, RETAINED, SELECT
from recalign.recommender.checkpoint import read_checkpoint
from recalign.recommender.recommendations import recommend
from recalign.run.chain import Chain, Plan
from recalign.run.chain.command import split_overrides
from recalign.run.chain.search import Search
from recalign.run.stage.opened import open_run

pytestmark = pytest.mark.long

RUNS = Path("runs/tiny")
SHAM = ("rerank_permuted", "rerank_item_mean_permuted")
METHODS = f"[start, rerank, bc, asft, asft_rerank, asft_permuted, {', '.join(SHAM)}]"
SPACES = """
default: {model.lr: [0.001, 0.01]}
asft: {model.temperature: {low: 0.2, high: 1.0}}
"""


def search(folder: Path, *words: str) -> tiny.Said:
    return tiny.chain(folder, "--methods", METHODS, "--trials=2", "--seeds=[3, 4]", *words)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tiny.Said]:
    """A folder in which the tiny chain has searched, each seed in a world of its own. Left as it is by every test."""
    folder = tiny.prepare(tmp_path_factory.mktemp("searched"))
    (folder / "conf/search.yaml").write_text(SPACES)
    chain = yaml.safe_load(tiny.CHAIN)
    del chain["data"]["root"]
    chain.setdefault("stages", {})["reward"] = {"data": {"max_length": 3}}  # of that stage alone
    chain["world"] = {"users": 60, "items": 50, "events": 1500}
    (folder / "conf/chains/tiny.yaml").write_text(yaml.safe_dump(chain))
    return folder, search(folder)


@pytest.fixture
def again(first: tuple[Path, tiny.Said], tmp_path: Path) -> Path:
    """A copy of that folder."""
    return shutil.copytree(first[0], tmp_path / "again")


def setting(folder: Path, run: str, part: str, key: str) -> Any:
    return yaml.safe_load((folder / RUNS / run / "config.yaml").read_text())[part]["init_args"][key]


def chosen(folder: Path, method: str) -> dict[str, Any]:
    row = pl.read_csv(folder / RUNS / "search.csv").filter(method=method, chosen=True)
    return json.loads(row["settings"].item())


def test_every_method_has_as_many_trials_and_one_choice(first: tuple[Path, tiny.Said]):
    folder, said = first
    assert said.code == 0, said.err
    found = pl.read_csv(folder / RUNS / "search.csv")
    by_method = found.group_by("method").agg(pl.len(), pl.col("chosen").sum())
    assert set(by_method.rows()) == {(method, 2, 1) for method in ("bc", "asft")}
    figures = {
        "value/select_judge@10",
        "all/ndcg@10",
        "high/ndcg@10",
        "policy/kl",
        "policy/ndcg_retained",
        "policy/alpha",
    }
    assert {"settings", *figures} <= set(found.columns)
    assert not list((folder / RUNS).glob("*/trials/*/*/evaluation"))  # no trial was looked at on the test
    assert {path.parent.name for path in (folder / RUNS).glob("*/trials/*/seed-*")} == {"trial-0", "trial-1"}
    assert not list((folder / RUNS).glob("*/trials/*/seed-4"))


def test_search_trains_the_chosen_settings_with_every_seed(first: tuple[Path, tiny.Said]):
    folder, of_asft = first[0], {}
    for seed in (3, 4):
        assert setting(folder, f"bc/seed-{seed}", "model", "lr") == chosen(folder, "bc")["model.lr"]
        for method in ("asft", "asft_permuted"):
            found = read_checkpoint(folder / RUNS / f"{method}/seed-{seed}/checkpoints/best.ckpt")["facts"][
                "temperature"
            ]
            assert found == of_asft.setdefault(seed, found)  # a placebo takes it, be it searched or auto
        temperature = setting(folder, f"asft/seed-{seed}", "model", "temperature")
        assert temperature == chosen(folder, "asft")["model.temperature"]
        assert setting(folder, f"asft_permuted/seed-{seed}", "model", "temperature") == of_asft[seed]
    table = pl.read_csv(folder / RUNS / "comparison.csv")
    assert set(table["method"]) == {"start", "rerank", "bc", "asft", "asft_rerank", "asft_permuted", *SHAM}
    assert set(table["seed"]) == {"3", "4", "all"}
    left = table.filter(pl.col("metric") == "placebo/correlation")
    assert set(left["method"]) == {"asft_permuted", *SHAM}
    assert left["value"].abs().max() < 0.2


def test_the_placebo_of_reranking_is_paid_for_as_reranking_is_and_recommends_nothing(first: tuple[Path, tiny.Said]):
    folder, _ = first
    for seed in (3, 4):
        one = json.loads((folder / RUNS / f"rerank_permuted/seed-{seed}/evaluation/summary.json").read_text())
        assert 0 < one["policy/strength"] <= 4
        assert one["policy/ndcg_retained"] >= 0.97
        assert one["cost/steps"] > 0
    assert not (folder / RUNS / "rerank_permuted/trials").exists()
    said = tiny.recalign(folder, "recommend", str(RUNS / "rerank_permuted/seed-4"))
    assert said.code == 2
    assert "recommends nothing" in said.err


def test_a_trained_policy_is_reranked_no_further_than_the_ndcg_budget(first: tuple[Path, tiny.Said]):
    folder, _ = first
    for seed in (3, 4):
        alone, served = (
            json.loads((folder / RUNS / f"{method}/seed-{seed}/evaluation/summary.json").read_text())
            for method in ("rerank", "asft_rerank")
        )
        assert 0 < alone["policy/strength"] <= 4
        assert served["policy/strength"] <= 4 * alone["policy/strength"]
        assert min(alone["policy/ndcg_retained"], served["policy/ndcg_retained"]) >= 0.97
        assert alone["policy/ndcg_retained_se"] > 0 < alone["policy/alpha"] <= 4
        assert served["cost/steps"] > 0


@pytest.mark.parametrize("row", ["rerank", "asft_rerank", "rerank_item_mean_permuted"])
def test_a_reranked_row_is_recommended_by_the_policy_that_was_evaluated(again: Path, row: str, monkeypatch):
    monkeypatch.chdir(again)
    run = RUNS / row / "seed-4"
    found = open_run(run)
    policy, data = found.policy, found.data
    evaluated = pl.read_parquet(run / "evaluation/validation.parquet")["rank"].to_torch()
    rank_T = [
        policy.ranks(policy.encode(batch), batch.target_T, batch.seen_N)
        for batch in data.loader(data.windows("validation", "A"))
    ]
    assert torch.cat(rank_T).sort().values.equal(evaluated.long().sort().values)
    said = tiny.recalign(again, "recommend", str(run), "--k=3")
    assert said.code == 0, said.err
    shown = pl.read_parquet(run / "recommendations.parquet")
    assert shown.group_by("user").len()["len"].unique().to_list() == [3]
    assert shown.equals(recommend(policy, data, k=3))
    assert not shown.equals(recommend(policy.policy, data, k=3))  # a placebo may change scores alone


def test_a_reranked_row_whose_checkpoints_are_others_is_not_served(again: Path):
    run, reward = RUNS / "asft_rerank/seed-4", again / RUNS / "reward/seed-4/checkpoints"
    said = tiny.recalign(again, "recommend", str(RUNS / "rerank/seed-5"))
    assert said.code == 2
    assert "there is no run in this folder" in said.err
    (again / RUNS / "bc_rerank/seed-4/evaluation").mkdir(parents=True)
    said = tiny.recalign(again, "recommend", str(RUNS / "bc_rerank/seed-4"))
    assert said.code == 2
    assert "this row's evaluation is missing, or was changed after it was written" in said.err
    for file, what in (
        ("checkpoints/best.ckpt", "was changed after its run: SHA-256 differs from manifest.json"),
        ("manifest.json", "evaluated with other checkpoints than those in the chain's folder"),
    ):
        shutil.copy(again / RUNS / "reward/seed-3" / file, reward.parent / file)
        said = tiny.recalign(again, "recommend", str(run))
        assert said.code == 2
        assert what in said.err
    shutil.rmtree(reward)
    said = tiny.recalign(again, "recommend", str(run))
    assert said.code == 2
    assert "asft_rerank needs finished runs of other stages beside it; missing: reward" in said.err


def test_a_moved_chain_serves_its_reranked_rows(again: Path):
    (again / RUNS).rename(again / "runs/moved")
    root = str(again / "runs/moved/worlds/3")
    config = again / "runs/moved/reward/seed-3/config.yaml"
    config.write_text(config.read_text().replace("root: runs/tiny/worlds/3", f"root: {root}"))
    said = tiny.recalign(again, "recommend", "runs/moved/asft_rerank/seed-3", "--k=2")
    assert said.code == 0, said.err


def test_a_seed_is_a_world(first: tuple[Path, tiny.Said]):
    folder, _ = first
    worlds = [pl.read_parquet(folder / RUNS / f"worlds/{seed}/simulated/events.parquet") for seed in (3, 4)]
    assert not worlds[0].equals(worlds[1])
    assert setting(folder, "asft/seed-4", "data", "root") == "runs/tiny/worlds/4"


def test_a_second_call_runs_nothing(again: Path):
    kept = (again / RUNS / "search.csv").read_text()
    said = search(again)
    assert said.code == 0
    assert "recalign fit" not in said.out
    assert "unchanged: the evaluation of seed 3" in said.out
    assert (again / RUNS / "search.csv").read_text() == kept


@pytest.mark.long
def test_an_interrupted_search_runs_what_is_missing(again: Path):
    shutil.rmtree(again / RUNS / "asft/trials/trial-1")
    said = search(again)
    lines = [line for line in said.out.splitlines() if line.startswith("  recalign fit")]
    assert len(lines) == 1
    assert "--run.name=trial-1 --run.root=runs/tiny/asft --run.chain=trials" in lines[0]


@pytest.mark.parametrize(
    ("spaces", "said"),
    [
        ("default: {model.learning_rate: [1, 2]}", "bc has no setting 'model.learning_rate'"),
        ("default: {model.lr.init: [1, 2]}", "bc has no setting 'model.lr.init'"),
        ("default: {model.lr: 3}", "search.yaml, default: .* is not a search space"),
    ],
)
def test_a_mistake_in_the_spaces_is_named_before_anything_runs(tmp_path: Path, spaces: str, said: str):
    tiny.prepare(tmp_path)
    (tmp_path / "conf/search.yaml").write_text(spaces)
    result = tiny.chain(tmp_path, "--methods=[start, bc]", "--trials=2")
    assert (result.code, result.out) == (2, "")
    assert re.search(said, result.err), result.err


def test_a_trial_that_cannot_be_trained_is_not_chosen(again: Path):
    (again / "conf/search.yaml").write_text("default: {model.lr: [0.001, 0.01]}\nasft: {model.temperature: [-1.0]}")
    result = search(again, "--methods=[start, bc, asft]", "--seeds=[3]")
    assert result.code == 0, result.err
    assert (
        "trial 1 of asft, {'model.temperature': -1.0}, cannot be trained, and is not chosen: model.temp" in result.out
    )
    tried = pl.read_csv(again / RUNS / "search.csv").filter(method="asft")
    assert tried["chosen"].to_list() == [True, False]
    assert tried["policy/ndcg_retained"].is_null().to_list() == [False, True]


def test_a_method_of_which_no_trial_can_be_trained_ends_the_chain(again: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(again)
    chain = Chain(log="simulated", methods=["bc"], trials=3, data={"root": "data"})
    plan = Plan(chain, Path("conf/chains/tiny.yaml"), {})

    def refuse(*_):
        raise InputError("no")

    monkeypatch.setattr("recalign.run.chain.search.trial", refuse)
    search = Search(plan, plan.parse())
    tried = {f"bc/trial-{number}": search._try("bc", number, {}) for number in range(3)}
    with pytest.raises(InputError, match="no"):
        search._measure("bc", tried)


def test_placebos_need_what_they_take_their_setting_from(tmp_path: Path):
    tiny.prepare(tmp_path)
    result = tiny.chain(tmp_path, "--methods=[start, bc, asft_random]", "--trials=2")
    assert (result.code, result.out) == (2, "")
    assert "asft_random takes the setting chosen for asft, which this chain does not search" in result.err


def test_search_leaves_out_settings_of_the_user(again: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(again)
    chain = Chain(log="simulated", methods=["bc", "asft"], trials=3, data={"root": "data"})
    chain.stages = {"asft": {"model": {"lr": 0.25}}}
    (again / "conf/search.yaml").write_text(SPACES + "bc: {model.lr: [1, 2], model.weight_decay: [0.0, 0.1]}")
    overrides = split_overrides(["--stages.bc.model.init_args.weight_decay=0.2", "--stages.asft.model.temperature=0.5"])
    plan = Plan(chain, Path("conf/chains/tiny.yaml"), overrides[1])
    search = Search(plan, plan.parse())
    assert search.settings["asft"] == [{}]  # nothing is left to search
    assert len(search.settings["bc"]) == 3
    assert {key for setting in search.settings["bc"] for key in setting} == {"model.lr"}


WHOLE = {
    "a class in the chain": ({"model": {"class_path": "recalign.posttrain.WeightedSFT", "init_args": {"lr": 0.2}}}, ""),
    "a class in one word": (
        {},
        '--stages.asft.model={"class_path": "recalign.posttrain.WeightedSFT", "init_args": {"lr": 0.2}}',
    ),
    "its arguments": ({}, "--stages.asft.model.init_args={lr: 0.2}"),
    "without their name": ({}, '--stages.asft.model={"lr": 0.2}'),
    "a file": ({}, "--stages.asft.model=model.yaml"),
}


@pytest.mark.parametrize(("settings", "word"), WHOLE.values(), ids=WHOLE)
def test_search_leaves_out_settings_given_as_a_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings, word):
    """A trial's words come last, so that a key in both would be the trial's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.yaml").write_text("class_path: recalign.posttrain.WeightedSFT\ninit_args: {lr: 0.2}")
    tiny.prepare(tmp_path)
    (tmp_path / "conf/search.yaml").write_text("asft: {model.lr: [0.1, 0.3], model.temperature: [0.2, 0.4]}")
    chain = Chain(log="simulated", methods=["asft"], trials=3, stages={"asft": settings} if settings else {})
    plan = Plan(chain, Path("conf/chains/tiny.yaml"), split_overrides([word] if word else [])[1])
    parsed = plan.parse()
    assert parsed["asft"].config["model"]["init_args"]["lr"] == 0.2
    search = Search(plan, parsed)
    assert {key for setting in search.settings["asft"] for key in setting} == {"model.temperature"}


def test_search_leaves_out_classes_set_in_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    tiny.prepare(tmp_path)
    (tmp_path / "conf/search.yaml").write_text("bc: {data.split: [a, b], model.lr: [0.1, 0.3]}")
    words = ["--stages.bc.data.split.cuts=[0.7, 0.9]", "--stages.bc.model=recalign.posttrain.WeightedSFT"]
    plan = Plan(
        Chain(log="simulated", methods=["bc"], trials=3), Path("conf/chains/tiny.yaml"), split_overrides(words)[1]
    )
    search = Search(plan, plan.parse())
    assert {key for setting in search.settings["bc"] for key in setting} == {"model.lr"}


@pytest.mark.parametrize(
    ("keep", "words", "held"), [(0.9, [], 0.9), (None, [], None), (0.9, ["--stages.asft.model.keep=0.8"], 0.8)]
)
def test_every_trained_method_keeps_what_the_chain_says(
    again: Path, monkeypatch: pytest.MonkeyPatch, keep, words, held
):
    monkeypatch.chdir(again)
    chain = Chain(log="simulated", methods=["start", "bc", "asft"], keep=keep, data={"root": "data"})
    parsed = Plan(chain, Path("conf/chains/tiny.yaml"), split_overrides(words)[1]).parse()
    assert parsed["asft"].config["model"]["init_args"]["keep"] == held
    assert parsed["bc"].config["model"]["init_args"]["keep"] == keep


@pytest.mark.parametrize(("own", "chosen"), [("0.8", 1), ("null", 1), (None, 0)])
def test_a_methods_trials_are_judged_by_its_own_budget(own: str | None, chosen: int, tmp_path: Path, monkeypatch):
    """The second trial keeps 85 % and is worth more: enough for a method that may go down to 80 %."""
    folder = tiny.prepare(tmp_path)
    (folder / "conf/search.yaml").write_text(SPACES)
    monkeypatch.chdir(folder)
    words = [f"--stages.asft.model.keep={own}"] if own else []
    chain = Chain(log="simulated", methods=["asft"], trials=2, keep=0.97, data={"root": "data"})
    plan = Plan(chain, Path("conf/chains/tiny.yaml"), split_overrides(words)[1])
    found = Search(plan, plan.parse())
    shares = {
        RETAINED: (0.97, 0.96 if own == "null" else 0.85),
        ERROR: (0.0, 0.0),
        SELECT: (1.0, 2.0),
        NDCG_HIGH: (1.0, 1.0),
    }
    figures = [{name: each[number] for name, each in shares.items()} for number in (0, 1)]
    plan.folder.mkdir(parents=True)
    settings = found.decide({"asft/validation": figures})
    assert settings["asft"] == found.settings["asft"][chosen]
