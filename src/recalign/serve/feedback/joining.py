"""Join decisions and outcomes into events with exposure: items shown, their positions, propensities and outcomes.

An outcome is attributed to the newest decision that showed its item to its user, within a window, or to the decision
that it names. Outcomes that cannot be joined are counted by reason. Each row names the version that decided.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import polars as pl

from recalign.data.events.items import log_ids
from recalign.errors import InputError, require_positive
from recalign.serve.feedback.log import COLUMNS
from recalign.serve.feedback.outcomes import MICRO

CLOCK = 600
"""By user and time, an outcome up to this many seconds (or the window) before a decision that showed its item counts as
a clock disagreement."""
FEW = 10
"""So many outcomes before their decisions say nothing about the clocks."""
STEPS = (86_400 * MICRO, 60 * MICRO, MICRO, MICRO // 1000, 1)
"""Resolutions of outcome times, in microseconds: days, minutes, seconds, milliseconds, microseconds."""
Counts = dict[str, int | float | str]
ORDER = (
    "user", "item", "timestamp", "reward", "shown", "chosen", "outcome_at", "event_at", "settled", "position",
    "last_outcome",
    "is_random", "propensity", "log_prob", "decision",
    *(name for name in COLUMNS if name not in ("time", "decision", "user", "log_probs")),
)  # fmt: skip
MISFITS = "what does not fit"
OVERDUE = "decisions whose window had not passed at the newest outcome, but has by now"
"""Keys of `Joined.counts` that `recalign monitor` reads."""


@dataclass(frozen=True)
class Rule:
    """How outcomes are attributed.

    Attributes:
        window: seconds after a decision within which an outcome counts for it.
        delay: seconds by which an outcome may be late in its table. A decision is left out until the newest outcome is
            at least window + delay later: its outcomes may still arrive.
        ignored: reward of an item that was shown and not chosen.
        unshown: also keep outcomes that no decision explains, and repeated outcomes of a shown item, as events without
            exposure: histories are then complete. Outcomes have to name users.
    """

    window: float = 86_400.0
    delay: float = 0.0
    ignored: float = 0.0
    unshown: bool = False

    def __post_init__(self) -> None:
        require_positive("", vars(self), "window")
        require_positive("", vars(self), "delay", or_zero=True)
        if not math.isfinite(self.ignored):
            raise InputError(f"{self.ignored} is not finite", where="ignored", remedy="give a reward, such as 0")


@dataclass
class Joined:
    """The result of `join`.

    Attributes:
        table: one row per shown item, and per outcome that `Rule.unshown` keeps; columns `ORDER`; times in microseconds
            since 1970. ``settled``: no later table will have a new event before ``event_at``. ``last_outcome``: the
            last position of the list that was chosen and is settled; items above it were seen.
        counts: numbers of decisions, outcomes and rows, by section and name.
    """

    table: pl.DataFrame
    counts: dict[str, Counts] = field(default_factory=dict)


def join(decisions: pl.DataFrame, outcomes: pl.DataFrame, rule: Rule, now: int) -> Joined:
    """Join decisions (`recalign.serve.feedback.log.read`) and outcomes (`recalign.serve.feedback.outcomes.read`).

    Args:
        decisions, outcomes: sorted by time.
        rule: how outcomes are attributed.
        now: microseconds since 1970; later times are counted as clock disagreements.

    Raises:
        InputError: item ids are texts in the outcomes and integers in the decisions; or most outcomes of shown items
            came shortly before their decisions, so the clocks disagree.
    """
    told, outcomes = outcomes.height, outcomes.unique(maintain_order=True)
    wait = round((rule.window + rule.delay) * MICRO)
    whole = decisions.filter(pl.col("items").list.len() > 0)
    past = outcomes.filter(pl.col("time") <= now)["time"].max()  # a clock that is ahead must not close windows
    until = (now if past is None else past) - wait  # type: ignore[operator]
    ripe = whole.filter(pl.col("time") <= until)
    versions = dict(ripe.group_by("version").len().sort("version").iter_rows())
    shown = _shown(whole)
    items = log_ids(outcomes["item"], shown["item"].unique())
    if items.null_count():
        wrong = outcomes["item"].filter(items.is_null())
        what = f"{wrong[0]!r} ({len(wrong):,} outcomes) is not an integer, but the items of the decisions are"
        raise InputError(what, where="--item", remedy="name the column of the ids that the server shows")
    outcomes = outcomes.with_columns(items).with_row_index("outcome")
    # Decision times are floored to the resolution of outcome times, else an outcome .2 s later could seem earlier.
    step = next(one for one in STEPS if (outcomes["time"] % one == 0).all())
    own = shown.select("user", "item", "decision", shown_at=pl.col("time") // step * step)
    matched, before, why = (_by_decision if "decision" in outcomes.columns else _by_user)(outcomes, own, rule)
    _require_clocks(matched.height, before)
    best = matched.sort("reward", descending=True, nulls_last=True, maintain_order=True)
    best = best.unique(["decision", "item"], keep="first", maintain_order=True)
    late = best.join(ripe, on="decision", how="anti").height
    further = "of an item that has a better or earlier one" + ("" if rule.unshown else ", left out")
    came = best.select("decision", "item", "reward", outcome_at="time", chosen=pl.lit(True))
    rows = shown.filter(pl.col("time") <= until).join(came, on=["decision", "item"], how="left", maintain_order="left")
    rows = rows.with_columns(pl.col("chosen").fill_null(False), shown=pl.lit(True), timestamp="time")
    rows = rows.with_columns(reward=pl.when("chosen").then("reward").otherwise(rule.ignored))
    counts: dict[str, Counts] = {
        "decisions": {
            "read": decisions.height,
            "that showed nothing": decisions.height - whole.height,
            "too young: their window had not passed at the newest outcome": whole.height - ripe.height,
            "used": ripe.height,
        },
        "arms": dict(Counter(ripe["arm"].fill_null("without exploration"))),
        "versions" + (" (mixed)" if len(versions) > 1 else ""): versions,
        "outcomes": {
            "read": told,
            "equal to another, counted once": told - outcomes.height,
            "joined": best.height - late,
            "of decisions that are too young": late,
            further: matched.height - best.height,
            **why,
        },
        MISFITS: _misfits(rows, decisions, outcomes, why, now)
        | {OVERDUE: whole.filter(pl.col("time") > until, pl.col("time") <= now - wait).height},
    }
    if rule.unshown:
        spare = matched.join(best, on="outcome", how="anti").join(ripe.select("decision", made="time"), on="decision")
        in_rows = matched.join(spare, on="outcome", how="anti")  # in rows of shown items, or of young decisions
        after = spare.select("outcome", made=pl.col("made") + 1)  # not part of its own list's history
        rest = outcomes.join(in_rows, on="outcome", how="anti")
        rest = rest.join(before.filter(_ahead() <= CLOCK), on="outcome", how="anti")  # nobody knows when they were
        rest = rest.join(after, on="outcome", how="left", maintain_order="left")
        alone = rest.select(
            "user", "item", "reward", timestamp=pl.max_horizontal("time", "made"), shown=pl.lit(False),
            chosen=pl.lit(True), is_random=pl.lit(False),
        ).with_columns(outcome_at="timestamp")  # fmt: skip
        # later outcomes wait until the lists of their time are ripe
        rows = pl.concat([rows, alone.filter(pl.col("timestamp") <= until)], how="diagonal_relaxed")
    rows = rows.with_columns(event_at=pl.max_horizontal("timestamp", "outcome_at"))
    rows = rows.with_columns(settled=pl.col("event_at") <= until)
    rows = rows.with_columns(last_outcome=pl.col("position").filter("chosen", "settled").max().over("decision"))
    table = rows.select(ORDER).sort("timestamp", maintain_order=True)
    return Joined(table, counts | {"table": _table(table)})


def _shown(decisions: pl.DataFrame) -> pl.DataFrame:
    nothing = pl.lit(None, pl.Float64).repeat_by(pl.col("items").list.len())
    rows = decisions.with_columns(
        log_probs=pl.coalesce("log_probs", nothing), position=pl.int_ranges(1, pl.col("items").list.len() + 1)
    )
    rows = rows.explode("items", "log_probs", "position").rename({"items": "item", "log_probs": "log_prob"})
    chance = pl.col("log_prob").exp()
    drawn = (pl.col("arm") == "explored") & (pl.col("position") > pl.col("fixed")) & (chance > 0)
    alone = (pl.col("position") == 1) & pl.col("allowed").is_null() & (pl.col("blocked") == 0)
    alone &= pl.col("seen") == "exclude"
    return rows.with_columns(propensity=pl.when(drawn).then(chance), is_random=(drawn & alone).fill_null(False))


def _by_decision(outcomes: pl.DataFrame, own: pl.DataFrame, rule: Rule) -> tuple[pl.DataFrame, pl.DataFrame, Counts]:
    own = own.drop("user")
    known = outcomes.join(own.unique("decision"), on="decision", how="semi")
    met = known.join(own, on=["decision", "item"], how="inner", maintain_order="left")
    after = (pl.col("time") - pl.col("shown_at")) / MICRO
    before = met.filter(after < 0)
    return (
        met.filter((after >= 0) & (after <= rule.window)),
        before,
        {
            "of a decision that is not in the log": outcomes.height - known.height,
            "of an item that the decision did not show": known.height - met.height,
            "before their decision: clocks disagree": before.height,
            "after the window": met.filter(after > rule.window).height,
        },
    )


def _by_user(outcomes: pl.DataFrame, own: pl.DataFrame, rule: Rule) -> tuple[pl.DataFrame, pl.DataFrame, Counts]:
    own = own.with_columns(time="shown_at").sort("time", maintain_order=True)
    on = {"on": "time", "by": ["user", "item"], "check_sortedness": False}
    on |= {"tolerance": round(rule.window * MICRO)}
    joined = outcomes.join_asof(own, strategy="backward", **on)  # type: ignore[arg-type]
    matched, rest = joined.filter(pl.col("decision").is_not_null()), joined.filter(pl.col("decision").is_null())
    known = rest.join(own, on="user", how="semi")
    met = known.join(own, on=["user", "item"], how="semi")
    ahead = met.drop("decision", "shown_at").join_asof(own, strategy="forward", **on)  # type: ignore[arg-type]
    before = ahead.filter(pl.col("decision").is_not_null())
    near = before.filter(_ahead() <= CLOCK).height
    return (
        matched,
        before,
        {
            "of users without a decision": rest.height - known.height,
            "of an item that the user was not shown": known.height - met.height,
            f"up to {CLOCK} s before their decision: clocks disagree": near,
            "before their decision by more, within the window": before.height - near,
            "outside the window": met.height - before.height,
        },
    )


def _ahead() -> pl.Expr:
    """Seconds by which an outcome came before its decision."""
    return (pl.col("shown_at") - pl.col("time")) / MICRO


def _require_clocks(matched: int, before: pl.DataFrame) -> None:
    """Refuse outcomes most of which came shortly before their decisions, or nearly all within the window before."""
    near = before.filter(_ahead() <= CLOCK).height
    if near > max(matched, FEW) or before.height > max(9 * matched, FEW):
        by = float(before.select(_ahead().median()).item())
        what = (
            f"{before.height:,} outcomes came before the decision that showed their item, by {by:,.0f} s in the median,"
        )
        what += f" and {matched:,} after it: clocks or time zones disagree"
        remedy = "add the difference to the times, or write them with their time zone"
        raise InputError(what, where="--time", remedy=remedy)


def _misfits(rows: pl.DataFrame, decisions: pl.DataFrame, outcomes: pl.DataFrame, why: Counts, now: int) -> Counts:
    seeds = decisions.filter(pl.col("seed").is_not_null())["seed"]
    chosen = rows.filter("chosen").sort("timestamp")
    following = decisions.select("user", following="time").sort("following")
    on = {"left_on": "timestamp", "right_on": "following", "by": "user", "check_sortedness": False}
    between = chosen.join_asof(following, strategy="forward", allow_exact_matches=False, **on)  # type: ignore[arg-type]
    between = between.filter(pl.col("following") < pl.col("outcome_at"))
    return {
        "propensities of 0": rows.filter(pl.col("log_prob").exp() == 0, arm="explored").height,
        "decisions after now: clocks disagree": decisions.filter(pl.col("time") > now).height,
        "outcomes after now: clocks disagree": outcomes.filter(pl.col("time") > now).height,
        "outcomes before their decision: clocks disagree": sum(
            n for name, n in why.items() if name.endswith("clocks disagree") and isinstance(n, int)
        ),
        "draws with the seed of another draw": len(seeds) - seeds.n_unique(),
        "chosen items whose outcome came after the user's next decision": between.height,
    }


def _table(table: pl.DataFrame) -> Counts:
    shown = table.filter("shown")
    by_decision = shown.group_by("decision").agg(pl.col("chosen").any())["chosen"]
    found: Counts = {
        "rows": table.height,
        "users": table["user"].n_unique(),
        "shown and chosen": shown.filter("chosen").height,
        "shown but not chosen": shown.filter(~pl.col("chosen")).height,
        "not shown": table.height - shown.height,
        "decisions with an outcome": int(by_decision.sum()),
        "decisions without an outcome": int((~by_decision).sum()),
        "drawn, with a propensity": shown["propensity"].count(),
        "of these is_random: first of an unfiltered list of new items": shown.filter("is_random").height,
    }
    least = shown["propensity"].min()
    return found if least is None else found | {"smallest propensity": float(least)}  # type: ignore[arg-type]
