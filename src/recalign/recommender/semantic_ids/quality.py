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

from recalign.recommender.semantic_ids.quantization import Quantized, decode, groups, keys

MOST_ERROR = 0.95
"""Share of the vectors' variance that codes leave, from which on they say next to nothing."""
LEAST_ENTROPY = 0.75
"""Smallest entropy of a level, as a share of the largest possible."""
LEAST_DISTINCT = 0.5
"""Fewest distinct nearest ids, as a share of those that random ids would have."""
LARGEST_BUCKET, EVEN_SHARES = 0.05, 10
"""Largest share of the items with one nearest id, if these are also more than so many even shares."""
EXAMPLE_TITLES = 5


def figures(x_ND: np.ndarray, found: Quantized) -> dict[str, Any]:
    """Figures of ids, as `tokens.json` holds them (docs/semantic-ids.md says what each means).

    Args:
        x_ND: float32 vectors with mean 0.
        found: their ids.
    """
    items, ids = len(x_ND), math.prod(found.sizes)
    variance = float(np.square(x_ND).sum())
    error = float(np.square(x_ND - decode(found.codes_NL, found.centres)).sum()) / variance if variance else 1.0
    nearest_sizes = found.sizes[: found.nearest_NL.shape[1]]
    bucket = np.unique(keys(found.nearest_NL, nearest_sizes), return_counts=True)[1]
    possible = math.prod(nearest_sizes)
    levels = zip_longest(found.codes_NL.T, found.sizes, found.nearest_NL.T)
    measured = {
        "reconstruction_error": error,
        "levels": [_level(code_N, size, near_N) for code_N, size, near_N in levels],
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
    wrong = defects(measured)
    return measured | {"verdict": "collapsed" if wrong else "sound", "defects": wrong}


def defects(measured: dict[str, Any]) -> list[str]:
    """Why a codebook counts as collapsed, in sentences; none if it does not."""
    near, error, found = measured["nearest"], measured["reconstruction_error"], []
    if error >= MOST_ERROR:
        found.append(f"codes leave {error:.0%} of the vectors' variance (limit {MOST_ERROR:.0%})")
    for number, level in enumerate(measured["levels"]):
        own, possible = level.get("nearest_entropy_nats", math.inf), level["of_nats"]
        if own < LEAST_ENTROPY * possible:
            text = f"the nearest codes of level {number} have an entropy of {own:.2f} of {possible:.2f} nats"
            found.append(f"{text} (limit {LEAST_ENTROPY:.0%})")
    if near["distinct"] < LEAST_DISTINCT * near["distinct_if_random"]:
        text = f"{near['distinct']:,} distinct nearest ids, and random ids would be {near['distinct_if_random']:,.0f}"
        found.append(f"{text} (limit {LEAST_DISTINCT:.0%})")
    if near["largest_bucket"] > max(LARGEST_BUCKET * measured["items"], EVEN_SHARES * near["even_bucket"]):
        text = f"one id is nearest to {near['largest_bucket']:,} of {measured['items']:,} items"
        found.append(f"{text} (limit {LARGEST_BUCKET:.0%})")
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
            "titles": titles.gather(rows[np.argsort(square_N[rows], kind="stable")][:EXAMPLE_TITLES]).to_list(),
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
