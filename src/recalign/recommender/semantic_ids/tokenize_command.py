"""`recalign tokenize`: semantic ids of a log's items."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from recalign.data.events import render
from recalign.data.sequences import EventDataModule
from recalign.errors import InputError
from recalign.files import write_json
from recalign.nn.onerec_trie import MAX_IDS
from recalign.recommender.semantic_ids.codes import CodesTable
from recalign.recommender.semantic_ids.quality import figures
from recalign.recommender.semantic_ids.quantization import quantize
from recalign.recommender.semantic_ids.vectors import Cooccurrence, ItemVectors, matrix

CODES, REPORT = "codes.parquet", "tokens.json"
FREE_SHARE = 0.2
"""Share of the ids that stay free if no sizes are given."""


def tokenize(
    *,
    data: EventDataModule,
    vectors: ItemVectors = Cooccurrence(),  # noqa: B008 (never changed, so safe to share)
    sizes: list[int] | None = None,
    allow_collapsed: bool = False,
    seed: int = 0,
    out: Path | None = None,
) -> Path:
    """Write each item of a log as a few codes: codes.parquet, and tokens.json about it.

    Args:
        data: the log; name its YAML: recalign tokenize ml-100k.
        vectors: the source of item vectors: Cooccurrence, RecommenderVectors or ParquetVectors of
            recalign.recommender.semantic_ids.
        sizes: codes of each level, such as [64, 32]; null: two equal levels that leave a fifth of the ids free.
        allow_collapsed: whether to write ids even if the codebook has collapsed.
        seed: of the k-means.
        out: the folder to write to; null: runs/<log>/tokens/seed-<seed>.

    Returns:
        The path of codes.parquet.

    Raises:
        InputError: vectors or settings cannot be used, there are more items than ids, or the codebook has collapsed.
    """
    log, items, source = data.log_.name, data.sequences.items, type(vectors).__name__
    out = out or Path("runs") / log / "tokens" / f"seed-{seed}"
    if sizes is None:
        sizes = [max(2, math.ceil(math.sqrt(len(items) / (1 - FREE_SHARE))))] * 2
    if len(sizes) < 2 or min(sizes) < 2 or math.prod(sizes) >= MAX_IDS:
        remedy = "give two or three numbers of at least 2, such as [64, 32], whose product is below 2^62"
        raise InputError(f"{sizes} cannot be the sizes of the levels", where="sizes", remedy=remedy)
    x_ND = matrix(vectors.table(data), items, source)
    found = quantize(x_ND, tuple(sizes), seed)
    report: dict[str, Any] = {"log": log, "vectors": source, **figures(x_ND, found)}
    sections = {
        f"semantic ids of {log} from {source}: {report['verdict']}": {
            name: value for name, value in report.items() if isinstance(value, int | float)
        },
        "nearest: ids before they are made unique": report["nearest"],
        **{f"level {number}": level for number, level in enumerate(report["levels"])},
    }
    print(render(sections))
    if report["defects"] and not allow_collapsed:
        remedy = "give other vectors or sizes; --allow_collapsed true writes these ids all the same"
        raise InputError(f"the codebook has collapsed: {'; '.join(report['defects'])}", where=source, remedy=remedy)
    CodesTable(items, found.codes_NL, found.sizes, log).write(out / CODES)
    write_json(out / REPORT, report)
    print(f"\n{out / CODES}\n{out / REPORT}")
    return out / CODES
