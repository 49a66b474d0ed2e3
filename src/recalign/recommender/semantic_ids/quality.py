"""Measure semantic ids: figures, examples and a verdict.

That all codes are used proves little: plain k-means uses every code and still puts a twentieth of a catalogue under one
id. So the verdict looks at the ids that are nearest to the items, before collisions are resolved.

Suffixes: N items, D width of a vector, L levels.
"""

from __future__ import annotations

import math
from itertools import zip_longest
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import entropy

from recalign.recommender.semantic_ids.assignment import groups, keys
from recalign.recommender.semantic_ids.quantization import Quantized, decode

ERROR = 0.95
"""Share of the vectors' variance that codes leave, from which on they say next to nothing."""
ENTROPY = 0.75
"""Smallest entropy of a level, as a share of the largest possible."""
DISTINCT = 0.5
"""Fewest distinct nearest ids, as a share of those that random ids would have."""
BUCKET, EVEN = 0.05, 10
"""Largest share of the items with one nearest id, if these are also more than so many even shares."""
SHOWN = 5
"""Items that an example shows."""


def figures(x_ND: np.ndarray, found: Quantized) -> dict[str, Any]:
    """Figures of ids, as `tokens.json` holds them.

    Args:
        x_ND: float32 vectors with mean 0.
        found: their ids.

    Returns:
        - ``reconstruction_error``: squared distances of the vectors to the sums of their centres, as a share of the
          squared distances to the mean: 0 is exact, 1 says nothing;
        - ``levels``: for each level, codes (``size``), the share in use, the entropy in nats and the largest possible
          (``of_nats``), items of the most frequent code; the entropy of the nearest codes, but for a level that numbers
          collisions;
        - ``nearest``: of the ids that would be nearest, how many are distinct, how many random ids would be, the share
          of items that are alone, items of the fullest id;
        - ``moved``: items that have another id than the nearest, or a number above 0 in a last level that numbers them;
        - ``ids`` and ``free``: that can be given, that no item has;
        - ``verdict`` and ``defects``: ``sound``, or ``collapsed`` and why (`defects`).
    """
    items, ids = len(x_ND), math.prod(found.sizes)
    variance = float(np.square(x_ND).sum())
    error = float(np.square(x_ND - decode(found.codes_NL, found.centres)).sum()) / variance if variance else 1.0
    nearest_sizes = found.sizes[: found.nearest_NL.shape[1]]
    bucket = np.unique(keys(found.nearest_NL, nearest_sizes), return_counts=True)[1]
    possible = math.prod(nearest_sizes)
    said = {
        "reconstruction_error": error,
        "levels": [
            _level(code_N, size, near_N)
            for code_N, size, near_N in zip_longest(found.codes_NL.T, found.sizes, found.nearest_NL.T)
        ],
        "nearest": {
            "distinct": len(bucket),
            "distinct_if_random": -possible * math.expm1(items * math.log1p(-1 / possible)),
            "unique_share": float((bucket == 1).sum() / items),
            "largest_bucket": int(bucket.max()),
            "even_bucket": max(1.0, items / possible),
        },
        "items": items,
        "moved": found.moved,
        "ids": ids,
        "free": ids - items,
    }
    found_wrong = defects(said)
    return said | {"verdict": "collapsed" if found_wrong else "sound", "defects": found_wrong}


def defects(said: dict[str, Any]) -> list[str]:
    """Why a codebook counts as collapsed, in sentences; none if it does not.

    It has collapsed if any of this holds:

    - codes leave 95 % of the vectors' variance or more;
    - the entropy of a level's nearest codes is under 75 % of the largest possible;
    - the nearest ids are fewer than half as many as random ids would be;
    - one id is nearest to more than 5 % of the items, and to more than ten times an even share.
    """
    near, found = said["nearest"], []
    if said["reconstruction_error"] >= ERROR:
        found.append(f"codes leave {said['reconstruction_error']:.0%} of the vectors' variance (limit {ERROR:.0%})")
    for number, level in enumerate(said["levels"]):
        entropy, possible = level.get("nearest_entropy_nats", math.inf), level["of_nats"]
        if entropy < ENTROPY * possible:
            found.append(
                f"the nearest codes of level {number} have an entropy of {entropy:.2f} of {possible:.2f} nats "
                f"(limit {ENTROPY:.0%})"
            )
    if near["distinct"] < DISTINCT * near["distinct_if_random"]:
        found.append(
            f"{near['distinct']:,} distinct nearest ids, and random ids would be {near['distinct_if_random']:,.0f} "
            f"(limit {DISTINCT:.0%})"
        )
    if near["largest_bucket"] > max(BUCKET * said["items"], EVEN * near["even_bucket"]):
        found.append(f"one id is nearest to {near['largest_bucket']:,} of {said['items']:,} items (limit {BUCKET:.0%})")
    return found


def examples(x_ND: np.ndarray, found: Quantized, titles: pl.Series) -> list[dict[str, Any]]:
    """Three codes of the first level with their items: the tightest, the median and the loosest.

    Returns:
        For each: the code, how many items it has, their mean squared distance to its centre, as a share of that of all
        items to the mean, and titles of the nearest items.
    """
    code_N = found.codes_NL[:, 0]
    square_N = np.square(x_ND - found.centres[0][code_N]).sum(axis=1) / max(np.square(x_ND).sum(1).mean(), 1e-30)
    several = sorted((rows for rows in groups(code_N) if len(rows) > 1), key=lambda rows: float(square_N[rows].mean()))
    chosen = [several[place] for place in sorted({0, len(several) // 2, len(several) - 1})] if several else []
    return [
        {
            "code_0": int(code_N[rows[0]]),
            "items": len(rows),
            "spread": float(square_N[rows].mean()),
            "titles": titles.gather(rows[np.argsort(square_N[rows], kind="stable")][:SHOWN]).to_list(),
        }
        for rows in chosen
    ]


def _level(code_N: np.ndarray, size: int, near_N: np.ndarray | None) -> dict[str, Any]:
    count_K = np.bincount(code_N, minlength=size)
    level = {
        "size": size,
        "used_share": float((count_K > 0).mean()),
        "entropy_nats": float(entropy(count_K)),
        "of_nats": math.log(min(size, len(code_N))),
        "largest": int(count_K.max()),
    }
    return level if near_N is None else level | {"nearest_entropy_nats": float(entropy(np.bincount(near_N)))}
