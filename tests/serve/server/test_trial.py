"""The page to try a bundle on: what it asks, and the page in a browser."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote

import polars as pl
import pytest
from served import TOKEN, about, call, running, started

pytest.importorskip("fastapi", reason="the server's packages are not installed: pip install 'recalign[serve]'")

from recalign.errors import InputError
from recalign.serve.server import load_bundle, trial
from recalign.serve.server.about import current, of_chain, point
from recalign.serve.server.app import make_app
from recalign.serve.server.catalogue import Catalogue
from recalign.serve.server.trial import Trial, answer_trial, search
from recalign.serve.server.why import blank

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
HOSTILE = "<img src=x onerror=alert(1)>"


def asked(app, *calls, **headers):
    """Status and body of each call, a path or a path with what is posted, all of them in one event loop."""
    given = [one if isinstance(one, tuple) else (one, None) for one in calls]
    found = running(
        app,
        *(
            call(app, path, json.dumps(body).encode() if body else b"", headers, "POST" if body else "GET")
            for path, body in given
        ),
    )
    return [(status, json.loads(text)) for status, _, text in found]


def test_a_search_finds_titles_and_ids_those_chosen_most_first():
    table = pl.DataFrame({"item": [3, 14, 5], "title": ["Alien", "Aliens", "Brazil"], "count": [5, 9, 2]})
    items = Catalogue(table, about())
    assert [one.item for one in search(items, "ALI", 10)] == [14, 3]
    assert [one.item for one in search(items, "5", 10)] == [5]
    assert [one.item for one in search(items, "", 2)] == [14, 3]
    assert search(items, "nothing", 2) == []


def test_two_bundles_answer_side_by_side_as_python_does(bundled):
    app = make_app(bundled, beside=current(bundled))
    wrong = ("/try", {"items": ["three"]})
    (status, said), (_, found), (refused, _) = asked(app, "/bundle", ("/try", {"items": [3, 5], "k": 4}), wrong)
    assert said["ndcg"] == load_bundle(bundled).about.verified["request"][0]
    assert (status, said["bundles"], said["ids"]) == (200, [load_bundle(bundled).about.name] * 2, "integer")
    assert (len(found["lists"]), refused) == (2, 422)
    own = load_bundle(bundled).recommend({"items": [3, 5], "times": [1000, 1060], "k": 4, "log_probs": True})
    for rows in found["lists"]:  # times alone differ, and the encoder reads none
        assert [row["item"] for row in rows] == [row.item for row in own.items]
        assert [row["log_prob"] for row in rows] == pytest.approx([row.log_prob for row in own.items], abs=1e-4)
        assert all(row["place"] == place for place, row in enumerate(rows, 1))  # of the same bundle
        assert all(more == pytest.approx(0, abs=1e-4) for row in rows for more in row["more"].values())
    assert found["drawn"] is None
    alone = asked(make_app(bundled), ("/try", {"items": []}))[0][1]["lists"]
    assert (len(alone), alone[0][0]["place"], alone[0][0]["more"]) == (1, None, None)


def test_the_parts_of_a_log_probability_add_up_to_it(bundled):
    bundle = load_bundle(bundled)
    (rows,) = answer_trial([bundle], Trial(items=[3, 5], k=8)).lists
    assert {*rows[0].parts} >= {"network", "prior"}
    off = [row.log_prob - sum(row.parts.values()) for row in rows]
    assert off == pytest.approx([off[0]] * len(rows), abs=1e-4)
    counts = dict(bundle.catalogue.table.select("item", "count").iter_rows())
    by_count = sorted(rows, key=lambda row: counts[row.item])
    assert [row.parts["prior"] for row in by_count] == sorted(row.parts["prior"] for row in rows)


def test_of_a_catalogue_smaller_than_the_list_all_is_shown(bundled):
    bundle = load_bundle(bundled)
    (rows,) = answer_trial([bundle], Trial(items=[3, 5], k=100)).lists
    assert len(rows) == len(bundle.catalogue) - 2 < 100


def test_a_tilted_bundle_says_which_items_its_prior_has_moved(bundled):
    """The same policy with its item prior taken away: what differs is the prior, and nothing else."""
    first, second = load_bundle(bundled), load_bundle(bundled)
    second._tables = second._tables | {"bias": blank(second._tables["bias"])}
    (rows, _) = answer_trial([first, second], Trial(items=[3, 5], k=4)).lists
    for row in rows:
        assert row.more["prior"] == pytest.approx(row.parts["prior"], abs=1e-4)
        assert row.more["network"] == pytest.approx(0, abs=1e-4)
    others = [row.item for row in answer_trial([second], Trial(items=[3, 5], k=20)).lists[0]]
    assert [row.place for row in rows if row.item in others] == [
        others.index(row.item) + 1 for row in rows if row.item in others
    ]


def test_a_chain_is_served_as_its_answer_with_its_start_beside(chain):
    assert current(chain) == current(chain / "asft/seed-0")
    assert of_chain(chain)[1] == chain / "start/seed-0/bundles"
    (chain / "bundles.json").write_text('["../elsewhere"]')
    with pytest.raises(InputError, match="is not a list of bundle paths"):
        current(chain)


def test_a_drawn_list_stands_beside_the_ranked_one(bundled):
    app = make_app(bundled)
    body = {"items": [3, 5], "k": 2, "explore": {"temperature": 0.001}}  # the third is .004 ahead of the fourth
    (_, found), (_, ranked) = asked(app, ("/try", body), ("/try", {"items": [3, 5], "k": 2}))
    assert found["lists"] == ranked["lists"]
    assert [row["item"] for row in found["drawn"][0]] == [row["item"] for row in found["lists"][0]]  # hardly by chance
    assert found["drawn"][0][0]["log_prob"] == pytest.approx(0, abs=0.05)


def test_the_page_is_open_and_what_it_asks_needs_the_token(bundled):
    app = make_app(bundled, token=TOKEN)
    status, headers, text = running(app, call(app, "/", b"", method="GET"))[0]
    assert status == 200
    assert "default-src 'none'" in headers["content-security-policy"]
    assert b"http://" not in text.replace(b"http://www.w3.org", b"")
    assert b"https://" not in text
    assert [status for status, _ in asked(app, "/items", "/bundle")] == [401, 401]
    app = make_app(bundled, token=TOKEN)
    assert asked(app, "/bundle", authorization=f"Bearer {TOKEN}")[0][0] == 200


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node here")
@pytest.mark.parametrize(
    ("ids", "item"), [("integer", 2**53 + 1), ("integer", -(2**63)), ("integer", 7), ("text", "9" * 20)]
)
def test_the_page_asks_with_the_ids_that_it_was_given(ids, item):
    """Also with those that JavaScript would round."""
    page = Path(trial.__file__).with_name("trial.html").read_text()
    functions = re.search(r"const asTexts.*?\n}\n", page, re.DOTALL)[0]
    given = json.dumps([{"item": item, "title": 'a "item":12345678901234567 b'}])
    code = f"""
        const bundle = {{ids: {json.dumps(ids)}}}, sent = [], $ = () => ({{value: "", hidden: true}});
        const said = {{ok: true, text: async () => process.argv[1]}};
        const fetch = async (path, options) => (sent.push(options.body), said);
        {functions}
        ask("/items").then(found => ask("/try", found)).then(() => console.log(sent[1]));
    """
    asked = subprocess.run(["node", "-e", code, given.replace(": ", ":")], capture_output=True, text=True, check=True)
    assert json.loads(asked.stdout) == json.loads(given)


@pytest.fixture
def chain(hostile, tmp_path):
    """A chain's folder as `recalign export CHAIN` leaves it."""
    for row in ("asft", "start"):
        shutil.copytree(hostile, tmp_path / "chain" / row / "seed-0/bundles" / hostile.name)
        point(tmp_path / "chain" / row / "seed-0/bundles", hostile.name)
    (tmp_path / "chain/bundles.json").write_text(json.dumps(["asft/seed-0/bundles", "start/seed-0/bundles"]))
    return tmp_path / "chain"


