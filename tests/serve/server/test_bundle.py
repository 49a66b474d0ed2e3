"""What a bundle answers: filters, times, unknown items, many at once; and what it refuses."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import served
from served import about

from recalign.errors import InputError
from recalign.files import read_json, write_json
from recalign.seals import SEAL, seal
from recalign.serve.server import Boost, Bundle, Request, load_bundle
from recalign.serve.server.about import ABOUT, BundleConfig, current, point
from recalign.serve.server.catalogue import Catalogue, strongest
from recalign.serve.server.service import Service

ITEMS, TIMES = [3, 5, 7, 11], [1000, 1060, 1120, 1180]


@pytest.fixture(scope="module")
def bundle(bundled) -> Bundle:
    return load_bundle(bundled)


def request(**settings) -> Request:
    return Request(**{"items": ITEMS, "times": TIMES, **settings})


def items_of(answer) -> list:
    return [one.item for one in answer.items]


def test_a_request_is_answered_by_titled_items(bundle):
    answer = bundle.recommend({"items": ITEMS, "times": TIMES, "k": 5})
    assert len(answer.items) == 5
    assert [one.title for one in answer.items] == [str(one.item) for one in answer.items]  # the log has no titles
    assert answer.version == bundle.version
    scores = [one.score for one in answer.items]
    assert scores == sorted(scores, reverse=True)
    assert not set(items_of(answer)) & set(ITEMS)


def test_seen_include_recommends_items_of_the_history(bundle):
    answer = bundle.recommend(request(seen="include", k=40))
    assert sorted(items_of(answer)) == sorted(bundle.catalogue.ids)


def test_blocked_and_allowed_items(bundle):
    first = items_of(bundle.recommend(request(k=3)))
    assert not set(items_of(bundle.recommend(request(block=first)))) & set(first)
    allowed = bundle.recommend(request(allow=[*first, 3], k=10))
    assert items_of(allowed) == first  # and 3 was seen
    with_block = bundle.recommend(request(allow=first, block=first[:1]))
    assert items_of(with_block) == first[1:]
    assert items_of(bundle.recommend(request(block=bundle.catalogue.ids))) == []


def test_a_filter_that_filters_nothing_changes_nothing(bundle):
    """The graph's own list, and the one made from the scores of all, are the same."""
    plain = bundle.recommend(request(k=20))
    filtered = bundle.recommend(request(k=20, allow=bundle.catalogue.ids))
    assert items_of(plain) == items_of(filtered)
    np.testing.assert_allclose([a.score for a in plain.items], [b.score for b in filtered.items], atol=1e-6)


def test_log_probabilities_are_of_what_the_filters_leave(bundle):
    answer = bundle.recommend(request(k=36, log_probs=True))
    assert sum(np.exp(one.log_prob) for one in answer.items) == pytest.approx(1)
    few = bundle.recommend(request(k=40, log_probs=True, allow=items_of(answer)[:3]))
    assert sum(np.exp(one.log_prob) for one in few.items) == pytest.approx(1)
    scored = bundle.score(request(), [items_of(answer)[0], 3, 999])
    assert scored.log_probs[0] == pytest.approx(answer.items[0].log_prob)
    assert scored.log_probs[1:] == [None, None]


def test_a_boost_adds_to_the_log_probabilities(bundle):
    last = items_of(bundle.recommend(request(k=36)))[-1]
    boosted = bundle.recommend(request(boost=[Boost("item", last, 50.0)]))
    assert items_of(boosted)[0] == last
    with pytest.raises(InputError, match="no column 'titel'") as refused:
        bundle.recommend(request(boost=[Boost("titel", "x", 1.0)]))
    assert refused.value.where == "boost[0].column"
    assert "did you mean 'title'?" in str(refused.value)
    for column, value, kind in (("title", 3, "String"), ("title", True, "String"), ("count", True, "Int64")):
        with pytest.raises(InputError, match=f"holds {kind}"):
            bundle.recommend(request(boost=[Boost(column, value, 1.0)]))


def test_boosts_of_values_that_no_item_has_are_counted(bundle):
    boosts = [Boost("title", "nowhere", 1.0), Boost("count", -1, 1.0), Boost("item", 1, 1.0)]
    assert bundle.recommend(request(boost=boosts)).left_out.boosts == 2
    assert bundle.recommend(request(boost=boosts[2:])).left_out.boosts == 0


