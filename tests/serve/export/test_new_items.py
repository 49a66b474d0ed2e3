"""`recalign items add`: new items answer from a bundle, as the policy would rank them, without training."""

from __future__ import annotations

import shutil

import featured
import polars as pl
import pytest
import small
import torch
from featured import COLD, WARM

from recalign.cli import main
from recalign.errors import InputError
from recalign.recommender import Recommender
from recalign.recommender.checkpoint import load_net
from recalign.seals import seal
from recalign.serve.export.new_items import add_items
from recalign.serve.export.new_items import read_new_items as new_rows
from recalign.serve.server import load_bundle

pytestmark = pytest.mark.slow

pytest.importorskip("onnxruntime", reason="the bundle's packages are not installed: pip install 'recalign[serve]'")
pytest.importorskip("onnxscript", reason="the exporter is not installed: pip install 'recalign[serve]'")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    from recalign.run.stage.opened import OpenedRun
    from recalign.serve.export.command import bundle_of

    folder = tmp_path_factory.mktemp("exported")
    data = featured.data_of(featured.write(folder))
    torch.manual_seed(0)
    module = Recommender(data.num_items, small.encoder(), temperature=0.1, lr=5e-3)
    small.fit(module, data, folder, epochs=3)
    small.with_memory(module.policy).prior_strength = 0.4
    checkpoint = small.saved(module, folder / "policy.ckpt")
    run = folder / "runs" / "new" / "recommender" / "seed-0"
    bundle_of(
        OpenedRun(run, load_net(checkpoint, "policy").net.eval(), data, {"recommender": checkpoint}), folder / "b"
    )
    return folder


NEW = {"item": [101, 102], "title": ["Alien", None], "half": ["odd", "even"], "size": [1, 2], "words": ["a|w1", "new"]}


def test_new_items_score_as_equal_items_of_the_catalogue_do(made, tmp_path):
    folder = made
    before = load_bundle(folder / "b")
    (before.folder / ".cache" / "hub").mkdir(parents=True)  # as whoever downloads a bundle may leave
    assert before.about.memory == 2.0
    assert before.about.verified["lists"] > 0  # cold items are in the bundle, and it answers as the policy does
    assert before.catalogue.ids == [*range(1, WARM + COLD + 1)]
    pl.DataFrame(NEW).write_csv(tmp_path / "new.csv")
    assert main(["items", "add", str(folder / "b"), str(tmp_path / "new.csv")]) == 0
    after = load_bundle(folder / "b")
    assert after.version != before.version
    assert after.catalogue.ids[-2:] == [101, 102]
    assert after.catalogue.titles[-2:] == ["Alien", "102"]
    assert f"load_bundle('{after.version}')" in (after.folder / "README.md").read_text()
    request = {"items": [1, 3, 5], "times": [10, 20, 30], "k": 5}
    # item 37 has the features of 101 (odd, 37 % 3 = 1, a|w1), and none of them has been in training
    logps = after.score(request, [101, 37, 102]).log_probs
    assert logps[0] == pytest.approx(logps[1], abs=1e-5)
    assert logps[2] < logps[0]
    assert before.score(request, [101]).log_probs == [None]


def test_an_old_version_takes_new_items_and_is_not_served_again_unasked(made, tmp_path, capsys):
    old = load_bundle(made / "b")
    for item in (401, 301):
        pl.DataFrame(NEW | {"item": [item, item + 1]}).write_csv(tmp_path / f"{item}.csv")
    served, _ = add_items(made / "b", tmp_path / "401.csv")
    assert load_bundle(made / "b").version == served.name
    assert main(["items", "add", str(made / "b" / old.version), str(tmp_path / "301.csv")]) == 0
    assert load_bundle(made / "b").version == served.name
    said = capsys.readouterr().out.split()
    assert load_bundle(said[said.index("serve") + 1]).catalogue.ids == [*old.catalogue.ids, 301, 302]
    assert "unchanged:" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"item": [201, 5]}, "in the bundle already"),
        ({"item": [201, 201]}, "in several rows"),
        ({"half": [None, "odd"], "size": [None, 1], "words": [None, "a"]}, "item 201 has no feature value"),
        ({"item": [201, None]}, "no item id of the log's type, Int64, in row 2"),
    ],
)
def test_add_items_refuses_invalid_tables(made, tmp_path, change, said):
    columns = {name: one for name, one in (NEW | {"item": [201, 202]} | change).items() if one is not None}
    pl.DataFrame(columns).write_parquet(tmp_path / "bad.parquet")
    before = load_bundle(made / "b").version
    with pytest.raises(InputError, match=said) as caught:
        add_items(made / "b", tmp_path / "bad.parquet")
    assert caught.value.remedy
    assert load_bundle(made / "b").version == before


def test_a_strangers_bundle_without_a_card_takes_none(made, tmp_path):
    own = shutil.copytree(load_bundle(made / "b").folder, tmp_path / "own")
    (own / "README.md").unlink()
    seal(own)
    pl.DataFrame(NEW).write_csv(tmp_path / "new.csv")
    with pytest.raises(InputError, match=r"README\.md"):
        add_items(own, tmp_path / "new.csv")


