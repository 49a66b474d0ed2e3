"""Decisions and outcomes become events with exposure: what was shown, where, with which chance, and what came of it.

An outcome counts for the newest decision that showed its item to its user, within a window, or for the decision that it
names. What cannot be joined is counted by reason; a row says which version decided, so nothing is averaged over them.
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

CLOCK = 60
"""Seconds by which an outcome may lie before what it is an outcome of and count as a clock that disagrees."""
STEPS = (86_400 * MICRO, 60 * MICRO, MICRO, MICRO // 1000, 1)
"""Units in which outcomes may be told: dates, minutes, seconds, milliseconds, microseconds."""
Counts = dict[str, int | float | str]
ORDER = (
    "user", "item", "timestamp", "reward", "shown", "chosen", "outcome_at", "event_at", "settled", "position",
    "last_outcome",
    "is_random", "propensity", "log_prob", "decision",
    *(name for name in COLUMNS if name not in ("time", "decision", "user", "log_probs")),
)  # fmt: skip
MISFITS = "what does not fit"
OVERDUE = "decisions whose window had not passed at the newest outcome, but has by now"
"""Names in `Joined.counts`, which `recalign monitor` reads."""


@dataclass(frozen=True)
class Rule:
    """How outcomes are attributed.

    Attributes:
        window: seconds after a decision within which an outcome counts for it.
        delay: seconds by which an outcome may be late in its table. A decision is left out until its window and this
            have passed before the newest outcome: nothing has been chosen *yet*.
        ignored: reward of what was shown and not chosen.
        unshown: also keep, as events that nobody was shown, outcomes that no decision explains and further ones of a
            shown item, so that histories are whole. Outcomes have to name users.
    """

    window: float = 86_400.0
    delay: float = 0.0
    ignored: float = 0.0
    unshown: bool = False

    def __post_init__(self) -> None:
        require_positive("", vars(self), "window")
        require_positive("", vars(self), "delay", or_zero=True)
        if not math.isfinite(self.ignored):
            raise InputError(f"{self.ignored} is no number", where="ignored", remedy="give a reward, such as 0")


@dataclass
class Joined:
    """What `join` makes.

    Attributes:
        table: a row a shown item, columns `ORDER`; times in microseconds since 1970. ``settled``: a later
            table has nothing new before ``event_at``, as choices of younger lists may be. ``last_outcome`` is the last
            place of the list that was chosen and is settled: who went so far has passed over what stands above it.
        counts: what was found, by section and name.
    """

    table: pl.DataFrame
    counts: dict[str, Counts] = field(default_factory=dict)


def join(decisions: pl.DataFrame, outcomes: pl.DataFrame, rule: Rule, now: int) -> Joined:
    """Join decisions (`recalign.serve.feedback.log.read`) and outcomes (`recalign.serve.feedback.outcomes.read`).

    Args:
        decisions, outcomes: in the order of time.
        rule: of attribution.
        now: microseconds since 1970; what lies after it has another clock.

    Raises:
        InputError: the items of the two are not the same kind of ids.
    """
    wait = round((rule.window + rule.delay) * MICRO)
    whole = decisions.filter(pl.col("items").list.len() > 0)
    past = outcomes.filter(pl.col("time") <= now)["time"].max()  # one clock that is ahead makes no decision older
    until = (now if past is None else past) - wait  # type: ignore[operator]
    ripe = whole.filter(pl.col("time") <= until)
    versions = dict(ripe.group_by("version").len().sort("version").iter_rows())
    shown = _shown(whole)
    items = log_ids(outcomes["item"], shown["item"].unique())
    if items.null_count():
        wrong = outcomes["item"].filter(items.is_null())
        what = f"{wrong[0]!r} ({len(wrong):,} outcomes), and the items of the decisions are integers"
        raise InputError(what, where="--item", remedy="name the column of the ids that the server shows")
    outcomes = outcomes.with_columns(items).with_row_index("outcome")
    # Decisions' times are floored as the outcomes' are: what came .2 s after is not, in whole seconds, before.
    step = next(one for one in STEPS if (outcomes["time"] % one == 0).all())
    own = shown.select("user", "item", "decision", shown_at=pl.col("time") // step * step)
    matched, why = (_by_decision if "decision" in outcomes.columns else _by_user)(outcomes, own, rule)
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
            "read": outcomes.height,
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
        in_rows = matched.join(spare, on="outcome", how="anti")  # of what was shown, or of a young decision
        after = spare.select("outcome", made=pl.col("made") + 1)  # none stands in the history of its own list
        rest = outcomes.join(in_rows, on="outcome", how="anti")
        rest = rest.join(after, on="outcome", how="left", maintain_order="left")
        alone = rest.select(
            "user", "item", "reward", timestamp=pl.max_horizontal("time", "made"), shown=pl.lit(False),
            chosen=pl.lit(True), is_random=pl.lit(False),
        ).with_columns(outcome_at="timestamp")  # fmt: skip
        # those of later wait for the lists of their time
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


def _by_decision(outcomes: pl.DataFrame, own: pl.DataFrame, rule: Rule) -> tuple[pl.DataFrame, Counts]:
    own = own.drop("user")
    known = outcomes.join(own.unique("decision"), on="decision", how="semi")
    met = known.join(own, on=["decision", "item"], how="inner", maintain_order="left")
    after = (pl.col("time") - pl.col("shown_at")) / MICRO
    return met.filter((after >= 0) & (after <= rule.window)), {
        "of a decision that is not there": outcomes.height - known.height,
        "of an item that the decision did not show": known.height - met.height,
        "before their decision: clocks disagree": met.filter(after < 0).height,
        "after the window": met.filter(after > rule.window).height,
    }


def _by_user(outcomes: pl.DataFrame, own: pl.DataFrame, rule: Rule) -> tuple[pl.DataFrame, Counts]:
    own = own.with_columns(time="shown_at").sort("time", maintain_order=True)
    on = {"on": "time", "by": ["user", "item"], "check_sortedness": False}
    tolerance = round(rule.window * MICRO)
    joined = outcomes.join_asof(own, strategy="backward", tolerance=tolerance, **on)  # type: ignore[arg-type]
    matched, rest = joined.filter(pl.col("decision").is_not_null()), joined.filter(pl.col("decision").is_null())
    known = rest.join(own, on="user", how="semi")
    met = known.join(own, on=["user", "item"], how="semi")
    bare = met.drop("decision", "shown_at")
    ahead = bare.join_asof(own, strategy="forward", tolerance=CLOCK * MICRO, **on)  # type: ignore[arg-type]
    early = ahead["decision"].count()
    return matched, {
        "of users without a decision": rest.height - known.height,
        "of an item that the user was not shown": known.height - met.height,
        f"up to {CLOCK} s before their decision: clocks disagree": early,
        "outside the window": met.height - early,
    }


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
        "draws whose seed another one has": len(seeds) - seeds.n_unique(),
        "chosen items that another decision of the user came before": between.height,
    }


def _table(table: pl.DataFrame) -> Counts:
    shown = table.filter("shown")
    by_decision = shown.group_by("decision").agg(pl.col("chosen").any())["chosen"]
    found: Counts = {
        "rows": table.height,
        "users": table["user"].n_unique(),
        "shown and chosen": shown.filter("chosen").height,
        "shown and not": shown.filter(~pl.col("chosen")).height,
        "not shown": table.height - shown.height,
        "decisions with an outcome": int(by_decision.sum()),
        "decisions without an outcome": int((~by_decision).sum()),
        "drawn, with a propensity": shown["propensity"].count(),
        "of these is_random: first of an unfiltered list of new items": shown.filter("is_random").height,
    }
    least = shown["propensity"].min()
    return found if least is None else found | {"smallest propensity": float(least)}  # type: ignore[arg-type]