def test_many_boosts_of_a_column_add_up():
    genres = ["a", "b", None, "a"]
    made = Catalogue(pl.DataFrame({"item": [1, 2, 3, 4], "title": list("wxyz"), "genre": genres}), about())
    boosts = [Boost("genre", "a", 1.0), Boost("genre", "a", 0.5), Boost("genre", "c", 9.0), Boost("item", 2.0, -1.0)]
    assert made.boosts(boosts).tolist() == [0, 1.5, -1, 0, 1.5]
    prices = pl.Series("price", [9.99, 5.0], dtype=pl.Float32)
    priced = Catalogue(pl.DataFrame({"item": [1, 2], "title": ["w", "x"], "price": prices}), about())
    assert priced.boosts([Boost("price", 9.99, 3.0)]).tolist() == [0, 3, 0]
    nested = Catalogue(pl.DataFrame({"item": [1], "title": ["w"], "genres": [["a"]]}), about())
    with pytest.raises(InputError, match="holds List"):
        nested.encode(Request(boost=[Boost("genres", 1, 1.0)]))
    new = Catalogue(pl.DataFrame({"item": [1, 2], "title": ["w", "x"], "new": [True, False]}), about())
    assert new.boosts([Boost("new", True, 3.0)]).tolist() == [0, 3, 0]
    with pytest.raises(InputError, match="holds Boolean"):
        new.encode(Request(boost=[Boost("new", 1, 1.0)]))


def test_without_a_history_the_most_chosen_come_first(bundle):
    counts = dict(zip(bundle.catalogue.ids, bundle.catalogue.table["count"].to_list(), strict=True))
    shown = items_of(bundle.recommend({"k": 40}))
    assert shown == sorted(counts, key=lambda item: (-counts[item], item))
    assert len(set(counts.values())) < 40  # so that ties are among them
    assert items_of(bundle.recommend({"k": 40, "block": [999]})) == shown
    assert items_of(bundle.recommend({"k": 40, "log_probs": True})) == shown


def test_unknown_items_are_dropped_counted_and_named(bundle):
    answer = bundle.recommend({"items": [3, 900, 5, 7, 901, 11], "times": [1000, 1030, 1060, 1120, 1130, 1180]})
    scored = bundle.score({"items": ITEMS, "times": TIMES}, [900, 40, 902])
    assert [logp is None for logp in scored.log_probs] == [True, False, True]
    assert (scored.left_out.unknown, scored.left_out.unknown_ids) == (2, [900, 902])
    assert answer.left_out.unknown == 2
    assert answer.left_out.unknown_ids == [900, 901]
    assert items_of(answer) == items_of(bundle.recommend(request()))  # as if they had never been


def test_the_newest_events_are_read_and_all_are_seen(bundle):
    long = {"items": [1, *[2, 4] * 20], "times": list(range(41))}
    answer = bundle.recommend({**long, "k": 37})
    assert answer.left_out.older == 9
    assert not set(items_of(answer)) & {1, 2, 4}
    newest = {"items": long["items"][-32:], "times": long["times"][-32:], "block": [1], "k": 37}
    assert answer.items == bundle.recommend(newest).items


@pytest.mark.parametrize("length", [1, 2, 7, 31, 32])
def test_alone_and_among_others_the_answer_is_the_same(length, bundle):
    random = np.random.default_rng(length)
    many = [
        {"items": random.integers(1, 41, n).tolist(), "times": list(range(n)), "k": 5}
        for n in (length, 1, 32, 17, 3, 0)
    ]
    together = bundle.recommend(many)
    alone = bundle.recommend(many[0])
    assert items_of(alone) == items_of(together[0])
    np.testing.assert_allclose([a.score for a in alone.items], [b.score for b in together[0].items], atol=1e-5)


