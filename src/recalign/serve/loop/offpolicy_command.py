"""`recalign offpolicy`: off-policy estimates of a candidate's value, from lists that a server drew."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recalign.data.events import render
from recalign.data.events.audit import Section
from recalign.errors import InputError, require_positive
from recalign.evaluation.offpolicy import Lists, PolicyValue, estimate, of_lists
from recalign.files import write_json
from recalign.serve.loop.chances import ask, require_known
from recalign.serve.loop.served import Served, UserHistories, open_bundle, read_served, split
from recalign.serve.server.bundle import Bundle, load_bundle
from recalign.serve.server.request import Explore

SAME = 1e-3
"""Largest difference, in nats, between a logged log-probability and that of its version's bundle, to count as equal."""
LEAST_USED = 0.5
"""Least share of lists whose reconstructed history matches the server's."""
LEAST_KNOWN = 0.99
"""Least share of lists with an outcome whose rewards are known. Lists without one have known rewards (``--ignored``).
So leaving lists out biases the value downwards, by about their share in all."""
ANOTHER, UNFIT = "whose history here is not the one that the server had", "with other propensities than their bundle's"


def offpolicy(
    run: Path,
    log: Path,
    temperature: float = 1.0,
    fixed: int = 0,
    clip: float | None = None,
    bundles: list[Path] | None = None,
    out: Path | None = None,
) -> None:
    """Estimate what a candidate's lists would have earned, from lists that a server drew with known propensities.

    Args:
        run: the candidate: a run folder in which recalign export made a bundle, or a bundle.
        log: the feedback.yaml that recalign feedback --unshown wrote.
        temperature: sampling temperature of the candidate; .001 amounts to ranking.
        fixed: number of top positions that the candidate ranks instead of drawing.
        clip: largest importance weight; null: the cube root of the number of lists.
        bundles: bundles of versions in the log, such as [DIR], to check their logged propensities.
        out: JSON file for all figures.

    Raises:
        InputError: the candidate, the log or the settings cannot be used.
    """
    require_positive("", {"clip": clip}, "clip")
    asked = Explore(temperature=temperature, fixed=fixed)  # checks the ranges
    candidate, served = open_bundle(run), read_served(log)
    versions = {one.version: one for one in [candidate, *map(load_bundle, bundles or [])]}
    print(render(served.counts))
    unknown, told = served.rewardless
    if unknown > (1 - LEAST_KNOWN) * told:
        what = f"{unknown:,} of {told:,} lists with an outcome have an unknown reward"
        remedy = "say in the YAML what such an outcome is worth, such as reward: coalesce(reward, 3)"
        raise InputError(what, where=str(log), remedy=remedy)
    worth = estimate_versions(candidate, asked, served, versions, clip)
    for one in worth:
        print(f"\n{candidate.version}, from what {one.version} showed\n\n{render(one.sections())}")
        for kind, why in one.value.refused.items():
            print(f"\nno {kind} estimate: {why}")
    if out is not None:
        more = {one.version: {"left_out": one.left_out, "unchecked": one.unchecked} for one in worth}
        found = {one.version: one.value.figures() | more[one.version] for one in worth}
        write_json(out, {"log": served.counts, **found})


@dataclass(frozen=True)
class VersionEstimate:
    """A candidate's estimates from the lists of one version."""

    version: str
    left_out: Section
    unchecked: int
    value: PolicyValue

    def sections(self) -> dict[str, Section]:
        """Diagnostics, then estimates, for `render`."""
        value = self.value
        lacked = "mean weight of the first drawn place; less than 1 where items are shown that these lists lacked"
        diagnostics: Section = {
            "effective sample size in users, of cascade estimates": round(value.ess["cascade"], 1),
            "the same of whole lists": round(value.ess["list"], 1),
            "users": value.users,
            "lists": value.lists,
            "of these with a history that nothing checks (seen: include, no bundle of their version)": self.unchecked,
            "largest weight": round(value.max_weight, 2),
            "mean weight of whole lists; 1 in expectation, less where it has no support": round(value.mean_weight, 3),
            "clipped at": round(value.clip, 2),
            "share of the weights that were clipped": round(value.clipped, 4),
            "share without support at fixed places": round(1 - value.support, 4),
            lacked: round(value.first_weight, 3),
        }
        ends = {name: (one.value, *one.interval()) for name, one in value.estimates.items()}
        return {
            "diagnostics": diagnostics,
            "lists left out": self.left_out,
            "earned": {"observed: what these lists earned": value.observed},
            "value of a list, 95 % interval": {n: "{:.4g} ({:.4g} .. {:.4g})".format(*one) for n, one in ends.items()},
        }


