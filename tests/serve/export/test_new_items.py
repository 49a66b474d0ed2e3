"""`recalign items add`: new items answer from a bundle, as the policy would rank them, without training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import featured
import numpy as np
import polars as pl
import pytest
import small
import torch
from featured import COLD, WARM

from recalign.cli import main
from recalign.errors import InputError
from recalign.nn import LazyDecoder
from recalign.recommender import CodePolicy, Recommender
from recalign.recommender.checkpoint import load_net
from recalign.recommender.new_items import with_new_items
from recalign.recommender.semantic_ids.codes import CodesTable
from recalign.serve.export import BundleVectors
from recalign.serve.export.new_items import add_items, titled_rows
from recalign.serve.export.new_items import read_new_items as new_rows
from recalign.serve.export.verify import _of_batch
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
    module.policy.prior_strength = 0.4
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


def test_semantic_ids_may_be_made_of_what_features_say_of_new_items(made, tmp_path):
    pl.DataFrame(NEW | {"item": [501, 502]}).write_csv(tmp_path / "new.csv")
    folder, _ = add_items(made / "b", tmp_path / "new.csv")
    data = featured.data_of(made)
    found = dict(BundleVectors(folder).table(data).iter_rows())
    policy = load_net(made / "policy.ckpt", "policy").net.eval()
    own = dict(zip(data.sequences.items.to_list(), policy.item_table()[1:].tolist(), strict=True))
    assert found[1] == pytest.approx(own[1], abs=1e-6)
    assert found[501] == pytest.approx(own[37], abs=1e-6)  # cold, with the same features
    data.log_ = dataclasses.replace(data.log_, name="other")
    with pytest.raises(InputError, match="a bundle of the log 'new', not of 'other'") as caught:
        BundleVectors(folder).table(data)
    assert caught.value.remedy


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
    assert "stays" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"item": [201, 5]}, "in the bundle already"),
        ({"item": [201, 201]}, "in several rows"),
        ({"half": [None, "odd"], "size": [None, 1], "words": [None, "a"]}, "nothing is known of 201"),
        ({"item": [201, None]}, "no item id of the log's type, Int64, in row 2"),
    ],
)
def test_what_cannot_be_added(made, tmp_path, change, said):
    columns = {name: one for name, one in (NEW | {"item": [201, 202]} | change).items() if one is not None}
    pl.DataFrame(columns).write_parquet(tmp_path / "bad.parquet")
    before = load_bundle(made / "b").version
    with pytest.raises(InputError, match=said) as caught:
        add_items(made / "b", tmp_path / "bad.parquet")
    assert caught.value.remedy
    assert load_bundle(made / "b").version == before


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
    assert titled_rows(KNOWN, file, BUNDLE, pl.Series([9, 8])).equals(rows.reverse())
    for tags, said in (({}, "no column 'tags', which the bundle has"), ({"tags": ["y", "z"]}, "'tags' holds String")):
        pl.DataFrame(FURTHER | tags).write_parquet(file)
        with pytest.raises(InputError, match=said) as caught:
            new_rows(file, KNOWN, BUNDLE)
        assert caught.value.remedy


def test_new_codes_without_a_table_say_that_boosts_miss_them(tmp_path, capsys):
    rows = titled_rows(KNOWN, None, BUNDLE, pl.Series([8, 9]))
    assert rows.columns == ["item", "title", "count"]
    assert "no boost by brand, price, tags reaches the new items" in capsys.readouterr().out
    titled_rows(KNOWN, None, BUNDLE.select(rows.columns), pl.Series([8, 9]))
    assert not capsys.readouterr().out


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


def test_other_features_of_the_same_items_are_not_exported(made, tmp_path):
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
    with pytest.raises(InputError, match="does not know items by their features"):
        add_items(bundled, tmp_path / "x.csv")


def codes_of(items: pl.Series, codes: torch.Tensor, sizes: list[int], path: Path) -> Path:
    """A file of codes, as ``recalign tokenize`` writes it."""
    CodesTable(items, codes.numpy(), np.ones(len(items), np.int64), tuple(sizes), "new").write(path)
    return path


def random_codes() -> tuple[list[int], torch.Tensor, torch.Tensor]:
    """Sizes, codes of the catalogue, and ten further ones, of which some begin with a code that was no item's."""
    every = torch.cartesian_prod(*map(torch.arange, sizes := [6, 4, 3]))
    left = every[every[:, 0] < 5]
    known = left[torch.randperm(len(left), generator=torch.Generator().manual_seed(0))[:WARM]]
    return sizes, known, every[~(every[:, None] == known).all(dim=2).any(dim=1)][-10:]


