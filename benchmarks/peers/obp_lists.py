"""Estimates of lists by the Open Bandit Pipeline: its inverse propensity scores, and its own bootstrap over lists.

    python -m benchmarks.peers.obp_lists FOLDER

Each FOLDER/*.npz holds the lists that were drawn: `reward`, `logged` and `target`, log-probabilities of an item given
those above it. Shape: (N, K) each. Prints a line of JSON: by file and estimator, the ends of the 95 % interval.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from obp.ope import (
    SelfNormalizedSlateRewardInteractionIPS,
    SelfNormalizedSlateStandardIPS,
    SlateRewardInteractionIPS,
    SlateStandardIPS,
)

WHOLE = {"obp list_ips": SlateStandardIPS, "obp list_snips": SelfNormalizedSlateStandardIPS}
CASCADE = {"obp cascade_ips": SlateRewardInteractionIPS, "obp cascade_snips": SelfNormalizedSlateRewardInteractionIPS}
ENDS = ("95.0% CI (lower)", "95.0% CI (upper)")


def intervals(reward_NK: np.ndarray, logged_NK: np.ndarray, target_NK: np.ndarray) -> dict[str, list[float]]:
    """Ends of 95 % intervals of a list's mean total reward, by estimator. Shape: (N, K) each."""
    lists, places = reward_NK.shape
    rows = {
        "slate_id": np.repeat(np.arange(lists), places),
        "position": np.tile(np.arange(places), lists),
        "reward": reward_NK.ravel(),
        "n_bootstrap_samples": 500,
        "random_state": 0,
    }
    of_logged, of_target = np.exp(logged_NK.cumsum(axis=1)), np.exp(target_NK.cumsum(axis=1))
    cascade = {"pscore_cascade": of_logged.ravel(), "evaluation_policy_pscore_cascade": of_target.ravel()}
    ends = (np.repeat(chance_NK[:, -1], places) for chance_NK in (of_logged, of_target))
    whole = dict(zip(("pscore", "evaluation_policy_pscore"), ends, strict=True))
    found = {}
    for estimators, chances in ((WHOLE, whole), (CASCADE, cascade)):
        for name, estimator in estimators.items():
            interval = estimator(len_list=places).estimate_interval(**rows, **chances)
            found[name] = [float(interval[end]) for end in ENDS]
    return found


def main() -> None:
    found = {}
    for path in sorted(Path(sys.argv[1]).glob("*.npz")):
        with np.load(path) as lists:
            found[path.stem] = intervals(lists["reward"], lists["logged"], lists["target"])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
