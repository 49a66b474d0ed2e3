"""Encode a request for one bundle: raw ids to the graph's item numbers, and back.

Shape suffixes: L events, S hidden items, N = V + 1 items with the padding item at 0.
"""

from __future__ import annotations

import reprlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recalign.errors import InputError, nearest
from recalign.serve.server.about import REMEDY, BundleConfig
from recalign.serve.server.answer import LeftOut
from recalign.serve.server.request import Boost, Id, Request, Time

PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "datetime": 1_000_000}
MICRO = 1_000_000  # microseconds a second
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NONE = np.zeros(0, np.int64)
LAST_SECOND = 253_402_300_799  # of the year 9999


@dataclass(frozen=True)
class Encoded:
    """A request as the graph's inputs.

    Attributes:
        item_L, time_L, request_time_L, reward_L: the newest known events, oldest first; times in seconds.
        hidden_S: items to exclude, seen or blocked.
        strength: of reranking, in 1 / the reward's unit.
        request: the original.
        allow_N: which items may be recommended, bool; None: all.
        left_out: the parts of the request that were not used.
    """

    item_L: np.ndarray
    time_L: np.ndarray
    request_time_L: np.ndarray
    reward_L: np.ndarray
    hidden_S: np.ndarray
    strength: float
    request: Request = field(default_factory=Request)
    allow_N: np.ndarray | None = None
    left_out: LeftOut = field(default_factory=LeftOut)

    def graph_top_k_suffices(self, k: int) -> bool:
        """Whether the graph's own top ``k`` contains the answer."""
        filtered = self.allow_N is not None or self.request.boost
        return not (filtered or self.request.log_probs or self.request.explore) and self.request.k <= k