def estimate_versions(
    candidate: Bundle, policy: Explore, served: Served, versions: dict[str, Bundle], clip: float | None = None
) -> list[VersionEstimate]:
    """Estimate a candidate's value from the lists of each version in a log, never averaged over versions.

    Raises:
        InputError: the candidate knows none of the items; or, for every version, no list can be used or most histories
            differ from the server's. If some versions have an estimate, stderr says why others have none.
    """
    if not served.lists.height:
        remedy = "serve with explore, log with --decisions, and join with recalign feedback"
        raise InputError("no list in this log has usable propensities", where="log", remedy=remedy)
    require_known(candidate, served.lists)
    histories, found, failed = UserHistories(served.events), list[VersionEstimate](), dict[str, InputError]()
    for (version,), lists in served.lists.partition_by("version", as_dict=True, maintain_order=True).items():
        own = versions.get(str(version))
        name = str(version) if own else f"{version} (its bundle is not given: propensities are not checked)"
        try:
            used, logp, left_out = _usable(lists, histories, candidate, policy, own)
            value = estimate(as_lists(used, logp), clip="cube_root" if clip is None else clip)
            unchecked = used.filter(pl.col("seen") != "exclude").height if own is None else 0
            found.append(VersionEstimate(name, left_out, unchecked, value))
        except InputError as error:
            failed[name] = error
    if not found:
        raise next(iter(failed.values()))
    for name, why in failed.items():
        print(f"version {name}: no estimate: {why}", file=sys.stderr)
    return found


def _usable(
    lists: pl.DataFrame, histories: UserHistories, candidate: Bundle, policy: Explore, own: Bundle | None
) -> tuple[pl.DataFrame, list[np.ndarray], Section]:
    logp, hidden_N = ask(candidate, lists, histories, [policy] * lists.height)
    fits_N = np.ones(lists.height, bool)
    if own is not None:
        drawn = [Explore(warm, fixed=fixed) for warm, fixed in lists.select("temperature", "fixed").iter_rows()]
        of_own, hidden_N = ask(own, lists, histories, drawn)
        logged = lists["log_probs"].to_list()
        fits_N[:] = [np.allclose(a, b, rtol=0, atol=SAME) for a, b in zip(of_own, logged, strict=True)]
    same_N = (hidden_N == lists["hidden"].to_numpy()) | (lists["seen"] != "exclude").to_numpy()
    said = lists.with_row_index("place").with_columns(same=pl.Series(same_N), fits=pl.Series(fits_N))
    used, left_out = split(said, {ANOTHER: ~pl.col("same"), UNFIT: ~pl.col("fits")})
    if left_out[ANOTHER] > (1 - LEAST_USED) * lists.height:  # type: ignore[operator]
        what = f"{left_out[ANOTHER]:,} of {lists.height:,} lists have another history here than the server had"
        remedy = "give recalign feedback --unshown and all outcomes, those before the first decision too"
        if own is None:
            remedy += "; or name the bundle that showed them with --bundles: it may have other items"
        raise InputError(what, where="log", remedy=remedy)
    if not used.height:
        what = (
            f"none of {lists.height:,} lists is usable: {left_out[UNFIT]:,} have other propensities than their bundle's"
        )
        raise InputError(what, where="log", remedy="name the bundles that showed them, or leave --bundles out")
    return used, [logp[place] for place in used["place"]], left_out


def as_lists(lists: pl.DataFrame, logp: list[np.ndarray]) -> Lists:
    """Lists of a log, weighted by a candidate's log-probabilities of them."""
    length_N = lists["items"].list.len().to_numpy()

    def filled(rows: Any) -> np.ndarray:
        full = np.zeros((len(length_N), length_N.max(initial=1)))
        for own, row in zip(full, rows, strict=True):
            own[: len(row)] = row
        return full

    return of_lists(
        user_N=np.unique(lists["user"].to_list(), return_inverse=True)[1],
        reward_NK=filled(lists["rewards"]),
        logged_NK=filled(lists["log_probs"]),
        target_NK=filled(logp),
        explored_N=(lists["arm"] == "explored").to_numpy(),
        fixed_N=lists["fixed"].to_numpy(),
    )