def only_children() -> tuple[list[int], torch.Tensor, torch.Tensor]:
    """Every prefix of the catalogue has one last code; further items have others of them, and new prefixes."""
    known = torch.cartesian_prod(torch.arange(6), torch.arange(6), torch.arange(1))
    return [7, 6, 3], known, torch.tensor([*([a, 5 - a, 1 + a % 2] for a in range(6)), *([6, b, 0] for b in range(4))])


@pytest.fixture(scope="module", params=[random_codes, only_children])
def coded(request, tmp_path_factory):
    """A version of a bundle over codes, its data and policy, the sizes and the codes of its items and of ten more."""
    from recalign.run.stage.opened import OpenedRun
    from recalign.serve.export.command import bundle_of

    folder = tmp_path_factory.mktemp("coded")
    data, (sizes, known, more) = featured.data_of(featured.write(folder), {}), request.param()
    assert data.num_items == WARM
    torch.manual_seed(0)
    policy = CodePolicy(LazyDecoder(8, layers=1, heads=2, max_length=32), WARM, sizes)
    policy.set_codes(known)
    policy.set_counts(torch.randint(0, 50, (WARM,)))
    policy.prior_strength = 0.4
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
        policy.item_embedding.weight[0] = 0
    run = OpenedRun(folder / "runs/new/recommender-onerec/seed-0", policy.eval(), data, {})
    return bundle_of(run, folder / "b")[0], data, policy, sizes, torch.cat([known, more])


def test_new_codes_are_answered_as_the_policy_with_them_would(coded, tmp_path):
    first, data, policy, sizes, codes = coded
    before, ids = load_bundle(first), data.sequences.items
    added = pl.Series(range(9001, 9011), dtype=ids.dtype)
    titles = pl.DataFrame({"item": added.head(9), "title": [f"no. {n}" for n in added.head(8)] + [""]})
    titles.write_csv(tmp_path / "titles.csv")
    folder = first
    for count in (4, 10):  # a second file goes on from the first
        every = pl.concat([ids, added.head(count)])
        path = codes_of(every, codes[: len(every)], sizes, tmp_path / f"{count}.parquet")
        folder, number = add_items(folder, path, tmp_path / "titles.csv")
        policy, _ = with_new_items(policy, path, every.head(policy.num_items))
        assert number == len(every) - (WARM if count == 4 else WARM + 4)
    after = load_bundle(folder)
    assert after.version != before.version
    assert after.catalogue.ids == every.to_list()
    assert after.catalogue.titles == [
        *before.catalogue.titles,
        *(f"no. {n}" for n in range(9001, 9009)),
        "9009",
        "9010",
    ]
    batch = small.batch_of(data, rows=12)
    with torch.no_grad():
        own = policy.eval().log_probs(policy.encode(batch))
    logits = torch.from_numpy(after.run(list(_of_batch(batch, 0.0)), ["logits"])[0])
    torch.testing.assert_close(logits[:, 1:].log_softmax(dim=1), own, atol=1e-4, rtol=0)
    assert len(policy.trie.code(1)) == sizes[0]  # a first code that was no item's
    assert policy.trie.fans[-1] > 1
    answer = after.recommend({"items": ids.head(2).to_list(), "times": [10, 20], "k": len(every)})
    assert {one.item for one in answer.items} == set(every.to_list()) - set(ids.head(2).to_list())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda ids, codes: (ids, codes[:WARM]), "all its items are in the bundle already"),
        (lambda ids, codes: (ids.head(5), codes[:5]), "have no id"),
        (lambda ids, codes: (ids, codes[-WARM:]), "other codes of its items"),
    ],
)
def test_codes_that_cannot_be_added(coded, tmp_path, change, said):
    first, data, _, sizes, codes = coded
    path = codes_of(*change(data.sequences.items, codes), sizes, tmp_path / "codes.parquet")
    versions = sorted(first.parent.iterdir())
    with pytest.raises(InputError, match=said) as caught:
        add_items(first, path)
    assert caught.value.remedy
    assert sorted(first.parent.iterdir()) == versions


def test_codes_of_another_log_are_refused(coded, tmp_path):
    first, data, _, sizes, codes = coded
    path = codes_of(data.sequences.items, codes[:WARM], sizes, tmp_path / "codes.parquet")
    dataclasses.replace(CodesTable.read(path), log="other").write(path)
    with pytest.raises(InputError, match="ids of the log 'other', not of 'new'"):
        add_items(first, path)
