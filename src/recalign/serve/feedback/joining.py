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
"""Seconds. Outcomes up to so long before a decision that showed their item are no events: a clock may be wrong."""
FEW = 10
"""So many outcomes before their decisions say nothing about the clocks."""
STEPS = (86_400 * MICRO, 60 * MICRO, MICRO, MICRO // 1000, 1)
"""Resolutions of outcome times, in microseconds: days, minutes, seconds, milliseconds, microseconds."""
Counts = dict[str, int | float | str]
Attribution = tuple[pl.DataFrame, pl.DataFrame, Counts]
"""Outcomes with their ``decision``; outcomes before the decision that showed their item (``shown_at``); and how many
outcomes are not attributed, by reason."""
ORDER = (
    "user", "item", "timestamp", "reward", "shown", "chosen", "outcome_at", "event_at", "settled", "position",
    "last_outcome",
    "is_random", "propensity", "log_prob", "decision",
    *(name for name in COLUMNS if name not in ("time", "decision", "user", "log_probs")),
)  # fmt: skip
MISFITS = "what does not fit"
OVERDUE = "decisions whose window had not passed at the newest outcome, but has by now"
"""Keys of `Joined.counts` that `recalign monitor` reads."""
EARLY = "outcomes before their decision: clocks or time zones disagree, or requests had old histories"
MOST_EARLY = 0.05
"""Share of outcomes of shown items that come before their decision, above which to warn: they count as not chosen."""


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
            came before their decisions, so the clocks disagree; or no outcome belongs to a list.
    """
    distinct = outcomes.unique(maintain_order=True)
    nonempty = decisions.filter(pl.col("items").list.len() > 0)
    wait = round((rule.window + rule.delay) * MICRO)
    newest = distinct.filter(pl.col("time") <= now)["time"].max()  # a clock that is ahead must not close windows
    mature_until = (now if newest is None else newest) - wait  # type: ignore[operator]
    mature = nonempty.filter(pl.col("time") <= mature_until)
    shown = _shown_items(nonempty)
    distinct = _with_item_ids(distinct, shown["item"].unique()).with_row_index("outcome")
    attributed, early, reasons = _attribute(distinct, shown, rule)
    _require_clocks(attributed.height, early)
    if mature.height:
        _require_some(attributed.height, distinct.height, reasons)
    best = attributed.sort("reward", descending=True, nulls_last=True, maintain_order=True)
    best = best.unique(["decision", "item"], keep="first", maintain_order=True)
    rows = _with_outcomes(shown.filter(pl.col("time") <= mature_until), best, rule)
    misfits = _misfits(rows, decisions, distinct, early, now)
    misfits[OVERDUE] = nonempty.filter(pl.col("time") > mature_until, pl.col("time") <= now - wait).height
    versions = dict(mature.group_by("version").len().sort("version").iter_rows())
    immature = best.join(mature, on="decision", how="anti").height
    repeated = "of an item that has a better or earlier one" + ("" if rule.unshown else ", left out")
    counts: dict[str, Counts] = {
        "decisions": {
            "read": decisions.height,
            "that showed nothing": decisions.height - nonempty.height,
            "too young: their window had not passed at the newest outcome": nonempty.height - mature.height,
            "used": mature.height,
        },
        "arms": dict(Counter(mature["arm"].fill_null("without exploration"))),
        "versions" + (" (mixed)" if len(versions) > 1 else ""): versions,
        "outcomes": {
            "read": outcomes.height,
            "equal to another, counted once": outcomes.height - distinct.height,
            "joined": best.height - immature,
            "of decisions that are too young": immature,
            repeated: attributed.height - best.height,
            **reasons,
        },
        MISFITS: misfits,
    }
    if rule.unshown:
        events = _unshown_events(distinct, attributed, best, early, mature)
        # later outcomes wait until the lists of their time are mature
        rows = pl.concat([rows, events.filter(pl.col("timestamp") <= mature_until)], how="diagonal_relaxed")
    rows = rows.with_columns(event_at=pl.max_horizontal("timestamp", "outcome_at"))
    rows = rows.with_columns(settled=pl.col("event_at") <= mature_until)
    rows = rows.with_columns(last_outcome=pl.col("position").filter("chosen", "settled").max().over("decision"))
    table = rows.select(ORDER).sort("timestamp", maintain_order=True)
    return Joined(table, counts | {"table": _table(table)})


def _with_item_ids(outcomes: pl.DataFrame, shown: pl.Series) -> pl.DataFrame:
    """Outcomes with item ids of the decisions' type. Raises an InputError for texts where decisions have integers."""
    items = log_ids(outcomes["item"], shown)
    if items.null_count():
        wrong = outcomes["item"].filter(items.is_null())
        what = f"{wrong[0]!r} ({len(wrong):,} outcomes) is not an integer, but the items of the decisions are"
        raise InputError(what, where="--item", remedy="name the column of the ids that the server shows")
    return outcomes.with_columns(items)


def _attribute(outcomes: pl.DataFrame, shown: pl.DataFrame, rule: Rule) -> Attribution:
    """Attribute outcomes to decisions."""
    # Decision times are floored to the resolution of outcome times, else an outcome .2 s later could seem earlier.
    step = next(one for one in STEPS if (outcomes["time"] % one == 0).all())
    shown = shown.select("user", "item", "decision", shown_at=pl.col("time") // step * step)
    return (_attribute_by_decision if "decision" in outcomes.columns else _attribute_by_user)(outcomes, shown, rule)


def _with_outcomes(shown: pl.DataFrame, best: pl.DataFrame, rule: Rule) -> pl.DataFrame:
    """Shown items with the best outcome of each; the reward of items that were not chosen is `Rule.ignored`."""
    best = best.select("decision", "item", "reward", outcome_at="time", chosen=pl.lit(True))
    rows = shown.join(best, on=["decision", "item"], how="left", maintain_order="left")
    rows = rows.with_columns(pl.col("chosen").fill_null(False), shown=pl.lit(True), timestamp="time")
    return rows.with_columns(reward=pl.when("chosen").then("reward").otherwise(rule.ignored))


def _unshown_events(
    outcomes: pl.DataFrame, attributed: pl.DataFrame, best: pl.DataFrame, early: pl.DataFrame, mature: pl.DataFrame
) -> pl.DataFrame:
    """Events without exposure: outcomes not attributed, and those of mature decisions that are not the best of an item.

    Outcomes up to `CLOCK` seconds before their decision are left out: nobody knows when they were.
    """
    repeated = attributed.join(best, on="outcome", how="anti")
    repeated = repeated.join(mature.select("decision", decided_at="time"), on="decision")
    in_rows = attributed.join(repeated, on="outcome", how="anti")  # in rows of shown items, or of younger decisions
    after = repeated.select("outcome", decided_at=pl.col("decided_at") + 1)  # not part of its own list's history
    rest = outcomes.join(in_rows, on="outcome", how="anti")
    rest = rest.join(early.filter(_seconds_early() <= CLOCK), on="outcome", how="anti")
    rest = rest.join(after, on="outcome", how="left", maintain_order="left")
    return rest.select(
        "user", "item", "reward", timestamp=pl.max_horizontal("time", "decided_at"), shown=pl.lit(False),
        chosen=pl.lit(True), is_random=pl.lit(False),
    ).with_columns(outcome_at="timestamp")  # fmt: skip


def _shown_items(decisions: pl.DataFrame) -> pl.DataFrame:
    """One row per shown item, with its position, its propensity if it was drawn, and whether that draw `is_random`."""
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


def _attribute_by_decision(outcomes: pl.DataFrame, shown: pl.DataFrame, rule: Rule) -> Attribution:
    shown = shown.drop("user")
    logged = outcomes.join(shown.unique("decision"), on="decision", how="semi")
    of_shown = logged.join(shown, on=["decision", "item"], how="inner", maintain_order="left")
    delay = (pl.col("time") - pl.col("shown_at")) / MICRO
    early = of_shown.filter(delay < 0)
    reasons: Counts = {
        "of a decision that is not in the log": outcomes.height - logged.height,
        "of an item that the decision did not show": logged.height - of_shown.height,
        "before their decision": early.height,
        "after the window": of_shown.filter(delay > rule.window).height,
    }
    return of_shown.filter((delay >= 0) & (delay <= rule.window)), early, reasons


def _attribute_by_user(outcomes: pl.DataFrame, shown: pl.DataFrame, rule: Rule) -> Attribution:
    shown = shown.with_columns(time="shown_at").sort("time", maintain_order=True)
    on = {"on": "time", "by": ["user", "item"], "check_sortedness": False}
    on |= {"tolerance": round(rule.window * MICRO)}
    joined = outcomes.join_asof(shown, strategy="backward", **on)  # type: ignore[arg-type]
    attributed, rest = joined.filter(pl.col("decision").is_not_null()), joined.filter(pl.col("decision").is_null())
    of_users = rest.join(shown, on="user", how="semi")
    of_shown = of_users.join(shown, on=["user", "item"], how="semi")
    following = of_shown.drop("decision", "shown_at").join_asof(shown, strategy="forward", **on)  # type: ignore[arg-type]
    early = following.filter(pl.col("decision").is_not_null())
    shortly = early.filter(_seconds_early() <= CLOCK).height
    reasons: Counts = {
        "of users without a decision": rest.height - of_users.height,
        "of an item that the user was not shown": of_users.height - of_shown.height,
        f"up to {CLOCK} s before their decision": shortly,
        "before their decision by more, within the window": early.height - shortly,
        "outside the window": of_shown.height - early.height,
    }
    return attributed, early, reasons


def _seconds_early() -> pl.Expr:
    """Seconds by which an outcome came before its decision."""
    return (pl.col("shown_at") - pl.col("time")) / MICRO


def _require_some(attributed: int, outcomes: int, reasons: Counts) -> None:
    """Refuse outcomes none of which belongs to a list: rewards would be 0 everywhere."""
    if outcomes > FEW and attributed == 0:
        count, reason = max((int(count), reason) for reason, count in reasons.items())
        remedy = "name columns of ids as requests and answers have them (spaces and capitals count)"
        raise InputError(
            f"no outcome belongs to a list: {count:,} of {outcomes:,} are {reason}", where="", remedy=remedy
        )


def _require_clocks(attributed: int, early: pl.DataFrame) -> None:
    """Refuse outcomes most of which came shortly before their decisions, or nearly all within the window before."""
    shortly = early.filter(_seconds_early() <= CLOCK).height
    if shortly > max(attributed, FEW) or early.height > max(9 * attributed, FEW):
        by = float(early.select(_seconds_early().median()).item())
        what = (
            f"{early.height:,} outcomes came before the decision that showed their item, by {by:,.0f} s in the median,"
        )
        what += f" and {attributed:,} after it: clocks or time zones disagree"
        remedy = "add the difference to the times, or write them with their time zone"
        raise InputError(what, where="--time", remedy=remedy)


def _misfits(
    rows: pl.DataFrame, decisions: pl.DataFrame, outcomes: pl.DataFrame, early: pl.DataFrame, now: int
) -> Counts:
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
        EARLY: early.height,
        "draws with the seed of another draw": len(seeds) - seeds.n_unique(),
        "chosen items whose outcome came after the user's next decision": between.height,
    }


def _table(table: pl.DataFrame) -> Counts:
    shown = table.filter("shown")
    by_decision = shown.group_by("decision").agg(pl.col("chosen").any())["chosen"]
    counts: Counts = {
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
    smallest = shown["propensity"].min()
    return counts if smallest is None else counts | {"smallest propensity": float(smallest)}  # type: ignore[arg-type]
