"""What `decide` reads of worlds that have run, kept with the code: so the word of another rule takes no training.

``worlds.parquet`` has a row a world: label, kind, seed, keep and commit, what is true of its rows, and
of the report what `cut` leaves. Numbers of the comparison are single precision.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import polars as pl

from benchmarks.decision.worlds import PLACEBOS
from benchmarks.lib import FOLDER
from recalign.data.sequences.audit import FOLLOWS, SEEN
from recalign.data.sequences.placebo import CORRELATION
from recalign.evaluation.comparison import HITS, JUDGE_VALUE, NDCG_ALL, SCHEMA
from recalign.evaluation.evaluated_runs import ALL_USERS
from recalign.evaluation.findings import COVERAGE
from recalign.evaluation.methods import EVALUATED, UNIT
from recalign.evaluation.reranking import READS_REWARD_MODEL
from recalign.evaluation.roles import BEST, NON_LEARNED_BASELINES, REWARD_FREE, START
from recalign.evaluation.selection import SELECT
from recalign.files import atomic_write

FILE = FOLDER / "decision/worlds.parquet"
PLAIN = (NDCG_ALL, ALL_USERS, JUDGE_VALUE, SELECT, HITS, EVALUATED, UNIT, COVERAGE, CORRELATION, READS_REWARD_MODEL)
OTHERS = (BEST, *REWARD_FREE, *NON_LEARNED_BASELINES)
PAIRED = (
    *(f"diff_{other}/{metric}" for other in OTHERS for metric in (NDCG_ALL, JUDGE_VALUE)),
    f"diff_{START}/{NDCG_ALL}",
    f"diff_{BEST}/{ALL_USERS}",
    *(f"gain_minus_2x_{placebo}/{JUDGE_VALUE}" for placebo in PLACEBOS),
)
JSON = ("truth", "trust", "check")
NUMBERS = ("value", "ci_low", "ci_high")
ROW = pl.Struct({name: pl.Float32 if name in NUMBERS else kind for name, kind in SCHEMA.items()})
RECORD: dict[str, Any] = dict.fromkeys(("label", "kind", "commit", *JSON), pl.String)
RECORD |= {"seed": pl.Int64, "keep": pl.Float64, "rows": pl.List(ROW)}


def cut(frame: pl.DataFrame, trust: Mapping[str, Any], check: Mapping[str, Any]) -> dict[str, Any]:
    """Of a comparison over all seeds, of its reports by stage and seed, and of the check: what `decide` reads."""
    rows = frame.filter(pl.col("seed") == "all", pl.col("metric").is_in([*PLAIN, *PAIRED]))
    reward = {seed: _said(report) for seed, report in trust["reward"].items()}
    judges = {seed: _said(report) | _ordered(report) for seed, report in trust["judge_report"].items()}
    return {
        "rows": rows.to_dicts(),
        "trust": {"reward": reward, "judge_report": judges},
        "check": {
            "verdict": check.get("verdict", ""),
            "test": {name: check.get("test", {}).get(name) for name in (SEEN, FOLLOWS)},
        },
    }


def _said(report: Mapping[str, Any]) -> dict[str, Any]:
    return {name: report[name] for name in ("verdict", "implication")}


def _ordered(report: Mapping[str, Any]) -> dict[str, Any]:
    on = report["judged_on"]
    return {"judged_on": on, on: {"table": {"model": {"pairwise": report[on]["table"]["model"]["pairwise"]}}}}


def load(label: str) -> dict[int, dict[str, Any]]:
    """Records of a label by seed."""
    if not FILE.is_file():
        return {}
    found = pl.read_parquet(FILE).filter(label=label).drop("label").to_dicts()
    return {record["seed"]: record | {name: json.loads(record[name]) for name in JSON} for record in found}


def save(records: Mapping[int, dict[str, Any]], label: str) -> None:
    """Keep the records of a label, beside those of others."""
    own = [
        record | {"label": label, "seed": seed} | {name: json.dumps(record[name]) for name in JSON}
        for seed, record in sorted(records.items())
    ]
    frame = pl.DataFrame([{name: one[name] for name in RECORD} for one in own], schema=RECORD)
    if FILE.is_file():
        frame = pl.concat([pl.read_parquet(FILE).filter(pl.col("label") != label), frame])
    with atomic_write(FILE) as path:
        frame.write_parquet(path, compression="zstd", compression_level=19)
