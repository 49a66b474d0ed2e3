"""From a policy to a bundle, and what is refused."""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import polars as pl
import pytest
import small
import torch

from recalign.data.events.log import ItemTable
from recalign.data.sequences import RelativeTo, Where
from recalign.errors import InputError
from recalign.evaluation.reranking import ItemScores, Rerank
from recalign.files import read_json
from recalign.recommender import RecommenderData, SequencePolicy
from recalign.recommender.checkpoint import build_net, load_net
from recalign.recommender.recommendations import recommend
from recalign.run.stage.opened import OpenedRun
from recalign.seals import seal
from recalign.serve.export.command import bundle_of, items
from recalign.serve.export.verify import request_before, verify, windows_to_verify
from recalign.serve.server import load_bundle
from recalign.serve.server.about import current
from recalign.serve.server.catalogue import Catalogue


@pytest.fixture(scope="module")
def made(log_root, cloned, tmp_path_factory) -> OpenedRun:
    folder = tmp_path_factory.mktemp("made") / "runs/tastes/recommender/seed-0"
    data = small.data_of(RecommenderData, log_root, "tastes", users="all")
    return OpenedRun(folder, load_net(cloned, "policy").net.eval(), data, {"recommender": cloned})


def test_a_bundle_answers_as_its_policy_does(bundled):
    found = load_bundle(bundled).about.verified
    assert found["targets"] == 360
    assert found["lists"] + found["tied"] == 360
    assert found["difference"] < 1e-4
    assert found["evaluation"] == pytest.approx(found["request"], abs=0.02)  # windows of 32 hold nearly all


def test_another_policy_is_told_apart(bundled, made):
    other = load_net(made.checkpoints["recommender"], "policy").net.eval()
    with torch.no_grad():
        other.item_embedding.weight[7] *= -1
    with pytest.raises(InputError, match="the answers of the bundle differ from those of its policy"):
        verify(other, made.data, load_bundle(bundled))


def test_weights_and_recipe_are_the_policy(bundled, made):
    from safetensors.torch import load_file

    folder = current(bundled)
    net = build_net(read_json(folder / "recipe.json")["policy"])
    weights = load_file(folder / "policy.safetensors")
    net.load_state_dict({name.removeprefix("policy."): weight for name, weight in weights.items()})
    for name, weight in made.policy.state_dict().items():
        assert torch.equal(net.state_dict()[name], weight)


def test_the_command_recommends_what_the_bundle_answers(bundled, made):
    """The one asks the policy in torch about users of the log, the other a graph about histories that it is given."""
    own = recommend(made.policy, made.data, k=5)
    log = pl.read_csv(Path(made.data.root) / "tastes.csv").sort("timestamp", maintain_order=True)
    events = log.select(pl.col("user"), "item", "timestamp")
    found = own.join(load_bundle(bundled).recommend(events, k=5), on=["user", "rank"], suffix="_of_bundle")
    assert len(found) == len(own) == 5 * 120
    assert found["item"].to_list() == found["item_of_bundle"].to_list()
    shift = (pl.col("score") - pl.col("score_of_bundle")).over("user")
    constant = found.select((shift - shift.first().over("user")).abs().max()).item()
    assert constant < 1e-4  # a score is a log-probability up to a constant of the answer


@pytest.mark.long
def test_fewer_events_and_a_prior_without_strength(made, tmp_path):
    policy = deepcopy(made.policy)
    policy.prior_strength = 0.0
    bundle_of(replace(made, policy=policy), tmp_path, newest=20)
    bundle = load_bundle(tmp_path)
    assert bundle.about.max_length == 20
    counts = dict(zip(bundle.catalogue.ids, bundle.catalogue.table["count"].to_list(), strict=True))
    popular = [one.item for one in bundle.recommend({"k": 40}).items]
    assert popular == sorted(counts, key=lambda item: (-counts[item], item))  # though the prior has no strength
    assert bundle.recommend({"items": [*range(1, 31)], "times": [*range(30)]}).left_out.older == 10


def test_bundle_holds_nothing_of_users(bundled, made):
    folder = current(bundled)
    assert {file.name for file in folder.iterdir()} == {
        *("README.md", "bundle.json", "digests.json", "examples.json", "items.parquet", "items.safetensors"),
        *("policy.onnx", "policy.safetensors", "recipe.json"),
    }
    assert pl.read_parquet(folder / "items.parquet").columns == ["item", "title", "count"]
    log = {int(time) for time in made.data.sequences.time}
    for example in read_json(folder / "examples.json"):
        assert not log & set(example["request"]["times"])
    assert b"/src/recalign/" not in (folder / "policy.onnx").read_bytes()  # nor of the machine


def test_the_card_says_what_is_known(bundled):
    card = (current(bundled) / "README.md").read_text()
    about = load_bundle(bundled).about
    value, low, high = about.verified["request"]
    assert card.startswith("---\nlibrary_name: recalign\n")
    assert f"{value:.4f} [{low:.4f}, {high:.4f}]" in card
    assert about.made_of["recommender"] in card
    assert "120 users on 40 items" in card