def test_new_vectors_are_as_long_as_those_in_training(tmp_path):
    plans = [{"name": "text", "kind": "vector", "mean": [0.0, 0.0, 0.0], "scale": 1.0}]
    known = {"id": "item", "title": None, "features": {"text": {"value": "text"}}, "plans": plans}
    table = pl.DataFrame({"item": [1], "title": ["1"], "count": [3]})
    for width in (1, 2, 3):  # one number would be spread over all three
        pl.DataFrame({"item": [9], "text": [[1.0] * width]}).write_parquet(tmp_path / "new.parquet")
        if width == 3:
            assert new_rows(tmp_path / "new.parquet", known, table)[0].values["text"].to_list() == [[1.0] * 3]
        else:
            with pytest.raises(InputError, match=f"vectors of text have {width} numbers, and those in training 3"):
                new_rows(tmp_path / "new.parquet", known, table)


BUNDLE = pl.DataFrame({"item": [1], "title": ["1"], "count": [3], "brand": ["a"], "price": [1.5], "tags": [["x"]]})
PLANS = [{"name": "half", "kind": "category", "categories": ["odd"]}]
KNOWN = {"id": "item", "title": "title", "features": {"half": {"value": "half"}}, "plans": PLANS}
FURTHER = {"item": [8, 9], "title": ["A", "B"], "half": ["odd"] * 2, "brand": ["b", None], "price": [2, 3]}


def test_new_items_have_the_further_columns_of_the_bundle(tmp_path):
    """Those of `recalign export --columns`, which requests boost by, of the bundle's types."""
    file = tmp_path / "new.parquet"
    pl.DataFrame(FURTHER | {"tags": [["y"], []]}).write_parquet(file)
    _, rows = new_rows(file, KNOWN, BUNDLE)
    assert rows.schema == BUNDLE.schema
    assert rows.to_dict(as_series=False) == {
        "item": [8, 9],
        "title": ["A", "B"],
        "count": [0, 0],
        "brand": ["b", None],
        "price": [2.0, 3.0],
        "tags": [["y"], []],
    }
    for tags, said in (({}, "no column 'tags', which the bundle has"), ({"tags": ["y", "z"]}, "'tags' holds String")):
        pl.DataFrame(FURTHER | tags).write_parquet(file)
        with pytest.raises(InputError, match=said) as caught:
            new_rows(file, KNOWN, BUNDLE)
        assert caught.value.remedy


@pytest.mark.parametrize("item", ["caf\xe9", " caf\xe9", "cafe\u0301"])
def test_new_items_whose_ids_look_like_known_ones_are_refused(tmp_path, item: str):
    pl.DataFrame({"item": [item], "half": ["odd"]}).write_parquet(tmp_path / "new.parquet")
    table = pl.DataFrame({"item": ["caf\xe9"], "title": ["1"], "count": [3]})
    with pytest.raises(InputError, match=r"1 items are in the bundle already .*, such as ' ?caf"):
        new_rows(tmp_path / "new.parquet", KNOWN | {"title": None}, table)


def test_new_items_without_an_item_prior(made, tmp_path):
    """Without a history the counts answer, and a new item has the mean one."""
    from recalign.run.stage.opened import OpenedRun
    from recalign.serve.export.command import bundle_of

    data, policy = featured.data_of(made), load_net(made / "policy.ckpt", "policy").net.eval()
    policy.prior_strength = 0.0
    run = made / "runs" / "new" / "recommender" / "seed-1"
    bundle_of(OpenedRun(run, policy, data, {"recommender": made / "policy.ckpt"}), tmp_path / "b", check=False)
    pl.DataFrame(NEW).write_csv(tmp_path / "new.csv")
    add_items(tmp_path / "b", tmp_path / "new.csv")
    logps = load_bundle(tmp_path / "b").score({"items": [], "k": 3}, [101, 41]).log_probs
    assert logps[0] == pytest.approx(logps[1], abs=1e-5)  # 41 is cold too


def test_export_refuses_changed_item_features(made, tmp_path):
    """New items would be encoded by a table that the policy has never seen."""
    from recalign.run.stage.opened import OpenedRun
    from recalign.serve.export.command import bundle_of

    table = pl.read_csv(made / "items.csv")
    swapped = pl.when(pl.col("half") == "odd").then(pl.lit("even")).otherwise(pl.lit("odd"))
    featured.write(tmp_path)
    table.with_columns(half=swapped).write_csv(tmp_path / "items.csv")
    checkpoint, data = made / "policy.ckpt", featured.data_of(tmp_path)
    loaded = load_net(checkpoint, "policy")
    loaded.check(data)  # the catalogue is the same
    run = OpenedRun(tmp_path / "runs" / "new" / "recommender" / "seed-0", loaded.net.eval(), data, {})
    with pytest.raises(InputError, match="other features than those"):
        bundle_of(run, tmp_path / "b", check=False)
    assert not (tmp_path / "b").exists()


def test_a_bundle_without_features_takes_no_new_items(bundled, tmp_path):
    pl.DataFrame(NEW).write_csv(tmp_path / "x.csv")
    with pytest.raises(InputError, match="does not read item features"):
        add_items(bundled, tmp_path / "x.csv")
