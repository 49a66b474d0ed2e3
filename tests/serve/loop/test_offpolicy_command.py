"""Once around: a server draws lists, people choose, outcomes are joined, and candidates are valued."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from served import call, running

from recalign.cli import main
from recalign.errors import InputError
from recalign.serve.feedback.feedback_command import feedback
from recalign.serve.feedback.joining import MISFITS, OVERDUE
from recalign.serve.loop.monitor_command import monitor, policy_drift
from recalign.serve.loop.offpolicy_command import ANOTHER, UNFIT, estimate_versions, offpolicy
from recalign.serve.loop.served import read_rows, read_served
from recalign.serve.server import load_bundle
from recalign.serve.server.decisions import Decisions
from recalign.serve.server.request import Explore

pytest.importorskip("fastapi", reason="the server is not installed: pip install 'recalign[serve]'")
KEY = "a-key-of-this-test-0123456789"
USERS, EACH, K, S = 150, 2, 4, 1_000_000
BEGAN = 1_700_000_000  # seconds; the first decision
EXPLORE = {"temperature": 2.0, "share": 0.8}


def likes(item: int) -> float:
    """The chance that an item is chosen where it is shown."""
    return 0.1 + 0.8 * (item % 3 == 0)


@pytest.fixture(scope="module")
def around(bundled, tmp_path_factory) -> Path:
    """A folder with a log of decisions, what people chose, and ``feedback.yaml``."""
    from recalign.serve.server.app import make_app

    folder, draw = tmp_path_factory.mktemp("around"), np.random.default_rng(0)
    decisions = Decisions(folder / "log", KEY)
    app = make_app(bundled, decisions=decisions)
    before = {user: draw.choice(np.arange(1, 41), 3, replace=False).tolist() for user in range(USERS)}
    told = [(user, item, 1000 + 60 * n) for user, items in before.items() for n, item in enumerate(items)]
    now = [0]

    async def turns() -> None:
        for turn in range(EACH):
            now[0] = BEGAN + 10 * turn
            bodies = []
            for user in range(USERS):
                own = sorted((when, item) for who, item, when in told if who == user)
                asked = {"user": user, "items": [i for _, i in own], "times": [t for t, _ in own], "k": K}
                bodies.append({**asked, "explore": {**EXPLORE, "seed": turn * USERS + user}})
            found = await asyncio.gather(*(call(app, "/recommend", json.dumps(body).encode()) for body in bodies))
            assert {status for status, _, _ in found} == {200}, found[0]
            for user, (_, _, text) in enumerate(found):
                chosen = [one["item"] for one in json.loads(text)["items"] if draw.random() < likes(one["item"])]
                told.extend((user, item, now[0] + 1 + n) for n, item in enumerate(chosen))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("recalign.serve.server.service.TIMEOUT", 600.0)  # a busy machine is not what is tested
        patched.setattr(time, "time_ns", lambda: now[0] * 10**9)
        running(app, turns())
        patched.undo()
        patched.setenv("RECALIGN_DECISIONS_KEY", KEY)
        decisions.close()
        told.append((10**6, 1, BEGAN + 10**5))  # nobody, long after: every window has passed
        pl.DataFrame(told, schema=["user", "item", "timestamp"], orient="row").write_csv(folder / "chosen.csv")
        words = [str(folder / "log"), "--outcomes", str(folder / "chosen.csv"), "--window", "9", "--unshown"]
        feedback([*words, "--out", str(folder / "table")])
    return folder


@pytest.fixture
def served(around) -> Any:
    return read_served(around / "table" / "feedback.yaml")


def valued(bundle: Any, served: Any, policy: Explore, **more: Any) -> Any:
    [found] = estimate_versions(bundle, policy, served, {bundle.version: bundle}, **more)
    return found


def test_the_served_policy_is_worth_what_it_earned(bundled, served, around):
    """The circle: its own estimate is the mean outcome, and every logged chance is computed again."""
    bundle = load_bundle(bundled)
    assert served.lists.height == USERS * EACH
    found = valued(bundle, served, Explore(2.0))
    assert found.left_out == {ANOTHER: 0, UNFIT: 0}
    value = found.value
    drawn = served.lists.filter(arm="explored")
    told = pl.read_csv(around / "chosen.csv").filter(pl.col("timestamp") >= BEGAN, pl.col("user") < USERS)
    assert served.lists["rewards"].list.sum().sum() == told.height
    earned = drawn["rewards"].list.sum().mean()
    assert value.lists == drawn.height < served.lists.height
    assert value.observed == pytest.approx(earned)
    assert (value.max_weight, value.mean_weight, value.support) == pytest.approx((1, 1, 1), abs=0.02)
    assert value.ess["cascade"] > 0.8 * value.users
    for name in ("list_snips", "cascade_snips"):
        assert value.estimates[name].value == pytest.approx(earned, rel=0.01)
    low, high = value.estimates["cascade_snips"].interval()
    assert low < earned < high


def test_estimate_of_another_temperature_is_its_true_value(bundled, served):
    bundle = load_bundle(bundled)
    value = valued(bundle, served, Explore(1.0)).value
    from recalign.serve.loop.chances import _request
    from recalign.serve.loop.served import UserHistories
    from recalign.serve.server.explore import gumbel_top_k

    histories, draw, earned = UserHistories(served.events), np.random.default_rng(1), []
    encoded = [bundle.encode(_request(bundle, row, histories)) for row in served.lists.iter_rows(named=True)]
    for group in bundle.groups(encoded):
        for place, logit_N in zip(group, bundle.run([encoded[n] for n in group], ["logits"])[0], strict=True):
            score_N = bundle.left(encoded[place], logit_N)
            for _ in range(20):
                shown = gumbel_top_k(score_N, np.empty(0, int), K, draw)
                earned.append(sum(likes(bundle.catalogue.ids[item - 1]) for item in shown))
    assert value.refused == {}
    for name, one in value.estimates.items():
        low, high = one.interval(0.999)
        assert low < np.mean(earned) - value.observed * (name == "cascade_gain") < high
    assert value.lists == served.lists.filter(arm="explored").height


def test_the_command_says_diagnostics_first(bundled, around, capsys, tmp_path):
    log = around / "table" / "feedback.yaml"
    offpolicy(bundled, log, temperature=2.0, out=tmp_path / "worth.json")
    said = capsys.readouterr().out
    order = [
        said.index(text)
        for text in (
            "effective sample size",
            "largest weight",
            "share without support at fixed places",
            "cascade_snips",
            "list_snips",
        )
    ]
    assert order == sorted(order)
    assert "0  whose history here is not the one that the server had" in said
    figures = json.loads((tmp_path / "worth.json").read_text())
    [version] = set(figures) - {"log"}
    assert figures[version]["cascade_snips"] == pytest.approx(figures[version]["observed"], rel=0.01)
    assert figures[version]["left_out"] == {ANOTHER: 0, UNFIT: 0}
    assert figures["log"]["log"]["lists"] == USERS * EACH


def changed(around: Path, to: Path, **columns: pl.Expr) -> Path:
    """The log with some columns otherwise."""
    table = pl.read_parquet(around / "table" / "feedback.parquet").with_columns(**columns)
    to.mkdir()
    table.write_parquet(to / "feedback.parquet")
    data = yaml.safe_load((around / "table" / "feedback.yaml").read_text())
    data["data"]["root"] = str(to)
    (to / "feedback.yaml").write_text(yaml.safe_dump(data))
    return to / "feedback.yaml"


def when(decision: Any, then: Any, column: str) -> pl.Expr:
    return pl.when(pl.col("decision") == decision).then(pl.lit(then)).otherwise(column).alias(column)


def test_left_out_lists_are_counted_by_reason(around, served, tmp_path):
    one, two, three, four, five, six = served.lists["decision"][:6]
    of = pl.col("decision")
    path = changed(
        around,
        tmp_path / "log",
        log_prob=pl.when((of == one) & (pl.col("position") == 2)).then(0.5)
        .when((of == two) & (pl.col("position") == 1)).then(-900.0).otherwise("log_prob"),
        blocked=when(three, 2, "blocked"),
        arm=when(four, None, "arm"),
        reward=pl.when((of == five) & (pl.col("position") == 3)).then(None).otherwise("reward"),
        position=pl.when((of == six) & (pl.col("position") == 2)).then(7).otherwise("position"),
    )  # fmt: skip
    counts = read_served(path).counts
    assert counts["lists that cannot be used"] == {
        "of which `where` leaves only some places": 0,
        "that did not explore: their chances are not known": 1,
        "with places that are missing from the table": 1,
        "with a chance of 0, above 1 or none": 2,
        "with an unknown reward": 1,
        "with filters that the log does not record (blocked, allowed, boosted)": 1,
    }
    assert counts["log"]["lists with chances"] == USERS * EACH - 6
    assert counts["log"]["outcomes in no row of a list"] == 3 * USERS  # one comes after the newest list
    assert 0 < counts["log"]["lists without an outcome"] < USERS * EACH


def test_rewards_that_nobody_knows_of_what_was_chosen_are_refused_where_they_are_many(
    bundled, around, served, tmp_path
):
    """Lists without an outcome all have a reward, so that what is left would be worth too little."""
    half = pl.col("decision").hash(1) % 2 == 0  # did not explore, and cannot be used whatever their rewards
    some = pl.col("chosen") & (pl.col("decision").hash(0) % 3 == 0) & ~half
    changes = {"reward": pl.when(some).then(None).otherwise("reward"), "arm": pl.when(half).then(None).otherwise("arm")}
    path = changed(around, tmp_path / "log", **changes)
    unknown, told = read_served(path).rewardless
    rows = pl.read_parquet(around / "table" / "feedback.parquet").filter("shown").with_columns(half=half, some=some)
    own = rows.filter(~pl.col("half")).group_by("decision").agg(pl.col("chosen", "some").any()).filter("chosen")
    assert (unknown, told) == (own["some"].sum(), len(own))
    with pytest.raises(InputError, match=r"lists with an outcome have an unknown reward(.|\n)*coalesce"):
        offpolicy(bundled, path)
    path.write_text(path.read_text().replace("reward: reward", "reward: coalesce(reward, 1)"))
    assert read_served(path).rewardless == (0, told)


def test_versions_are_estimated_alone_and_one_that_is_not_there_is_named(bundled, around, served, tmp_path):
    half = served.lists["decision"][: USERS * EACH // 2].implode()
    path = changed(
        around,
        tmp_path / "log",
        version=pl.when(pl.col("decision").is_in(half)).then(pl.lit("v0")).otherwise("version"),
    )
    mixed, bundle = read_served(path), load_bundle(bundled)
    assert mixed.counts["versions (mixed: each is estimated alone)"] == {"v0": USERS, bundle.version: USERS}
    found = estimate_versions(bundle, Explore(2.0), mixed, {bundle.version: bundle})
    assert sorted(one.version for one in found) == sorted(
        [bundle.version, "v0 (its bundle is not given: propensities are not checked)"]
    )
    assert sum(one.value.lists for one in found) == served.lists.filter(arm="explored").height


def test_propensities_that_do_not_fit_their_version_are_left_out(bundled, around, served, tmp_path):
    bundle, some = load_bundle(bundled), served.lists["decision"][:20].implode()
    path = changed(
        around, tmp_path / "log", log_prob=pl.col("log_prob") - 0.1 * pl.col("decision").is_in(some).cast(pl.Float64)
    )
    assert valued(bundle, read_served(path), Explore(2.0)).left_out == {ANOTHER: 0, UNFIT: 20}
    all_wrong = changed(around, tmp_path / "all", temperature=pl.lit(1.0))
    with pytest.raises(InputError, match="300 have other propensities than their bundle"):
        estimate_versions(bundle, Explore(2.0), read_served(all_wrong), {bundle.version: bundle})


def test_changed_rewards_leave_the_histories_of_the_server(around, served, tmp_path):
    path = changed(around, tmp_path / "log")
    log = yaml.safe_load(path.read_text())
    log["data"]["reward"] = "3 * reward - 1"  # of what was chosen, 1, that is another
    path.write_text(yaml.safe_dump(log))
    other = read_served(path)
    assert other.events.equals(served.events)
    assert other.lists["rewards"].explode().to_list() == (3 * served.lists["rewards"].explode() - 1).to_list()


def test_histories_that_nothing_checks_are_counted(bundled, around, tmp_path):
    bundle, some = load_bundle(bundled), pl.col("decision") > "8"
    path = changed(around, tmp_path / "log", seen=pl.when(some).then(pl.lit("include")).otherwise("seen"))
    log = read_served(path)
    [found] = estimate_versions(bundle, Explore(2.0), log, {})
    assert found.unchecked == log.lists.filter(seen="include").height
    assert found.unchecked > 0


def test_without_the_whole_history_nothing_is_estimated(bundled, around, tmp_path):
    table = pl.read_parquet(around / "table" / "feedback.parquet")
    path = changed(around, tmp_path / "log")
    table.filter("shown").write_parquet(path.parent / "feedback.parquet")
    with pytest.raises(InputError, match="300 of 300 lists have another history here") as refused:
        offpolicy(bundled, path)
    assert "--unshown" in str(refused.value)


def test_a_candidate_that_fixes_other_places_has_no_support(bundled, around, served, tmp_path):
    """The log as if its first place had been fixed: a candidate that draws it would show what could not be logged."""
    bundle = load_bundle(bundled)
    first = pl.col("position") == 1
    path = changed(around, tmp_path / "log", fixed=pl.lit(1), log_prob=pl.when(first).then(0.0).otherwise("log_prob"))
    log = read_served(path)
    [found] = estimate_versions(bundle, Explore(2.0), log, {})
    assert found.value.support < 0.5
    assert found.value.estimates == {}
    assert "the same items at the fixed places" in found.value.refused["cascade"]


def test_policy_drift_is_zero_from_itself_and_not_at_another_temperature(bundled, around, served, tmp_path):
    """Two lists are left out: one for its history, one for an item that the start does not have."""
    bundle, drawn = load_bundle(bundled), served.lists.filter(arm="explored")
    found, counts = policy_drift(bundle, served)
    assert found["value"].abs().max() < 1e-3
    assert list(counts.values()) == [drawn.height, 0, 0]
    one, two = drawn["decision"][:2]
    unknown = pl.when(decision=two).then(pl.col("items").list.eval(pl.element() + 10**6)).otherwise("items")
    lists = served.lists.with_columns(hidden=when(one, 0, "hidden"), items=unknown, temperature=pl.lit(0.2))
    found, counts = policy_drift(bundle, replace(served, lists=lists))
    assert list(counts.values()) == [drawn.height, 1, 1]
    assert found.height == drawn.height - 2
    assert found["value"].mean() > 0.5  # the draw's divergence, at temperature 2, from that at .2


def test_a_server_s_own_log_is_watched(bundled, around, served, tmp_path, capsys):
    """Ranked lists count too; the second turn, ten seconds after the first, is the window."""
    seconds = {"reference": 8 / 86_400, "days": 2.1 / 86_400, "start": bundled}
    log = around / "table" / "feedback.yaml"
    monitor(bundled, log, **seconds, out=tmp_path / "all.csv")
    figures = pl.read_csv(tmp_path / "all.csv").partition_by("figure", as_dict=True)
    found = {name: one for (name,), one in figures.items()}
    turns = served.lists.sort("timestamp").group_by("timestamp", maintain_order=True)
    earned = turns.agg(pl.col("rewards").list.sum().mean())["rewards"].to_list()
    assert found["list"]["value"].to_list() == pytest.approx(earned)
    assert found["list"]["lists"].to_list() == [USERS, USERS]
    assert found["chosen"]["value"][1] == 1
    assert abs(found["drift"]["value"][1]) < 1e-3
    assert "--unshown" in capsys.readouterr().out  # what was chosen before the first list is not counted
    table, mine = shutil.copytree(log.parent, tmp_path / "table"), tmp_path / "mine.yaml"
    mine.write_text(log.read_text().replace("root: .", f"root: {table}"))
    (table / "feedback.json").write_text(json.dumps({MISFITS: {OVERDUE: 7}}))
    monitor(bundled, mine, **seconds)
    assert "7 lists are in no window" in capsys.readouterr().out
    (table / "feedback.json").unlink()
    monitor(bundled, mine, **seconds)
    assert "feedback.json is missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["gone"], "no bundle"),
        (["gone.yaml"], "No such file"),
        (["list.yaml"], "cannot be read as YAML with keys"),
        (["other.yaml"], "no key data.log"),
        (["odd.yaml"], "argument 'file'"),
        (["plain.yaml"], "the table has no column 'decision'"),
        (["--temperature", "0"], "cannot be used here"),
        (["--clip", "-1"], "clip"),
    ],
)
def test_offpolicy_refuses_invalid_options_and_logs(words, what, bundled, around, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("list.yaml").write_text("[1, 2]")
    Path("other.yaml").write_text("data: {reward: stars}")
    Path("odd.yaml").write_text("data: {log: {name: plain, file: plain.csv}}")
    Path("plain.csv").write_text("user,item,timestamp\n1,2,3\n")
    Path("plain.yaml").write_text("data: {root: ., log: {name: plain, files: [plain.csv]}}")
    run = [] if words[0] == "gone" else [str(bundled)]
    log = [] if words[0].endswith(".yaml") else [str(around / "table" / "feedback.yaml")]
    assert main(["offpolicy", *run, *words, *log]) == 2
    said = capsys.readouterr().err
    assert what in said
    assert "->" in said


def test_a_copied_table_is_the_one_beside_its_yaml(around, tmp_path):
    copied = shutil.copytree(around / "table", tmp_path / "copied")
    rows = pl.read_parquet(copied / "feedback.parquet").head(7)
    (copied / "feedback.parquet.sha256").unlink()
    rows.write_parquet(copied / "feedback.parquet")
    assert read_rows(copied / "feedback.yaml").height == 7