def copy(bundled, tmp_path):
    shutil.copytree(current(bundled), tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "items.parquet").write_bytes(b"x"), "items.parquet: missing, or its SHA-256 has changed"),
        (lambda f: (f / "digests.json").unlink(), "it has no digests.json"),
        (lambda f: (f / "bundle.json").unlink(), "no bundle in this folder"),
        (lambda f: (f / "bundle.json").write_text(json.dumps({"format": 2})), "has format 2"),
    ],
)
def test_load_bundle_refuses_incomplete_bundles(spoil, says, bundled, tmp_path):
    folder = copy(bundled, tmp_path)
    load_bundle(folder)
    spoil(folder)
    with pytest.raises(InputError, match=says):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("file", "says"), [("examples.json", "example 1 of .* gets another answer"), ("items.parquet", "41 rows; 39 items")]
)
def test_load_bundle_refuses_sealed_files_that_contradict_each_other(bundled, tmp_path, file, says):
    folder = copy(bundled, tmp_path)
    if file == "examples.json":
        told = read_json(folder / file)
        told[1]["answer"]["items"][0] |= {"item": -1, "score": 1e9}
        (folder / file).write_text(json.dumps(told))
    else:
        pl.read_parquet(folder / file).head(-1).write_parquet(folder / file)
    seal(folder)
    with pytest.raises(InputError, match=says):
        load_bundle(folder)


DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    ("file", "content"),
    [
        *(("policy.onnx", b"x"), ("items.safetensors", b"x"), ("items.parquet", b"x"), ("examples.json", DEEP)),
        *(("bundle.json", DEEP), ("bundle.json", {"k": "x"}), ("bundle.json", {"max_length": 0})),
        *(("bundle.json", {"time_unit": "x"}), ("bundle.json", {"inputs": ["x"]}), ("bundle.json", {"reward_sd": 0})),
    ],
)
def test_load_bundle_refuses_crafted_files_in_one_line(bundled, tmp_path, file, content):
    folder = copy(bundled, tmp_path)
    sealed = content if isinstance(content, bytes) else json.dumps(read_json(folder / file) | content).encode()
    (folder / file).write_bytes(sealed)
    (folder / "examples.json").write_bytes(sealed if file == "examples.json" else b"[]")  # which nobody has to give
    seal(folder)
    with pytest.raises(InputError) as refused:
        load_bundle(folder)
    assert len(str(refused.value).splitlines()) == 2  # the second is the remedy


@pytest.mark.parametrize("strong", [{"strength": 50.0}, {"memory": 500.0}])
def test_ties_are_as_wide_as_rounding_under_a_strong_tilt(bundled, tmp_path, strong):
    """Another processor rounded a reward otherwise, and a bundle that tilts by 50 of them was refused."""
    folder = copy(bundled, tmp_path)
    told = read_json(folder / "examples.json")
    told[1]["answer"]["items"][0]["item"] = -1
    told[1]["answer"]["items"][0]["score"] += 2e-3
    (folder / "examples.json").write_text(json.dumps(told))
    seal(folder)
    with pytest.raises(InputError, match=r"example 1 of .* gets another answer here"):
        load_bundle(folder)
    about = read_json(folder / "bundle.json") | strong
    (folder / "bundle.json").write_text(json.dumps(about))
    seal(folder)
    load_bundle(folder)


def test_bundle_config_fills_missing_keys_with_defaults(bundled, tmp_path):
    folder = copy(bundled, tmp_path)
    about = read_json(folder / "bundle.json")
    del about["made_of"]
    (folder / "bundle.json").write_text(json.dumps(about))
    seal(folder)
    assert load_bundle(folder).about.made_of == {}
    for changed in ({name: one for name, one in about.items() if name != "max_length"}, about | {"max_lenght": 3}):
        (folder / "bundle.json").write_text(json.dumps(changed))
        seal(folder)
        with pytest.raises(InputError, match="max_len"):
            load_bundle(folder)


def test_bundle_of_refuses_short_histories_and_logs_without_test_events(made, log_root, tmp_path):
    short = small.data_of(RecommenderData, log_root, "tastes", users="all", max_length=2)
    with pytest.raises(InputError, match=r"data\.max_length: a bundle needs histories of 3 events or more, not of 2"):
        bundle_of(replace(made, data=short), tmp_path)
    newcomers = small.data_of(RecommenderData, log_root, "tastes", users="all")
    newcomers.sequences.offset[:] = 0  # nobody has a history
    with pytest.raises(InputError, match="no test event has a history, so"):
        windows_to_verify(newcomers)


@pytest.mark.slow
def test_a_condition_of_the_log_must_be_kept_by_whoever_asks(made, tmp_path, monkeypatch):
    monkeypatch.setattr(made.data, "log_", replace(made.data.log_, where="rating > 1"))
    with pytest.raises(InputError, match="rating > 1") as refused:
        bundle_of(made, tmp_path)
    assert "--filtered true" in str(refused.value)
    monkeypatch.setattr(made.data, "log_", replace(made.data.log_, where=None, drop_repeats=True))
    with pytest.raises(InputError, match="drop_repeats: True") as refused:
        bundle_of(made, tmp_path)
    assert "--filtered true" in str(refused.value)
    folder, _ = bundle_of(made, tmp_path, filtered=True, check=False)
    assert "leave out events that repeat another" in (folder / "README.md").read_text()


