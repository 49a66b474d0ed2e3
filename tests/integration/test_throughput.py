"""benchmarks/scale/throughput.py without a peer, on a made log: turns, rows, ratios."""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl
import pytest

LOG = """
data:
  log: {name: small, files: [small.csv]}
  max_length: 24
"""


@pytest.fixture
def throughput(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from benchmarks.scale import throughput

    return throughput


@pytest.mark.long
def test_our_side_is_measured(throughput, log_root, tmp_path, monkeypatch, capsys):
    (tmp_path / "small.yaml").write_text(LOG)
    monkeypatch.setattr(sys.modules["benchmarks.lib"], "FOLDER", tmp_path)
    words = f"--data {log_root} --log {tmp_path / 'small.yaml'} --users 8 --turns 2 --seconds 0.1 --warm-up 0.1"
    monkeypatch.setattr(sys, "argv", ["throughput.py", *words.split(), "--modes", "fp32"])
    throughput.main()
    said = capsys.readouterr().out
    assert "does not run" not in said
    rows = pl.read_csv(tmp_path / "scale/throughput.csv")
    values = {(row["row"].split(" ", 2)[2], row["metric"]): row["mean"] for row in rows.iter_rows(named=True)}
    assert values["fp32", "events_per_second"] > 0
    assert 0 <= values["fp32", "padded_share"] < 0.5
    assert values["fp32", "users_a_step"] == pytest.approx(8, abs=2)


def test_ratios_are_of_the_same_mode_and_of_the_best(throughput):
    speeds = {"recalign 0.1.0 fp32": 6.0, "recalign 0.1.0 bf16": 8.0, "peer 1 fp32": 2.0, "peer 1 fp32 compiled": 4.0}
    rows = pl.DataFrame({"row": list(speeds), "metric": "events_per_second", "mean": list(speeds.values())})
    assert throughput.compare(rows) == {"ratio_fp32": 3.0, "ratio_own_modes": 4.0, "ratio": 2.0}


def test_rows_of_other_peers_are_kept(throughput, tmp_path, monkeypatch):
    tables = sys.modules["benchmarks.lib"]
    monkeypatch.setattr(tables, "FOLDER", tmp_path)

    def saved(*names):
        rows = pl.concat([tables.lines("log", name, {"ratio": [1.0]}, []) for name in names])
        return pl.read_csv(tables.save(rows, "throughput", throughput.PACKAGE))["row"].to_list()

    saved("recalign 1 fp32", "a 1 fp32", "recalign / a")
    new = ["recalign 2 fp32", "b 1 fp32", "recalign / b"]
    assert saved(*new) == ["a 1 fp32", "recalign / a", *new]
    assert saved("a 2 fp32", "recalign / a") == [*new, "a 2 fp32", "recalign / a"]


def test_what_a_program_said_is_kept_when_it_ends(throughput):
    command = [sys.executable, "-c", "raise SystemExit('no such mode')"]
    with (
        throughput.Trainee("peer", command) as trainee,
        pytest.raises(ChildProcessError, match="peer ended: no such mode"),
    ):
        trainee.report()
