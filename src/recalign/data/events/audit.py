"""Compute the figures of ``recalign check`` that need no split."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import polars as pl

from recalign.data.events.table import EventTable

Value = int | float | str
Section = dict[str, Value]
"""Figures by name, in display order."""

QUANTILES = {"min": 0.0, "10 %": 0.1, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "90 %": 0.9, "max": 1.0}
BINS = 10
GAP_AUC = "AUC of a high reward by the time between events (0.5: no leak)"
REWARDED = "events with a reward"
REPEATS = "repeats (equal in every column)"
TIES = "ties: share of events at the same time as another of the user"
RESOLUTION = "seconds to which times have to be floored to hide it"
LEAK, HINT = 0.9, 0.65
"""`GAP_AUC` from which times leak the reward, and from which they may."""
COARSER = (60, 600, 3_600, 86_400)
"""Resolutions, in seconds, that are tried against a leak."""
EARLIEST = 631_152_000
"""Start of 1990, in seconds since 1970."""
OLD = "events before 1990, where most are later"
SKIPPED = "passed rows (shown but not chosen)"
BESIDE = "requests with a chosen row beside a passed one (shown/* is of these)"
CHOSEN_MEAN, SKIPPED_MEAN = "mean reward of chosen rows", "mean reward of passed rows"
ALIKE = "ids that look alike"
LEFT = "rows left out, or without a reward"
OUTLIERS = "share of the variance in the most extreme thousandth of the rewards"
AT_MOST = "99 % of the rewards other than 0 are at most"
AT_LEAST = "99 % of the rewards other than 0 are at least"
BOUNDS = {"least": AT_MOST, "greatest": AT_LEAST}
"""SQL functions that bound rewards, and the figure that each takes."""
MOSTLY = 0.5
"""Share of the variance that comes from outliers, above which to warn."""
OFTEN = 0.2
"""Share of test targets, or of events, above which a fault of the log makes metrics hard to read. If a fifth are
sure misses, every NDCG is a fifth lower, and intervals relative to a gain are an eighth wider (1 / sqrt(0.8)). If a
fifth have the time of the event before, metrics measure how a basket continues."""


def audit(table: EventTable, ranked: pl.DataFrame | None = None) -> dict[str, Section]:
    """Compute the figures of a checked log, by section.

    Args:
        table: the log.
        ranked: its events with ranks in place of rewards, if these are learned (``relative_to``); None: rewards are.
    """
    frame, learned = table.frame, table.frame if ranked is None else ranked
    pairs = (frame["user"].cast(pl.UInt64) * 2**32 + frame["item"]).n_unique()
    log: Section = {
        "rows read": sum(table.report.files.values()),
        "events": frame.height,
        "users": len(table.users),
        "items": len(table.items),
        "share of all (user, item) pairs seen": pairs / (len(table.users) * len(table.items)),
    }
    repetition: Section = {"events on an item that the user had before": frame.height - pairs}
    if table.has_time:
        log["first event"], log["last event"] = (
            f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M:%S} UTC"
            for second in frame.select(first=pl.min("timestamp"), last=pl.max("timestamp")).row(0)
        )
        if 0 < (old := int((frame["timestamp"] < EARLIEST).sum())) < frame.height / 2:
            log[OLD] = old
        duplicates = frame.height - frame.n_unique(["user", "item", "timestamp"])
        repetition["duplicates (same user, item and time)"] = duplicates
        repetition |= {REPEATS: table.report.repeats, TIES: table.report.tied / frame.height}
    sections: dict[str, Section] = {
        "log": log,
        LEFT: dict(table.report.left_out()),
        "nulls by column": {column.name: column.null_count() for column in frame if column.null_count()},
        "repeated items and times": repetition,
        ALIKE: _alike(table),
    }
    for column in ("user", "item"):
        counts = frame.group_by(column).len()["len"]
        sections[f"events per {column}"] = {
            name: int(counts.quantile(share, "nearest"))  # type: ignore[arg-type]
            for name, share in QUANTILES.items()
        }
    if table.skipped is not None:
        sections["shown"] = _shown(frame, table.skipped)
    if frame["reward"].count():
        sections |= {"reward": _reward(table, learned), "reward histogram": histogram(frame["reward"].drop_nulls())}
    return sections


def _shown(chosen: pl.DataFrame, skipped: pl.DataFrame) -> Section:
    rows = pl.concat([chosen.select("request", one=pl.lit(1)), skipped.select("request", one=pl.lit(0))])
    share = rows.group_by("request").agg(pl.col("one").mean())["one"]
    found: Section = {
        "rows chosen (the events)": chosen.height,
        SKIPPED: skipped.height,
        "requests": len(share),
        "requests with nothing chosen": int((share == 0).sum()),
        BESIDE: int(share.is_between(0, 1, closed="none").sum()),
        "passed rows with a reward": skipped["reward"].count(),
    }
    means = {CHOSEN_MEAN: chosen["reward"].mean(), SKIPPED_MEAN: skipped["reward"].mean()}
    return found | {name: mean for name, mean in means.items() if isinstance(mean, float)}


def render(sections: dict[str, Section]) -> str:
    """Format sections as text: a heading, then its figures in a column."""
    width = max(len(_format(value)) for rows in sections.values() for value in rows.values())
    parts = [
        "\n".join([title, *(f"  {_format(value):>{width}}  {name}" for name, value in rows.items())])
        for title, rows in sections.items()
        if rows
    ]
    return "\n\n".join(parts)


def _format(value: Value) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else value


def outlier_share(rewards: pl.Series) -> float | None:
    """`OUTLIERS` of rewards without nulls; None for under a thousand, or at most two distinct values."""
    if rewards.n_unique() <= 2 or len(rewards) < 1000:  # the rarer of two values is not an outlier
        return None
    square = np.sort((rewards.to_numpy().astype(float) - float(rewards.mean())) ** 2)  # type: ignore[arg-type]
    return float(square[-(len(rewards) // 1000) :].sum() / square.sum())


def bound(rewards: pl.Series) -> Section:
    """`AT_MOST` or `AT_LEAST`, on the side of the outliers; of rewards without nulls that are not all 0."""
    values, mean = rewards.to_numpy(), float(rewards.mean())  # type: ignore[arg-type]
    above = values.max() - mean >= mean - values.min()
    return {AT_MOST if above else AT_LEAST: float(np.quantile(values[values != 0], 0.99 if above else 0.01))}


def how_to_bound(figures: Mapping[str, Value]) -> str:
    """The remedy for outliers, with two digits of `bound`."""
    function, limit = next((sql, figures[end]) for sql, end in BOUNDS.items() if end in figures)
    rounded = float(f"{float(limit):.2g}")
    written = f"{rounded:.0f}" if abs(rounded) >= 10 else f"{rounded:g}"
    return f"bound them, as in data.reward: {function}(COLUMN, {written})"


def early_concerns(table: EventTable) -> Iterator[str]:
    """Warnings of `recalign check` that can be computed before the events are split."""
    events, rewards = table.frame, table.frame["reward"].drop_nulls()
    yield from alike_concerns(_alike(table))
    if (due := outlier_share(rewards)) is not None and due > MOSTLY:
        ends = rewards.to_numpy().min(), rewards.to_numpy().max()
        yield (
            f"rewards go from {ends[0]:,g} to {ends[1]:,g}, and one in a thousand makes {due:.0%} of their variance: "
            f"{how_to_bound(bound(rewards))}"
        )
    if (again := 1 - events.n_unique(["user", "item"]) / max(events.height, 1)) > OFTEN:
        yield (
            f"{again:.0%} of the events are on an item that the user had met before, which lists never contain: "
            "collapse: true keeps one event of a user's events on an item"
        )


def plain_ids(ids: pl.Series) -> pl.Series:
    """Text ids without spaces at their ends and in Unicode's form NFC: what looks equal is equal. Others unchanged."""
    return ids.str.strip_chars().str.normalize("NFC") if ids.dtype == pl.String else ids