@pytest.fixture
def hostile(bundled, tmp_path):
    """A bundle with a title that is markup."""
    from recalign.seals import seal

    folder = tmp_path / "hostile"
    shutil.copytree(current(bundled), folder)
    items = pl.read_parquet(folder / "items.parquet")
    titled = pl.when(pl.col("item") == items["item"][0]).then(pl.lit(HOSTILE)).otherwise("title").alias("title")
    items.with_columns(titled).write_parquet(folder / "items.parquet")
    seal(folder)
    return folder


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1280, "light")])
def test_a_history_by_clicks_in_a_browser(chain, width, scheme):
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright: drives a browser")
    server = started(chain)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM)
        page = browser.new_page(viewport={"width": width, "height": 1000}, color_scheme=scheme)
        errors, requests = [], []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        home = f"http://127.0.0.1:{server.port}/"
        page.goto(home)
        page.locator("#lists ol").nth(1).wait_for()
        page.fill("#query", HOSTILE)
        page.wait_for_url(home)
        page.locator("#found button", has_text=HOSTILE).click()
        page.locator("#history li", has_text=HOSTILE).wait_for()
        assert page.locator("#lists section").count() == 2
        assert page.locator("#lists li").count() == 20
        assert page.locator("img").count() == 0
        assert "prior" in page.locator("#lists li").first.inner_text()
        page.locator("#explore").check()
        page.locator("#lists section").nth(3).wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert any(quote(HOSTILE, safe="()") in url for url in requests)
        assert {url[: len(home)] for url in requests} == {home}
        assert errors == []
        browser.close()
    server.process.kill()
    server.process.communicate()
