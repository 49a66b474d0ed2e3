"""Measure semantic ids: figures and a verdict.

Full use of the codes proves little: plain k-means uses every code and still puts a twentieth of a catalogue under one
id. So most checks use the items' nearest ids, before collisions are resolved.

Suffixes: N items, D width of a vector, L levels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.stats import entropy

from recalign.recommender.semantic_ids.quantization import Quantized, decode, keys

MOST_ERROR = 0.95
"""Share of the vectors' variance unexplained by the codes, from which on the codebook counts as collapsed."""
LEAST_ENTROPY = 0.75
"""Smallest entropy of a level, as a share of the largest possible."""
LEAST_DISTINCT = 0.5
"""Fewest distinct nearest ids, as a share of the number expected of random ids."""
LARGEST_BUCKET, EVEN_SHARES = 0.05, 10
"""Largest share of the items with one nearest id; more is a defect only if also above so many even shares."""


def figures(x_ND: np.ndarray, found: Quantized) -> dict[str, Any]:
    """Figures of ids for `tokens.json` (docs/semantic-ids.md explains each).

    Args:
        x_ND: float32 vectors with mean 0.
        found: their ids.
    """
    items, ids = len(x_ND), math.prod(found.sizes)
    variance = float(np.square(x_ND).sum())
    error = float(np.square(x_ND - decode(found.codes_NL, found.centres)).sum()) / variance if variance else 1.0
    bucket = np.unique(keys(found.nearest_NL, found.sizes), return_counts=True)[1]
    levels = []
    for code_N, size, nearest_N in zip(found.codes_NL.T, found.sizes, found.nearest_NL.T, strict=True):
        count_K = np.bincount(code_N, minlength=size)
        levels.append(
            {
                "size": size,
                "used_share": float((count_K > 0).mean()),
                "entropy_nats": float(entropy(count_K)),
                "of_nats": math.log(min(size, items)),
                "largest": int(count_K.max()),
                "nearest_entropy_nats": float(entropy(np.bincount(nearest_N))),
            }
        )
    measured = {
        "reconstruction_error": error,
        "levels": levels,
        "nearest": {
            "distinct": len(bucket),
            "distinct_if_random": -ids * math.expm1(items * math.log1p(-1 / ids)),
            "unique_share": float((bucket == 1).sum() / items),
            "largest_bucket": int(bucket.max()),
            "even_bucket": max(1.0, items / ids),
        },
        "items": items,
        "moved": int((found.codes_NL != found.nearest_NL).any(axis=1).sum()),
        "ids": ids,
        "free": ids - items,
    }
    wrong = defects(measured)
    return measured | {"verdict": "collapsed" if wrong else "sound", "defects": wrong}


def defects(measured: dict[str, Any]) -> list[str]:
    """Why a codebook counts as collapsed, in sentences; empty if it does not."""
    near, error, found = measured["nearest"], measured["reconstruction_error"], []
    if error >= MOST_ERROR:
        found.append(f"codes leave {error:.0%} of the vectors' variance (limit {MOST_ERROR:.0%})")
    for number, level in enumerate(measured["levels"]):
        nats, possible = level["nearest_entropy_nats"], level["of_nats"]
        if nats < LEAST_ENTROPY * possible:
            text = f"the nearest codes of level {number} have an entropy of {nats:.2f} of {possible:.2f} nats"
            found.append(f"{text} (limit {LEAST_ENTROPY:.0%})")
    if near["distinct"] < LEAST_DISTINCT * near["distinct_if_random"]:
        text = f"{near['distinct']:,} distinct nearest ids, and random ids would be {near['distinct_if_random']:,.0f}"
        found.append(f"{text} (limit {LEAST_DISTINCT:.0%})")
    if near["largest_bucket"] > max(LARGEST_BUCKET * measured["items"], EVEN_SHARES * near["even_bucket"]):
        text = f"one id is nearest to {near['largest_bucket']:,} of {measured['items']:,} items"
        found.append(f"{text} (limit {LARGEST_BUCKET:.0%})")
    return found