def _alike(table: EventTable) -> Section:
    found = Section()
    for key, ids in (("user", table.users), ("item", table.items)):
        plain = plain_ids(ids)
        if alike := int(plain.is_duplicated().sum()):
            one, other = ids.filter(plain == plain.filter(plain.is_duplicated())[0])[:2]
            found[f"of data.log.{key}, such as {one!a} and {other!a}"] = alike
    return found


def alike_concerns(alike: Section) -> Iterator[str]:
    """A warning for each figure of the section `ALIKE`."""
    for name, count in alike.items():
        yield (
            f"{count:,} ids {name}, differ only in spaces at their ends or in Unicode's form, but count as different: "
            "clean them in the source, or (unless the column is called user or item) in data.log.columns, such as "
            "{customer: 'normalize(trim(customer), NFC)'}"
        )


def _reward(table: EventTable, learned: pl.DataFrame) -> Section:
    rewards, used = table.frame["reward"].drop_nulls(), learned["reward"].drop_nulls()
    rows: Section = {REWARDED: len(rewards), "mean": rewards.mean(), "standard deviation": rewards.std() or 0.0}  # type: ignore[dict-item]
    if (due := outlier_share(used)) is not None:
        rows |= {OUTLIERS: due} | bound(used)
    if table.has_time and (area := gap_auc(learned)) is not None:
        rows[GAP_AUC] = area
        coarse = ((seconds, learned.with_columns(pl.col("timestamp") // seconds * seconds)) for seconds in COARSER)
        hiding = (seconds for seconds, floored in coarse if (gap_auc(floored) or 0.5) < HINT)
        if area >= HINT and (seconds := next(hiding, None)):
            rows[RESOLUTION] = seconds
    return rows


def gap_auc(frame: pl.DataFrame) -> float | None:
    """Measure how well the time between a user's events predicts a high reward. A model would exploit such a leak.

    A reward is high if it is above the median (or at least the median, if that splits the events more evenly). Three
    scores are tried, each in both directions, and the best AUC counts: the time since the user's previous event, the
    time until the next one, and the absolute difference of the two (0 where times were interpolated).

    Returns:
        AUC from 0.5 (no leak) to 1; None if all rewards are equal or no user has two events.
    """
    before = pl.when(pl.col("user") == pl.col("user").shift()).then(pl.col("timestamp").diff())
    after = before.shift(-1)
    median = pl.col("reward").median()
    halves = pl.col("reward") > median, pl.col("reward") >= median
    above, from_it = ((half.mean() - 0.5).abs() for half in halves)
    high = pl.when(above < from_it).then(halves[0]).otherwise(halves[1])
    areas = [auc(frame.select(gap=gap, high=high).drop_nulls()) for gap in (before, after, (after - before).abs())]
    return max((max(area, 1 - area) for area in areas if area is not None), default=None)


def auc(scored: pl.DataFrame) -> float | None:
    """Area under the ROC curve of a score (first column) for a bool label (second column). Ties count half."""
    score, positive = scored.get_columns()
    ones, pairs = int(positive.sum()), int(positive.sum()) * int((~positive).sum())
    return (float(score.rank().filter(positive).sum()) - ones * (ones + 1) / 2) / pairs if pairs else None


def histogram(values: pl.Series) -> Section:
    """Count each value if there are at most `BINS`, else count in `BINS` bins of equal width."""
    counts = values.value_counts().sort(values.name)
    if counts.height <= BINS:
        return {f"{value:.10g}": count for value, count in counts.rows()}
    sizes, edges = np.histogram(values.to_numpy(), BINS)
    return {f"{low:.10g} to {high:.10g}": int(n) for n, (low, high) in zip(sizes, pairwise(edges), strict=True)}