def test_columns_of_the_item_table_can_be_boosted_by(made, monkeypatch, tmp_path):
    (tmp_path / "films.csv").write_text(
        "film,title,genre\n" + "".join(f"{n},Film {n},g{n % 3}\n" for n in range(1, 40))
    )
    log = replace(made.data.log_, items=ItemTable("films.csv", id="film"))
    shutil.copy(Path(made.data.root) / "tastes.csv", tmp_path)
    monkeypatch.setattr(made.data, "root", str(tmp_path))
    with pytest.raises(InputError, match="no item table"):
        items(made, ["genre"])
    monkeypatch.setattr(made.data, "log_", log)
    table = items(made, ["genre", "genre"])
    assert table["genre"].to_list() == [f"g{n % 3}" for n in range(1, 40)] + [None]
    pl.DataFrame(
        {
            "film": [None, *map(float, range(1, 40))],  # pandas stores integers so where one is missing
            "day": pl.Series([18263] * 40, dtype=pl.Date),
            "tags": [["a"]] * 40,
        }
    ).write_parquet(tmp_path / "films.parquet")
    monkeypatch.setattr(made.data, "log_", replace(log, items=ItemTable("films.parquet", id="film", title=None)))
    assert items(made, ["day"])["day"].to_list() == ["2020-01-02"] * 39 + [None]
    with pytest.raises(InputError, match="the column 'tags' holds List"):
        items(made, ["tags"])
    monkeypatch.setattr(made.data, "log_", log)
    with pytest.raises(InputError, match="no column 'gener'") as refused:
        items(made, ["gener"])
    assert "genre" in str(refused.value)


def test_rewards_that_are_ranks_are_not_asked_of_a_request(log_root, tmp_path):
    data = small.data_of(RecommenderData, log_root, "tastes", relative_to=RelativeTo("rating"))
    policy = SequencePolicy(small.encoder(), data.num_items, feedback=True).eval()
    with pytest.raises(InputError, match="reads rewards as ranks within rating") as error:
        bundle_of(OpenedRun(tmp_path / "runs/tastes/recommender/seed-0", policy, data, {}), tmp_path / "bundles")
    assert error.value.where == "data.relative_to"
    assert not (tmp_path / "bundles").exists()


@pytest.mark.slow
@pytest.mark.parametrize("read", ["last_event", "known"])
def test_a_log_whose_split_does_not_follow_time_is_asked_for_in_the_order_of_time(
    log_root, tmp_path, monkeypatch, read
):
    given = {"split": Where("rating > 4", 0.2), "users": "all", "request_time": read}
    data = small.data_of(RecommenderData, log_root, "tastes", **given)
    policy, asked = SequencePolicy(small.encoder(), data.num_items).eval(), []
    real = Catalogue.request
    monkeypatch.setattr(Catalogue, "request", lambda *args, **given: asked.append(args[2]) or real(*args, **given))
    bundle_of(OpenedRun(tmp_path / "runs/tastes/recommender/seed-0", policy, data, {}), tmp_path / "bundles")
    assert len(asked) > 100
    assert all(times == sorted(times) for times in asked)


def test_a_target_is_asked_for_without_the_others_of_its_set(log_root, tmp_path):
    table = pl.read_csv(log_root / "small.csv").with_columns(pl.col("timestamp") // 240 * 240)
    table.write_csv(tmp_path / "small.csv")  # in baskets of about four
    data = small.data_of(RecommenderData, tmp_path, users="all", ties="together", cache=False)
    windows, log, blocked = windows_to_verify(data), data.sequences, 0
    bundle = MagicMock()
    user = np.repeat(windows.user, np.diff(windows.offset))
    for place in range(len(user)):
        asked = (of_target[place] for of_target in (user, windows.state, windows.target, windows.time))
        request_before(data, bundle, *asked)
        (_, times, _, _), more = bundle.catalogue.request.call_args
        own = log.frame.row(int(windows.event[place]), named=True)
        same = log.frame.filter(user=own["user"], timestamp=own["timestamp"])["item_id"].to_list()
        assert max(times) < own["timestamp"] * 1_000_000
        others = [log.items[one - 1] for one in same if 0 != one != own["item_id"] != 0]
        assert sorted(more["block"]) == sorted(others)
        blocked += len(others)
    assert blocked > 100


@pytest.mark.long
def test_a_strength_is_asked_for_in_standard_deviations_also_where_the_row_has_none(made, tmp_path):
    """The search for a strength may end at 0."""
    scores = ItemScores(torch.linspace(0, 1, made.policy.num_items))
    for place, strength in enumerate((0.0, 0.5)):
        reranked = replace(made, policy=Rerank(made.policy, scores, strength / 50, 50.0), strength=strength)
        folder, _ = bundle_of(reranked, tmp_path / str(place), check=False)
        assert load_bundle(folder).about.reward_sd == 50
        assert load_bundle(folder).catalogue.strength(1.0) == pytest.approx(1 / 50)