def test_a_frame_of_many(bundle):
    frame = pl.DataFrame({"user": ["b", "b", "a"], "item": [3, 5, 7], "timestamp": [10, 20, 10]})
    found = bundle.recommend(frame, k=4)
    assert found.columns == ["user", "rank", "item", "title", "score"]
    assert found["user"].to_list() == ["b"] * 4 + ["a"] * 4
    assert found["rank"].to_list() == [1, 2, 3, 4] * 2
    alone = bundle.recommend({"items": [3, 5], "times": [10, 20], "k": 4})
    assert found["item"].to_list()[:4] == items_of(alone)
    assert bundle.recommend(frame[[1, 2, 0]], k=4).equals(found)  # in any order
    pandas = pytest.importorskip("pandas")
    nothing_known = pandas.DataFrame({**frame.to_dict(as_series=False), "reward": [1.0, float("nan"), 2.0]})
    assert bundle.recommend(nothing_known, k=4).equals(found)  # NaN is how pandas writes null
    with pytest.raises(InputError, match="'timestamp'"):
        bundle.recommend(frame.drop("timestamp"))


def test_an_error_says_which_request(bundle):
    with pytest.raises(InputError) as refused:
        bundle.recommend([request(), {"items": ["x"], "times": [1]}])
    assert refused.value.where == "request 1: items[0]"


@pytest.mark.parametrize(
    ("given", "where", "says"),
    [
        ({"items": ["3"], "times": [1]}, "items[0]", "are integers"),
        ({"items": [3, 5], "times": [2, 1]}, "times[1]", "before the previous time"),
        ({"items": [3], "times": [-1]}, "times[0]", "before 1970"),
        ({"items": [3], "times": [1e300]}, "times[0]", "after the year 9999"),
        ({"items": [3], "times": ["2026-01-01"]}, "times[0]", "is not a time"),
        ({"k": 41}, "k", "the catalogue has 40"),
        ({"strength": 1.0}, "strength", "not reranked"),
        ({"time": 5}, "time", "does not take the request's time"),
    ],
)
def test_recommend_refuses_requests_that_the_bundle_cannot_answer(given, where, says, bundle):
    with pytest.raises(InputError, match=says) as refused:
        bundle.recommend(given)
    assert refused.value.where == where
    assert refused.value.remedy


def catalogue(**settings) -> Catalogue:
    return served.catalogue("abcdefghij", **settings)


def test_encode_rounds_times_as_the_log_does():
    encoded = catalogue(time_unit="ms", time_resolution=60, request_time="known").encode(
        Request(["a", "b"], [60_500, 119_999], time=185_000)
    )
    assert encoded.time_L.tolist() == [60, 60]
    assert encoded.request_time_L.tolist() == [60, 180]
    encoded = catalogue(time_unit="datetime").encode(
        Request(["a", "b"], ["1970-01-01T00:01:00.9Z", "1970-01-01T01:01:01+01:00"])
    )
    assert encoded.time_L.tolist() == [60, 61]


def test_a_policy_that_knows_the_time_needs_it():
    known = catalogue(request_time="known")
    with pytest.raises(InputError, match="needs the request's time"):
        known.encode(Request(["a"], [1]))
    with pytest.raises(InputError, match="before the previous time") as refused:
        known.encode(Request(["a"], [10], time=9))
    assert refused.value.where == "time"
    assert known.encode(Request(time=9)).request_time_L.tolist() == []


def test_where_nothing_reads_rewards_they_choose_no_event():
    known = catalogue(collapse=True, reward=None)
    asked = [["a", "b", "a"], [1, 2, 3]]
    plain, told = known.encode(Request(*asked)), known.encode(Request(*asked, rewards=[1, 2, 3]))
    assert plain.time_L.tolist() == told.time_L.tolist() == [1, 2]


@pytest.mark.parametrize("version", ["../x-1", "..", "", 3])
def test_a_version_is_a_name_and_no_path(bundled, tmp_path, version):
    folder = shutil.copytree(current(bundled), tmp_path / "it")
    write_json(folder / ABOUT, read_json(folder / ABOUT) | {"version": version})
    seal(folder)
    with pytest.raises(InputError, match="is not a valid version name"):
        BundleConfig.read(folder)


def test_a_batch_holds_no_more_prefixes_times_events_than_it_may(bundle, monkeypatch):
    monkeypatch.setattr("recalign.serve.server.bundle.MAX_BATCH_PAIRS", 16 * 1000)  # histories of up to 16 events
    monkeypatch.setattr(bundle, "_prefixes", 500)
    assert [len(group) for group in bundle.groups([bundle.encode(request())] * 8)] == [2, 2, 2, 2]