class Catalogue:
    """The items of a bundle.

    Args:
        table: ``item``, ``title``, ``count`` and further columns, a row per item.
        about: the bundle's settings.
    """

    def __init__(self, table: pl.DataFrame, about: BundleConfig) -> None:
        self.table, self.about = table, about
        self.has_texts = table["item"].dtype == pl.String
        """Whether ids are texts; else they are integers."""
        self.ids: list[Id] = table["item"].to_list()
        self.titles: list[str] = table["title"].to_list()
        self.number = {item: n for n, item in enumerate(self.ids, start=1)}
        self._columns: dict[str, tuple[np.ndarray, dict[Any, int]]] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def request(
        self, items: Sequence[Id], times: Sequence[int], rewards: Sequence[float | None], time: int, **more: Any
    ) -> Request:
        """Make a request, with rewards and a request time only where the policy reads them.

        Args:
            items, times, rewards: the history; times in microseconds since 1970.
            time: of the request, in the same unit.
            **more: further fields of `Request`.
        """
        about = self.about
        now = of_micro(time, about.time_unit) if about.request_time == "known" else None
        read = None if about.reward is None else rewards
        return Request(items, [of_micro(one, about.time_unit) for one in times], read, now, **more)  # type: ignore[arg-type]

    def encode(self, request: Request) -> Encoded:
        """Turn a request into numbers.

        Raises:
            InputError: this bundle cannot answer it; names the place in the request, and a remedy.
        """
        self._require(request)
        given = {name: ids for name in ("items", "block", "allow") if (ids := getattr(request, name))}
        number = {name: self.numbers(name, ids) for name, ids in given.items()}
        item_L, block, allow = (number.get(name, NONE) for name in ("items", "block", "allow"))
        lacking = (given[name] for name, found in number.items() if not found.all())
        unknown = [one for ids in lacking for one in ids if one not in self.number]
        time_L, now = self._times(request)
        reads = self.about.reward is not None and request.rewards is not None  # else training read none
        reward_L = np.array(request.rewards, np.float64) if reads else np.full(len(item_L), np.nan)  # as in the log
        if unknown:
            known = item_L > 0
            item_L, time_L, reward_L = item_L[known], time_L[known], reward_L[known]
        seen = item_L
        if self.about.collapse:
            kept = strongest(item_L, reward_L)
            item_L, time_L, reward_L = item_L[kept], time_L[kept], reward_L[kept]
        older = max(0, len(item_L) - self.about.max_length)
        useless = sum(boost.value not in self._column(boost.column)[1] for boost in request.boost)
        hidden = seen if request.seen == "exclude" else NONE
        return Encoded(
            item_L=item_L[older:],
            time_L=time_L[older:],
            request_time_L=np.concatenate([time_L[older + 1 :], [now]])[: len(item_L) - older],
            reward_L=reward_L[older:].astype(np.float32),
            hidden_S=distinct(np.concatenate([hidden, block[block > 0]]) if len(block) else hidden),
            strength=self.strength(request.strength),
            request=request,
            allow_N=None if request.allow is None else np.isin(np.arange(len(self) + 1), allow[allow > 0]),
            left_out=LeftOut(older=older, repeated=len(seen) - len(item_L), boosts=useless).with_unknown(unknown),
        )

    def _require(self, request: Request) -> None:
        about = self.about
        if request.user is not None:
            remedy = "give items and times; a server keeps histories with --store"
            raise InputError("no histories are stored here", where="user", remedy=remedy)
        for place, boost in enumerate(request.boost):
            self._require_boost(boost, f"boost[{place}]")
        repeats = about.collapse and len(set(request.items)) < len(request.items)
        reads = "reward" in about.inputs and request.items
        if about.reward is not None and request.rewards is None and (reads or repeats):
            remedy = f"give one per event, in the unit of {about.reward!r}; null if unknown"
            what = "this policy reads the rewards of the history"
            what = what if reads else "an item occurs several times, and its event with the highest reward counts"
            raise InputError(what, where="rewards", remedy=remedy)
        if request.strength is not None and about.strength is None:
            what = "this policy is not reranked, so it has no strength"
            raise InputError(what, where="strength", remedy="leave it out")
        if (request.time is None) == (about.request_time == "known"):
            known = about.request_time == "known"
            what = f"this policy {'needs' if known else 'does not take'} the request's time"
            raise InputError(what, where="time", remedy="give the time of the request" if known else "leave it out")

    def numbers(self, name: str, ids: Sequence[Id]) -> np.ndarray:
        """Item numbers of raw ids, 0 for ids that are not in the catalogue. Shape: -> int64."""
        found = np.fromiter(map(self.number.get, ids, repeat(0)), np.int64, len(ids))
        kind = str if self.has_texts else int
        for place in np.flatnonzero(found == 0).tolist():  # an id of the wrong type is never found
            if type(ids[place]) is not kind:
                wanted = "texts" if self.has_texts else "integers"
                what = f"{reprlib.repr(ids[place])} is of the wrong type: the ids of this catalogue are {wanted}"
                raise InputError(what, where=f"{name}[{place}]", remedy="give raw ids as the log has them")
        return found

    def _times(self, request: Request) -> tuple[np.ndarray, int]:
        """Seconds of the events, floored as in the log: int64 (L,); and of the request, else of the last event."""
        asked = [] if request.time is None else [request.time]

        def where(place: int) -> str:
            return "time" if place == len(request.times) else f"times[{place}]"

        time = fine_times([*request.times, *asked], self.about.time_unit, where)
        back = time[1:] < time[:-1]
        if back.any():
            where_back = where(int(back.argmax()) + 1)
            raise InputError("is before the previous time", where=where_back, remedy="give the events oldest first")
        resolution = self.about.time_resolution
        second = time // (MICRO * resolution) * resolution
        return second[: len(request.times)], int(second[-1]) if len(second) else 0

    def boosts(self, boosts: Sequence[Boost]) -> np.ndarray:
        """What boosts add to the scores of all items. One pass per column, however many of its values are boosted.

        Shape: -> float64 (N,).
        """
        boost_N, weights = np.zeros(len(self) + 1), defaultdict[str, list[Boost]](list)
        for boost in boosts:
            weights[boost.column].append(boost)
        for column, own in weights.items():
            place_V, place_of = self._column(column)
            weight_X = np.zeros(len(place_of))
            for boost in own:
                if (place := place_of.get(boost.value)) is not None:
                    weight_X[place] += boost.weight
            boost_N[1:] += weight_X[place_V]
        return boost_N

    def _column(self, name: str) -> tuple[np.ndarray, dict[Any, int]]:
        """Each item's value of a column as an index, and the index of each distinct value; cached."""
        if name not in self._columns:
            place_of: dict[Any, int] = {}
            column = self.table[name]
            if column.dtype == pl.Float32:  # to 9.99, as in a request, not 9.989999771118164
                column = column.cast(pl.String).cast(pl.Float64)
            places = (place_of.setdefault(one, len(place_of)) for one in column.to_list())
            self._columns[name] = np.fromiter(places, np.int32, len(self)), place_of
        return self._columns[name]

    def _require_boost(self, boost: Boost, where: str) -> None:
        if boost.column not in self.table.columns:
            near = nearest(boost.column, self.table.columns)
            remedy = f"did you mean {near!r}?" if near else f"there are: {', '.join(self.table.columns)}"
            what = f"the items have no column {reprlib.repr(boost.column)}"
            raise InputError(what, where=f"{where}.column", remedy=remedy)
        column = self.table[boost.column]
        holds = {str: column.dtype == pl.String, bool: column.dtype == pl.Boolean}
        if not holds.get(type(boost.value), column.dtype.is_numeric()):
            what = f"{reprlib.repr(boost.value)} is of the wrong type: the column {boost.column!r} holds {column.dtype}"
            raise InputError(what, where=f"{where}.value", remedy="give a value of that type")

    def strength(self, asked: float | None) -> float:
        """Strength of reranking in the graph's unit, 1 / the reward's; None: the bundle's."""
        return (self.about.strength or 0.0 if asked is None else asked) / self.about.reward_sd


