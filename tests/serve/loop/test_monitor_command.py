"""`recalign monitor`, from what `recalign feedback` wrote to what it says."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
import yaml
from weeks import DAY, weeks

from recalign.cli import main
from recalign.errors import InputError
from recalign.serve.feedback.feedback_command import COUNTS, write
from recalign.serve.feedback.joining import MISFITS, ORDER, OVERDUE, Joined, Rule
from recalign.serve.loop.monitor_command import REMEDIES, monitor
from recalign.serve.loop.monitoring import compare_windows
from recalign.serve.server import load_bundle

BEGAN = 1_700_000_000_000_000
LISTS = {
    "k": 4, "seen": "include", "hidden": 0, "blocked": 0, "allowed": None, "boosts": 0, "arm": "explored",
    "chance": 1.0, "temperature": 1.0, "seed": 0, "ranked": 0, "propensity": 0.5, "is_random": False,
}  # fmt: skip


def logged(folder: Path, bundle, **columns: pl.Expr) -> Path:
    """Eight weeks of lists that a bundle showed, as `recalign feedback --unshown` leaves them."""
    table = weeks(0, 300).with_columns(timestamp=pl.col("timestamp") + BEGAN)
    ids = pl.Series(bundle.catalogue.ids)
    number = pl.col("item").clip(None, len(ids) - 1)
    known = table.select(ids.gather(table.select(number)["item"]).alias("item"))["item"]
    table = table.with_columns(
        item=pl.when(pl.col("item") < 20).then(known).otherwise(10**6),
        version=pl.when("shown").then(pl.lit(bundle.version)),
        outcome_at=pl.when("chosen").then(pl.col("timestamp") + 1),
        event_at=pl.col("timestamp") + pl.col("chosen").cast(int),
        settled=True,
        last_outcome=None,
        **{name: pl.lit(value) for name, value in LISTS.items()},
    ).with_columns(**columns)
    write(Joined(table.select(ORDER)), folder, Rule(unshown=True))
    return folder / "feedback.yaml"


@pytest.fixture(scope="module")
def bundle(bundled):
    return load_bundle(bundled)


WEEK = (pl.col("timestamp") - BEGAN) // (7 * DAY)


def test_the_command_says_what_broke_and_what_to_do(bundled, bundle, tmp_path, capsys):
    log = logged(tmp_path, bundle, reward=pl.col("reward") / pl.when(WEEK == 7).then(2).otherwise(1))
    words = ["monitor", str(bundled), str(log), "--out", str(tmp_path / "all.csv")]
    assert main(words) == 0
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert sum(line.endswith("no alarm") for line in lines) == 5
    assert sum(line.endswith("  alarm") for line in lines) == 1
    for name in ("list", "chosen"):
        [place] = [n for n, line in enumerate(lines) if f": {name} " in line and line.startswith("20")]
        assert lines[place].startswith("2024-01-02 .. 2024-01-09")
        assert REMEDIES[name] in lines[place + 1]
    assert "not computed: drift: the start is not named: --start" in lines
    found = pl.read_csv(tmp_path / "all.csv")
    assert set(found["version"]) == {bundle.version}
    last = found.filter(figure="list", window=6).row(0, named=True)
    first = found.filter(figure="list", window=0).row(0, named=True)
    assert last["alarm"]
    assert last["difference"] == pytest.approx(last["value"] - first["value"])
    assert last["low"] < last["value"] < last["high"]
    assert found.filter(figure="unknown", window=0)["value"].item() > 0
    with pytest.raises(SystemExit) as stop:
        main([*words, "--strict"])
    assert stop.value.code == 4


def test_strict_looks_at_the_newest_window_of_the_runs_own_version(bundled, bundle, tmp_path, capsys):
    broken = pl.col("reward") / pl.when(WEEK == 6).then(2).otherwise(1)
    assert main(["monitor", str(bundled), str(logged(tmp_path / "before", bundle, reward=broken)), "--strict"]) == 0
    assert "  alarm" in capsys.readouterr().out
    earlier = pl.when(pl.col("shown") & (WEEK < 7)).then(pl.lit("v0")).otherwise("version")
    log = logged(tmp_path / "young", bundle, version=earlier, reward=broken)
    assert main(["monitor", str(bundled), str(log), "--strict"]) == 2
    assert f"{bundle.version}: its lists span" in capsys.readouterr().err


def test_predictions_and_start_add_their_figures(bundled, bundle, tmp_path, capsys):
    log = logged(tmp_path, bundle)
    data = yaml.safe_load(log.read_text())
    data["data"]["log"]["columns"] = {"promise": "2 + 0.5 * reward"}
    log.write_text(yaml.safe_dump(data))
    words = [str(log), "--predicted", "promise", "--start", str(bundled), "--out", str(tmp_path / "all.csv")]
    assert main(["monitor", str(bundled), *words]) == 0
    found = pl.read_csv(tmp_path / "all.csv")
    value = {name: found.filter(figure=name)["value"] for name in ("promised", "chosen")}
    assert value["promised"].to_list() == pytest.approx((0.5 * value["chosen"] - 2).to_list())
    assert found.filter(pl.col("figure") == "drift", pl.col("window") > 0)["p"].null_count() == 0
    said = capsys.readouterr().out
    assert "not computed" not in said
    lists = found.filter(figure="drift")["lists"].sum()
    assert f"{lists:,}  lists whose first item was drawn" in said


def test_a_version_that_is_not_there_is_watched_without_its_items(bundled, bundle, tmp_path, capsys):
    some = pl.col("shown") & (WEEK > 3)
    log = logged(tmp_path, bundle, version=pl.when(some).then(pl.lit("v0")).otherwise("version"))
    monitor(bundled, log)
    said = capsys.readouterr().out
    assert "versions (mixed: each is compared with its own reference)" in said
    assert "not computed: unknown: no bundle of this version is named: --bundles" in said
    assert f"\nversion {bundle.version}; " in said
    assert "\nversion v0; " in said


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--days", "0"], "days: 0.0 is not above 0"),
        (["--reference", "nan"], "reference: must be float"),
        (["--reference", "60"], "too short"),
        (["--predicted", "promis"], "no column 'promis'"),
        (["--predicted", "decision"], "the column 'decision' holds String"),
        (["--start", "gone"], "no bundle"),
    ],
)
def test_monitor_refuses_invalid_options(words, what, bundled, bundle, tmp_path, capsys):
    assert main(["monitor", str(bundled), str(logged(tmp_path, bundle)), *words]) == 2
    said = capsys.readouterr().err
    assert what in said
    assert "->" in said


def test_a_remedy_for_each_figure(bundle, tmp_path):
    found, _ = compare_windows(weeks(0, 300).with_columns(predicted=1.0), {"v1": range(20)}, draws=10)
    assert set(found["v1"].table["figure"]) | {"drift"} == set(REMEDIES)


def test_a_condition_that_leaves_none_of_the_runs_lists_is_refused(bundled, bundle, tmp_path):
    """Nothing would be judged, and `--strict` would pass."""
    some = pl.col("shown") & (WEEK > 3)
    log = logged(tmp_path, bundle, version=pl.when(some).then(pl.lit("v0")).otherwise("version"))
    data = yaml.safe_load(log.read_text())
    data["data"]["log"]["where"] = "version = 'v0'"
    log.write_text(yaml.safe_dump(data))
    with pytest.raises(InputError, match=r"no list in this log was shown by .*; its versions: v0"):
        monitor(bundled, log, strict=True)


def test_lists_that_wait_for_outcomes_are_said_and_strict_does_not_pass(bundled, bundle, tmp_path, capsys):
    words = ["monitor", str(bundled), str(logged(tmp_path, bundle)), "--strict"]
    assert main(words) == 0
    assert "are in no window" not in capsys.readouterr().out
    (tmp_path / COUNTS).write_text(json.dumps({MISFITS: {OVERDUE: 10_000}}))
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 4
    assert "10,000 lists are in no window" in capsys.readouterr().out
