"""The README's first command, as it stands there, in an empty folder."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import tiny
import yaml

from recalign.run import configs


@pytest.mark.long
def test_the_main_job_runs_in_an_empty_folder(tmp_path: Path):
    said = tiny.recalign(tmp_path, "chain", "ml-100k")
    assert said.code == 0, said.err
    table = pl.read_csv(tmp_path / "runs/ml-100k/comparison.csv")
    methods = yaml.safe_load(configs.find("ml-100k", "chains").read_text())["methods"]
    assert set(table["method"]) == set(methods)
    assert (tmp_path / "runs/ml-100k/report.html").is_file()