def test_where_the_log_keeps_one_event_an_item_so_does_a_request():
    encoded = catalogue(collapse=True, reward="rating").encode(
        Request(["a", "b", "a", "b"], [1, 2, 3, 4], [1.0, 2.0, 3.0, None])
    )
    assert encoded.item_L.tolist() == [2, 1]
    assert encoded.left_out.repeated == 2
    close = catalogue(collapse=True, reward="rating").encode(
        Request(["a", "b", "a"], [1, 2, 3], [2**25 + 1, 1.0, 2**25 + 2])
    )
    assert close.item_L.tolist() == [2, 1]  # float32 holds both as one number
    rated = catalogue(collapse=True, reward="rating")  # whose policy reads none
    with pytest.raises(InputError, match="an item occurs several times, and its event with the highest") as refused:
        rated.encode(Request(["a", "b", "a"], [1, 2, 3]))
    assert refused.value.where == "rewards"
    assert rated.encode(Request(["a", "b"], [1, 2])).item_L.tolist() == [1, 2]
    assert strongest(np.array([1, 1, 2]), np.array([5.0, 5.0, np.nan], np.float32)).tolist() == [True, False, True]


def test_rewards_are_needed_where_they_are_read():
    reads = catalogue(reward="rating", inputs=["reward", "strength"], strength=2.0, reward_sd=0.5)
    with pytest.raises(InputError, match="reads the rewards"):
        reads.encode(Request(["a"], [1]))
    encoded = reads.encode(Request(["a", "b"], [1, 2], [None, 2.5], strength=1.0))
    assert np.isnan(encoded.reward_L[0])
    assert encoded.reward_L[1] == 2.5
    assert encoded.strength == 2.0
    assert reads.encode(Request()).strength == 4.0


def test_answering_needs_neither_torch_nor_lightning(bundled):
    code = (
        "import sys, recalign, recalign.cli, recalign.serve.server.app, recalign.serve.server.command\n"
        f"recalign.load_bundle({str(bundled)!r}).recommend({{'items': [3], 'times': [5]}})\n"
        "print([name for name in ('torch', 'lightning', 'jsonargparse', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_version_that_cannot_be_loaded_is_left_and_tried_again_once_it_is_whole(bundled, tmp_path, capsys):
    for name in ("one", "two"):
        shutil.copytree(current(bundled), tmp_path / name)
    seal = (tmp_path / "two" / SEAL).read_bytes()
    (tmp_path / "two" / SEAL).unlink()
    point(tmp_path, "one")
    service = Service(tmp_path)
    for pointer in (b"\xff", b"..", b"two"):
        (tmp_path / "current").write_bytes(pointer)
        service.renew()
        service.renew()
        assert service.bundle.folder == tmp_path / "one"
        assert capsys.readouterr().err.count("still serving") == 1  # not at every look
    (tmp_path / "two" / SEAL).write_bytes(seal)
    graph = tmp_path / "two" / "policy.onnx"  # a copy may bring the seal before it
    whole = graph.read_bytes()
    graph.write_bytes(whole[:9])
    service.renew()
    graph.write_bytes(whole)
    service.renew()
    assert service.bundle.folder == tmp_path / "two"


def test_a_run_stands_for_the_bundles_in_it(bundled, tmp_path):
    shutil.copytree(bundled, tmp_path / "seed-0/bundles")
    assert current(tmp_path / "seed-0") == current(tmp_path / "seed-0/bundles")
    assert current(tmp_path) == tmp_path


def test_recommend_refuses_objects_that_are_no_requests(bundled):
    bundle = load_bundle(bundled)
    other_frame = type("Frame", (), {"columns": ["user", "item"]})()
    for given in ("abc", other_frame, None, 5):
        for settings in ({}, {"k": 5}):
            with pytest.raises(InputError, match="Polars or pandas"):
                bundle.recommend(given, **settings)
    with pytest.raises(InputError, match="'abc' cannot be used here"):
        bundle.recommend(["abc"], k=5)
