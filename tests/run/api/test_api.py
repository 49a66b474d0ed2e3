"""From a DataFrame to an aligned policy, a table and recommendations; and one clear error for each mistake."""

from __future__ import annotations

import copy
import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml

import recalign as ra
from recalign.cli import main
from recalign.data.sequences import LeaveLast
from recalign.files import sha256, write_json
from recalign.run import configs, stage
from recalign.run.stage.opened import open_run
from recalign.seals import Seal
from recalign.serve.export import card, command

COLUMNS = {"user": "user", "item": "item", "timestamp": "timestamp", "reward": "rating"}
QUICK = {"trainer.max_epochs": 2, "data.batch_tokens": 1024}


@pytest.fixture(scope="module")
def frame(log_root: Path) -> pl.DataFrame:
    raw = pl.read_csv(log_root / "tastes.csv")
    return raw.with_columns(pl.format("u{}", "user").alias("user"))


@pytest.fixture(scope="module")
def job(frame: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The main job in ten lines, in an empty current folder and without a folder named."""
    here = tmp_path_factory.mktemp("here")
    titles = pl.DataFrame({"id": [1, 2], "name": ["Alien", "Brazil"]})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        log = ra.Log.from_frame(frame, **COLUMNS, items=titles, title="name", max_length=32)
        start = ra.fit_recommender(log, settings=QUICK)
        reward = ra.fit_reward(log, start, settings=QUICK)
        before = {name: value.clone() for name, value in start.network.state_dict().items()}
        aligned = ra.align(log, start, reward, settings=QUICK)
        rows = {"popularity": None, "start": start, "asft": aligned}
        table = ra.compare(log, rows, reward, draws=50, placebos={"asft_permuted": "asft"})
    return SimpleNamespace(**locals())


@pytest.mark.slow
def test_a_policy_that_is_handed_in_is_not_trained(job: Any):
    after = ra.TrainedPolicy(job.log, "start", 0, job.start.checkpoint, 0.0, job.start.data).network.state_dict()
    assert all(torch.equal(job.before[name], after[name]) for name in after)
    aligned = job.aligned.network.state_dict()
    assert any(not torch.equal(job.before[name], aligned[name]) for name in after)


@pytest.mark.slow
def test_the_table_has_a_row_a_policy(job: Any):
    assert job.table.table["method"].to_list() == ["popularity", "start", "asft"]
    assert job.table.table["policy/kl"].to_list()[1] == 0
    assert job.table.table["policy/kl"].to_list()[2] > 0
    assert "asft" in str(job.table)
    assert job.reward.trust["verdict"]
    assert list(job.here.iterdir()) == []  # nothing is left in the current folder
    assert {"all/ndcg@10", "all/ndcg@10 low", "value/judge@10"} <= set(job.table.table.columns)


def test_a_comparison_has_the_decision_and_prints_it_as_the_command_does(job: Any):
    decision = job.table.decision
    assert (decision.outcome.text != "ship", decision.policy) == (True, "asft")
    assert any("Controls that were not run: popularity_tilt" in finding.text for finding in decision.findings)
    assert any("asft_permuted was not run" in finding.text for finding in decision.findings)
    assert {*decision.frame()["row"]} == {"asft"}
    assert {*job.table.trust} == {"reward", "judge_report"}
    said = str(job.table).partition("\n\n")[2]
    assert said.splitlines()[0] == decision.sentence
    assert said.splitlines()[1] == f"- {decision.reasons[0]}"


def test_export_takes_a_trained_policy_in_place_of_a_run(job: Any, monkeypatch):
    opened = []
    monkeypatch.setattr(command, "open_run", lambda run: opened.append(run))
    monkeypatch.setattr(command, "bundle_of", lambda made, out, *_: (out / "version", None))
    monkeypatch.setattr(command, "PACKAGES", ())
    (job.aligned.folder / "bundles" / "version").mkdir(parents=True)
    assert ra.export(job.aligned) == job.aligned.folder / "bundles"
    assert opened == [job.aligned.folder]


def test_a_loaded_policy_reads_histories_as_its_run_did(job: Any):
    given = QUICK | {"data.request_time": "known", "data.max_length": 24}
    own = ra.fit_recommender(job.log, name="known", settings=given)
    loaded = ra.load_policy(job.log, own.folder)
    assert (loaded.data.know_request, loaded.data.max_length) == (True, 24)
    assert loaded.recommend(["u7"]).equals(own.recommend(["u7"]))


@pytest.mark.slow
def test_a_card_has_no_figures_of_another_policy(job: Any):
    other = ra.align(job.log, job.start, job.reward, settings=QUICK | {"model.temperature": 1.0})
    ra.compare(job.log, {"start": job.start, "asft": other}, job.reward, draws=20)
    assert "is another policy" in card._compared(open_run(job.aligned.folder))


@pytest.mark.slow
def test_rows_that_are_tilted_keep_the_budget_unless_there_is_none(job: Any):
    """Beside methods that keep theirs; ``rerank`` at strength 1 is another policy."""
    rows = {"start": job.start, "rerank": None, "asft [lr=1e-3]": job.aligned}
    table = ra.compare(job.log, rows, job.reward, draws=50, seed=np.int64(0))
    own = {keep: _strength(ra.compare(job.log, rows, job.reward, draws=50, keep=keep)) for keep in (0.97, None)}
    assert _strength(table) == own[0.97] != own[None] == 1
    assert "asft [lr=1e-3]" in str(table)


def _strength(table: Any) -> float:
    return table.frame.filter(method="rerank", metric="policy/strength", seed="all")["value"].item()


@pytest.mark.slow
def test_a_named_start_and_named_judges_are_those_that_are_used(job: Any):
    judges = [ra.fit_judge(job.log, users) for users in ("B1", "B2")]  # those that `compare` trained
    found = ra.compare(job.log, {"asft": job.aligned}, job.reward, start=job.start, judges=judges, draws=20).table
    assert found["policy/kl"][0] > 0  # not to itself, the first row
    key = Seal.read(job.log.folder / "asft/seed-0/evaluation").key
    used = [key[name] for name in ("start", "judge_select", "judge_report")]
    assert used == [sha256(one.checkpoint) for one in (job.start, *judges)]


def test_recommendations_are_unseen_and_have_titles(job: Any, frame: pl.DataFrame):
    found = job.aligned.recommend(["u7", "u3"], k=4)
    assert found["user"].unique(maintain_order=True).to_list() == ["u7", "u3"]
    assert found["rank"].to_list() == [1, 2, 3, 4] * 2
    assert job.aligned.recommend(user for user in ["u7"]).equals(job.aligned.recommend(pl.Series(["u7"])))
    assert not found.join(frame, on=["user", "item"]).height
    assert found["title"].dtype == pl.String
    everybody = job.aligned.recommend(k=10**9)  # no more than there are
    names = dict(everybody.select("item", "title").iter_rows())
    assert names.get(1, "Alien") == "Alien"
    assert names[5] == "5"


def test_a_second_call_trains_nothing(job: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("recalign.run.stage.command.run_stage", None)
    again = ra.align(job.log, job.start, job.reward, settings=QUICK)
    assert again.checkpoint == job.aligned.checkpoint


@pytest.mark.slow
def test_another_setting_is_another_run(job: Any):
    other = ra.align(job.log, job.start, job.reward, settings=QUICK | {"model": {"temperature": 1.0}})
    assert other.name == "asft-2"
    assert job.aligned.checkpoint.exists()
    assert other.checkpoint != job.aligned.checkpoint


@pytest.mark.slow
def test_networks_and_paths_mean_the_same(job: Any):
    network = ra.align(job.log, job.start.network, str(job.reward.folder), name="network", settings=QUICK)
    rows = ra.compare(job.log, {"start": job.start, "network": network.network}, job.reward, draws=20).table
    assert rows["all/ndcg@10"][1] == job.table.table["all/ndcg@10"][2]
    ours, theirs = network.network.state_dict(), job.aligned.network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_a_network_is_known_by_every_weight(job: Any):
    """A copy whose items are permuted has the same sums."""
    permuted = copy.deepcopy(job.aligned.network)
    table = permuted.state_dict()[next(name for name in permuted.state_dict() if "item" in name)]
    table[1:] = table[1:].flip(0)
    rows = {"start": job.start, "asft": job.aligned.network, "permuted": permuted}
    ranked = ra.compare(job.log, rows, job.reward, draws=20).table["all/ndcg@10"]
    assert ranked[1] == job.table.table["all/ndcg@10"][2]
    assert ranked[2] != ranked[1]


@pytest.mark.slow
def test_a_reward_model_of_other_rewards_is_refused(job: Any, frame: pl.DataFrame):
    """The events and the reward's name are the same."""
    turned = ra.Log.from_frame(frame.with_columns(rating=6 - pl.col("rating")), **COLUMNS, max_length=32)
    with pytest.raises(ra.InputError, match="trained on other rewards"):
        ra.align(turned, job.start, job.reward, settings=QUICK)
    with pytest.raises(ra.InputError, match="trained on other rewards"):
        ra.compare(turned, {"start": job.start}, job.reward)


def test_python_loads_what_the_command_trained(job: Any):
    loaded = ra.load_policy(job.log, job.aligned.folder)
    assert loaded.name == "asft"
    assert loaded.recommend(["u7"]).equals(job.aligned.recommend(["u7"]))
    assert ra.load_reward(job.log, str(job.reward.checkpoint)).trust == job.reward.trust


def test_loaded_models_have_the_seed_and_seconds_of_their_run(job: Any, tmp_path: Path):
    for run, load in ((job.aligned, ra.load_policy), (job.reward, ra.load_reward)):
        other = shutil.copytree(run.folder, tmp_path / run.name / "seed-3")
        manifest = json.loads((other / "manifest.json").read_text())
        write_json(other / "manifest.json", manifest | {"seed": 3})
        loaded = load(job.log, other)
        assert (loaded.name, loaded.seed, loaded.seconds) == (run.name, 3, manifest["seconds"])
        assert loaded.seconds > 0


def test_the_command_continues_what_python_trained(job: Any):
    config = job.aligned.folder / "config.yaml"
    result = stage.run_stage(
        stage.parse_stage(["fit", "--config", str(config), "--ckpt_path", "last", "--trainer.max_epochs", "3"])
    )
    assert result.checkpoint.resolve() == job.aligned.checkpoint.resolve()
    assert result.trainer.current_epoch == 3


@pytest.mark.slow
def test_the_command_makes_the_same_weights(job: Any, tmp_path: Path):
    """Python's A-SFT is the command's."""
    words = ["fit", "--config", "conf/methods/asft.yaml", "--config", str(job.log.yaml), "--run.root", str(tmp_path)]
    words += [f"--model.init_from={job.start.checkpoint}", f"--data.reward_model={job.reward.checkpoint}"]
    words += ["--trainer.logger=false", *(f"--{key}={value}" for key, value in QUICK.items())]
    there = Path(__file__).parents[3]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(there)
        result = stage.run_stage(stage.parse_stage(words))
    content = torch.load(result.checkpoint, weights_only=True)["state_dict"]
    ours = ra.align(job.log, job.start, job.reward, name="fresh", settings=QUICK).network.state_dict()
    assert all(torch.equal(content[f"policy.{name}"], value) for name, value in ours.items())


def test_a_named_folder_holds_everything(frame: pl.DataFrame, tmp_path: Path):
    log = ra.Log.from_frame(frame, **COLUMNS, folder=tmp_path / "mine", max_length=32)
    with pytest.raises(ra.InputError, match=r"holds a different events\.parquet"):
        ra.Log.from_frame(frame.head(99), **COLUMNS, folder=tmp_path / "mine")
    start = ra.fit_recommender(log, settings=QUICK | {"trainer.logger": False})
    assert start.checkpoint.is_relative_to(tmp_path / "mine" / "recommender")
    assert yaml.safe_load(log.yaml.read_text())["data"]["log"]["files"] == ["events.parquet"]
    assert start.metrics["epoch"].max() == 1


def test_a_log_from_a_shipped_yaml(log_root: Path):
    log = ra.Log.from_config("ml-100k", root=log_root)
    settings = yaml.safe_load(log.yaml.read_text())["data"]
    assert (settings["log"]["name"], settings["root"]) == ("ml-100k", str(log_root))


@pytest.mark.parametrize(("root", "read"), [(".", "."), ("../raw", "../raw"), ("/raw", "/raw"), ("${oc.env:D}", None)])
def test_the_root_of_a_logs_yaml_is_beside_it_whoever_calls(tmp_path: Path, root: str, read: str | None):
    (tmp_path / "mine.yaml").write_text(f"data: {{root: '{root}', log: {{name: mine, files: [a.csv]}}}}")
    log = ra.Log.from_config(tmp_path / "mine.yaml")
    found = yaml.safe_load(log.yaml.read_text())["data"]["root"]
    assert found == (root if read is None else str((tmp_path / read).resolve()))


def test_python_and_the_command_divide_a_log_alike(frame: pl.DataFrame, tmp_path: Path):
    def settings(log: ra.Log) -> dict[str, Any]:
        return yaml.safe_load(log.yaml.read_text())["data"]

    frame.write_csv(tmp_path / "tastes.csv")
    assert main(["init", str(tmp_path / "tastes.csv"), "--out", str(tmp_path / "tastes.yaml")]) == 0
    theirs = yaml.safe_load((tmp_path / "tastes.yaml").read_text())["data"]
    ours, cut = ra.Log.from_frame(frame, **COLUMNS), {"class_path": "recalign.data.sequences.TimeSplit"}
    given = ra.Log.from_frame(frame, **COLUMNS, high="reward >= 4", split=cut)
    for key in ("reward", "high", "split"):
        assert settings(ours)[key] == theirs[key]
    assert settings(given)["high"] == {"expression": "reward >= 4", "quantile": None}
    assert settings(given)["split"] == cut
    ranked = ra.Log.from_frame(frame, **COLUMNS, relative_to={"column": "item"})  # ranks lie from 0 to 1
    assert settings(ranked)["high"] == {"expression": None, "quantile": 0.75}


def test_a_frame_of_pandas(frame: pl.DataFrame):
    pandas = pytest.importorskip("pandas")
    log = ra.Log.from_frame(pandas.DataFrame(frame.to_dict(as_series=False)), **COLUMNS)
    assert pl.read_parquet(log.folder / "events.parquet").height == frame.height


@pytest.mark.parametrize(
    ("change", "settings", "said"),
    [
        (lambda f: f.drop("user"), {}, "no column 'user'"),
        (lambda f: f, {"user": pl.Series([1])}, "^user: cannot be shape"),
        (lambda f: f, {"reward": pl.col("reward")}, "^reward: cannot be <Expr"),
        (lambda f: f, {"time_unit": "ns"}, "^time_unit: cannot be 'ns'"),
        (lambda f: f.with_columns(timestamp=pl.lit("1.2.2024")), {}, "^timestamp: .*(?s:.*)give ISO 8601 \\(\\S+\\)$"),
        (lambda f: f, {"time_unit": "datetime"}, "(?s:.*)set time_unit to|set it to s, ms or us"),
        (lambda f: f, {"item": "itm"}, "did you mean 'item'"),
        (lambda f: f.with_columns(user=pl.when(pl.col("user") != "u3").then("user")), {}, "^user: .* NaN in row"),
        (lambda f: f.with_columns(item=pl.lit(float("nan"))), {}, "^item: .* null or NaN in rows 1, "),
        (lambda f: f.with_columns(item=pl.col("item") + 0.5), {}, "^item: .* ids are not fractions"),
        (lambda f: f.with_columns(timestamp=pl.lit(True)), {}, "timestamp holds Boolean"),
        (lambda f: f.clear(), {}, "no rows"),
        (lambda f: f, {"features": ["a"]}, r"^features: cannot be \['a'\]"),
        (lambda f: f.to_dict(), {}, "frame: cannot be read"),
    ],
    ids=[
        "column",
        "series",
        "expression",
        "unit",
        "dates",
        "numbers",
        "near",
        "null",
        "nan",
        "float",
        "time",
        "empty",
        "features",
        "type",
    ],
)
def test_a_frame_that_cannot_be_used(frame: pl.DataFrame, change: Any, settings: dict[str, str], said: str):
    with pytest.raises(ra.InputError, match=said):
        ra.Log.from_frame(change(frame), **COLUMNS | settings)


def test_a_column_of_integers_and_text_is_refused(frame: pl.DataFrame):
    pandas = pytest.importorskip("pandas")
    mixed = pandas.DataFrame(frame.to_dict(as_series=False)).astype({COLUMNS["user"]: object})
    mixed.loc[0, COLUMNS["user"]] = 7
    with pytest.raises(ra.InputError, match="frame: cannot be read"):
        ra.Log.from_frame(mixed, **COLUMNS)
    complex_numbers = pandas.DataFrame(frame.to_dict(as_series=False)).assign(phase=1j)
    with pytest.raises(ra.InputError, match="frame: cannot be read"):
        ra.Log.from_frame(complex_numbers, **COLUMNS)


def test_a_column_named_like_a_pattern_is_a_column(frame: pl.DataFrame):
    for role in ("user", "item", "timestamp"):
        log = ra.Log.from_frame(frame.rename({COLUMNS[role]: "^x.*$"}), **COLUMNS | {role: "^x.*$"})
        assert yaml.safe_load(log.yaml.read_text())["data"]["log"][role] == "^x.*$"


MISTAKES: dict[str, Any] = {
    "no user 'u9999'": lambda job: job.aligned.recommend(["u9999"]),
    "not a list of users": lambda job: job.aligned.recommend("u7"),
    "22 is not a list of users": lambda job: job.aligned.recommend(22),
    "str is not a Log": lambda job: ra.fit_recommender("ml-100k"),
    "k: 0": lambda job: job.aligned.recommend(["u7"], k=0),
    "needs a reward model": lambda job: ra.align(job.log, job.start),
    "recommender is not a post-training method": lambda job: ra.align(job.log, job.start, method="recommender"),
    "did you mean asft": lambda job: ra.align(job.log, job.start, job.reward, method="asfft"),
    "model.temprature": lambda job: ra.align(job.log, job.start, job.reward, settings={"model.temprature": 1}),
    "int cannot be used": lambda job: ra.fit_reward(job.log, 7),
    "B1 or B2": lambda job: ra.fit_judge(job.log, "A"),
    "settings: run.name": lambda job: ra.fit_recommender(job.log, settings={"run.name": "x"}),
    "model.encoder": lambda job: ra.fit_recommender(job.log, settings={"model.encoder": object()}),
    "no policy to compare": lambda job: ra.compare(job.log, {}, job.reward),
    "'a/b' cannot name a row": lambda job: ra.compare(job.log, {"a/b": job.aligned}, job.reward),
    "1 cannot name a row": lambda job: ra.compare(job.log, {1: job.aligned}, job.reward),
    "'popularity' is the name of another": lambda job: ra.compare(job.log, {"popularity": job.aligned}, job.reward),
    "'start' has no policy": lambda job: ra.compare(job.log, {"start": None, "asft": job.start}, job.reward),
    "draws: 0": lambda job: ra.compare(job.log, {"start": job.start}, job.reward, draws=0),
    "a list of two judges": lambda job: ra.compare(job.log, {"start": job.start}, job.reward, judges=[job.reward]),
    "settings: cannot be 'trainer.max_epochs=1'": lambda job: ra.fit_recommender(
        job.log, settings="trainer.max_epochs=1"
    ),
    "method: cannot be <class": lambda job: ra.align(job.log, job.start, job.reward, method=LeaveLast),
    "rewards: cannot be 'price'": lambda job: ra.compare_rewards(job.log, "price"),
    "policies: cannot be [TrainedPolicy": lambda job: ra.compare(job.log, [job.start], job.reward),
    "not the YAML of a log": lambda job: ra.Log.from_config("asft"),
    "holds no policy": lambda job: ra.load_policy(job.log, job.reward.folder),
    "holds no reward": lambda job: ra.load_reward(job.log, job.aligned.folder),
    "split: ": lambda job: ra.Log.from_frame(job.frame, **COLUMNS, split=LeaveLast(1, 1)),
    "items: ": lambda job: ra.Log.from_frame(job.frame, **COLUMNS, title="name"),
}


@pytest.mark.parametrize("said", MISTAKES)
def test_a_mistake_is_one_error(job: Any, said: str):
    with pytest.raises(ra.InputError, match=re.escape(said)):
        MISTAKES[said](job)


@pytest.mark.slow
def test_fits_refuse_models_of_another_log(job: Any, frame: pl.DataFrame):
    other = ra.Log.from_frame(frame.filter(pl.col("item") % 3 > 0), **COLUMNS, max_length=32)
    with pytest.raises(ra.InputError, match="another catalogue"):
        ra.fit_reward(other, job.start, settings=QUICK)
    with pytest.raises(ra.InputError, match="items, and the log has"):
        ra.align(other, job.start.network, job.reward, settings=QUICK)
    own = ra.fit_recommender(job.log, settings=QUICK | {"data.request_time": "known"})
    with pytest.raises(ra.InputError, match="own was trained with request_time: known"):
        ra.compare(job.log, {"own": own}, job.reward)


def test_the_package_is_imported_without_torch():
    code = "import recalign, sys; print('torch' in sys.modules, 'polars' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_items_have_features(frame: pl.DataFrame, tmp_path: Path):
    items = pl.DataFrame({"item": [*range(1, 41), 99], "half": [str(n % 2) for n in [*range(1, 41), 99]]})
    given = {"half": "half", "twice": {"value": "half", "kind": "category"}}
    log = ra.Log.from_frame(frame, **COLUMNS, items=items, features=given, max_length=32, folder=tmp_path / "log")
    start = ra.fit_recommender(log, settings=QUICK)
    assert start.data.sequences.items.to_list()[-1] == 99
    assert start.network.features.embedding_CD.shape[0] == 6
    assert 99 in start.recommend(k=41)["item"]


def test_candidate_rewards_are_compared_as_by_the_command(frame: pl.DataFrame, tmp_path: Path):
    log = ra.Log.from_frame(frame, **COLUMNS, folder=tmp_path / "log")
    found = ra.compare_rewards(log, {"high": "rating >= 4"})
    assert main(["rewards", str(log.yaml), "--rewards={high: rating >= 4}", f"--out={tmp_path / 'out.csv'}"]) == 0
    assert pl.read_csv(tmp_path / "out.csv").equals(pl.read_csv(found.write_csv().encode()))
    assert set(found["reward"].drop_nulls()) == {"reward", "high"}
    with pytest.raises(ra.InputError, match="reads a column 'stars'"):
        ra.compare_rewards(log, {"x": "stars"})


def test_a_second_log_in_a_folder_leaves_the_first_as_it_is(frame: pl.DataFrame, tmp_path: Path):
    first = ra.Log.from_frame(frame, **COLUMNS, folder=tmp_path / "same")
    stars = COLUMNS | {"reward": "rating > 3"}
    second = ra.Log.from_frame(frame, **stars, folder=tmp_path / "same")
    assert ra.Log.from_frame(frame, **COLUMNS, folder=tmp_path / "same").yaml == first.yaml
    rewards = [yaml.safe_load(log.yaml.read_text())["data"]["reward"] for log in (first, second)]
    assert rewards == ["rating", "rating > 3"]
    titles = pl.DataFrame({"id": [1, 2], "name": ["Alien", "Brazil"]})
    ra.Log.from_frame(frame, **COLUMNS, items=titles, title="name", folder=tmp_path / "same")
    with pytest.raises(ra.InputError, match=r"holds a different items\.parquet"):
        ra.Log.from_frame(frame, **COLUMNS, items=titles.head(1), title="name", folder=tmp_path / "same")


def test_a_folder_may_be_the_current_one(frame: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert ra.Log.from_frame(frame, **COLUMNS, folder=".").folder == tmp_path


@pytest.mark.slow
def test_judges_of_other_settings_do_not_replace_each_other(job: Any):
    first = ra.fit_judge(job.log, "B1", settings=QUICK)
    second = ra.fit_judge(job.log, "B1", settings=QUICK | {"model.lr": np.float32(0.01)})
    assert first.checkpoint != second.checkpoint
    assert second.checkpoint.parents[2].name.startswith("judge_select-")


@pytest.mark.slow
def test_a_method_may_be_a_file(job: Any, tmp_path: Path):
    (tmp_path / "mine.yaml").write_text(configs.find("bc").read_text())
    for method in (tmp_path / "mine.yaml", str(tmp_path / "mine.yaml"), "methods/bc"):
        made = ra.align(job.log, job.start, method=method, settings=QUICK)
        assert made.name == Path(method).stem


def test_a_comparison_in_python_replaces_none_of_a_chain(job: Any, tmp_path: Path):
    (tmp_path / "chain").mkdir()
    (tmp_path / "chain/chain.json").write_text("{}")
    log = ra.Log.from_config(job.log.yaml, folder=tmp_path / "chain")
    with pytest.raises(ra.InputError, match="is the folder of a chain"):
        ra.compare(log, {"start": job.start}, job.reward)


def test_a_policy_that_reads_rewards_is_not_given_others(frame, tmp_path):
    log = ra.Log.from_frame(frame, **COLUMNS, max_length=32, folder=tmp_path / "runs")
    own = QUICK | {"trainer.max_epochs": 1, "model.feedback": True, "data.reward": "rating >= 4"}
    run = ra.fit_recommender(log, settings=own)
    with pytest.raises(ra.InputError, match="this policy reads rewards and was trained with"):
        ra.load_policy(log, run.folder)


@pytest.mark.slow
def test_a_policy_whose_code_was_edited_is_measured_again(job, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    text = """
import torch
from recalign.evaluation.counted_rows import SameForAll
class Mine(SameForAll):
    def __init__(self, n):
        super().__init__(torch.arange(n).float())
    def log_probs(self, state, items=None):
        return {} * super().log_probs(state, items)
"""
    found = []
    for sign in (1, -1):
        (tmp_path / "own_policy.py").write_text(text.format(sign))
        own = importlib.reload(importlib.import_module("own_policy"))
        rows = {"start": job.start, "mine": own.Mine(job.start.data.num_items)}
        table = ra.compare(job.log, rows, job.reward, draws=np.int64(20), keep=np.float32(0.9)).table
        found.append(table.filter(method="mine")["policy/kl"].to_list())
    assert found[0] != found[1]


def test_a_log_of_what_was_shown_is_made_from_a_frame(tmp_path):
    rows = [
        (user, one, step, int(one == 0), step % 3) for user in range(30) for step in range(1, 9) for one in range(3)
    ]
    frame = pl.DataFrame(rows, schema=["user", "item", "time", "is click", "stars"], orient="row")
    named = {"user": "user", "item": "item", "timestamp": "time", "time_unit": "s", "reward": "stars"}
    log = ra.Log.from_frame(frame, **named, chosen="is click", request="time", passed_reward=-1.0, folder=tmp_path)
    read = yaml.safe_load(log.yaml.read_text())["data"]
    assert {key: read["log"][key] for key in ("chosen", "request", "passed_reward")} == {
        "chosen": '"is click"',
        "request": "time",
        "passed_reward": -1.0,
    }
    plain = ra.Log.from_frame(frame, **named)  # its folder goes with it
    assert "chosen" not in yaml.safe_load(plain.yaml.read_text())["data"]["log"]