def read_items(path: Path) -> pl.DataFrame:
    """The item table of a bundle.

    Raises:
        InputError: the ids, titles or counts are absent, of wrong types or null, or an id occurs twice.
    """
    table = pl.read_parquet(path, glob=False)
    integers, texts = {"item", "count"}, {"item", "title"}
    for name in ("item", "title", "count"):
        kind = table.schema.get(name, pl.Null())
        right = (name in integers and kind.is_integer()) or (name in texts and kind == pl.String)
        if not right or table[name].has_nulls():
            what = f"column {name!r} of {path.name} is missing, has nulls or holds {kind}"
            raise InputError(what, where=str(path.parent), remedy=REMEDY)
    if not table["item"].is_unique().all():
        raise InputError(f"{path.name} has an item twice", where=str(path.parent), remedy=REMEDY)
    return table


def distinct(number_X: np.ndarray) -> np.ndarray:
    """What `np.unique` returns, by fewer array operations. Shape: (X,) -> (S,)."""
    sorted_X = np.sort(number_X)
    first_X = np.ones(len(sorted_X), np.bool_)
    np.not_equal(sorted_X[1:], sorted_X[:-1], out=first_X[1:])
    return sorted_X[first_X]


def strongest(item_L: np.ndarray, reward_L: np.ndarray) -> np.ndarray:
    """Which events to keep, one per item: that with the highest reward, the first among ties. Shape: bool (L,)."""
    order = np.lexsort((-np.nan_to_num(reward_L, nan=-np.inf), item_L))  # stable
    return np.isin(np.arange(len(item_L)), order[np.unique(item_L[order], return_index=True)[1]])


def fine_times(times: Sequence[Any], unit: str, where: Callable[[int], str]) -> np.ndarray:
    """Microseconds since 1970; ``where`` names a time's place for errors. Shape: -> int64.

    Raises:
        InputError: one is not a time in this unit, or lies before 1970 or after the year 9999.
    """
    scale = 0 if unit == "datetime" else MICRO // PER_SECOND[unit]
    if scale and set(map(type, times)) == {int} and min(times) >= 0 and max(times) <= LAST_SECOND * PER_SECOND[unit]:
        return np.array(times, np.int64) * scale  # converting one by one is slow
    micro = list[int]()
    for place, one in enumerate(times):
        try:
            micro.append(_of_number(one, scale) if scale else _of_text(one))
            why = "" if 0 <= micro[-1] <= LAST_SECOND * MICRO else "lies before 1970 or after the year 9999"
        except (TypeError, ValueError, OverflowError):
            why = "is not a time"
        if why:
            wanted = f"numbers of {unit} since 1970" if unit != "datetime" else "ISO 8601 texts: 2026-11-28T13:00:00Z"
            raise InputError(f"{reprlib.repr(one)} {why}", where=where(place), remedy=f"give {wanted}")
    return np.array(micro, np.int64)


def of_micro(micro: int, unit: str) -> Time:
    """Microseconds since 1970 as a time in a log's unit."""
    if unit == "datetime":
        return (EPOCH + timedelta(microseconds=micro)).isoformat()
    scale = MICRO // PER_SECOND[unit]
    return micro / scale if micro % scale else micro // scale


def _of_number(time: Any, scale: int) -> int:
    if type(time) not in (int, float):
        raise TypeError
    return time * scale if isinstance(time, int) else round(time * scale)


def _of_text(time: Any) -> int:
    when = datetime.fromisoformat(time)
    return ((when if when.tzinfo else when.replace(tzinfo=UTC)) - EPOCH) // timedelta(microseconds=1)
