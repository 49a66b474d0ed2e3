"""Answer requests from a bundle: ONNX Runtime, tables, and raw ids with titles.

Shape suffixes: B requests of a group, L events of its longest, S hidden items, K items that the graph returns, N = V
+ 1 items with the padding item at 0.
"""

from __future__ import annotations

import time
import timeit
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import polars as pl

from recalign.errors import InputError
from recalign.files import read_json
from recalign.serve.server.about import (
    ABOUT,
    EXAMPLES,
    GRAPH,
    ITEMS,
    NODES,
    REMEDY,
    TABLES,
    BundleConfig,
    current,
    usable,
)
from recalign.serve.server.answer import Answer, Explored, Scored, Shown
from recalign.serve.server.catalogue import Catalogue, Encoded, read_items
from recalign.serve.server.explore import drawn
from recalign.serve.server.request import MAX_ITEMS, Id, Request, Score

MAX_BATCH = 64
"""Maximum requests per batch."""
MAX_BATCH_SCORES = 2**25
MAX_BATCH_PAIRS = 2**16
"""Maximum pairs per batch: of events, or of a code's prefix and an event."""
LARGEST = 1e15
"""Largest magnitude of a number in a table: squares of larger ones overflow."""
LENGTHS = (16, 32, 50, 64, 104, 152, 200)
"""Upper limits of the length buckets by which histories are batched; beyond, powers of two."""
Best = tuple[np.ndarray, np.ndarray, np.ndarray | None, Explored | None]
"""Items, their scores and, if requested, log-probabilities and how the list was drawn."""
T = TypeVar("T")


class Bundle:
    """A policy that answers requests, without torch and without its log.

    Several threads may use it.

    Args:
        folder: what ``recalign export`` wrote, or a folder of versions with a file ``current``.
        threads: of ONNX Runtime.

    Raises:
        InputError: the bundle is damaged, incomplete or of another format, does not reproduce its own examples, or a
            package is missing.
    """

    def __init__(self, folder: str | Path, threads: int = 1) -> None:
        self.folder = current(Path(folder))
        with usable(self.folder):
            import onnxruntime
            from safetensors.numpy import load_file

            self.about = BundleConfig.read(self.folder)
            self.version = self.about.version
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            options.log_severity_level = 4  # its errors are raised anyway
            if b"location" in (self.folder / GRAPH).read_bytes():  # ONNX's key of a tensor in another file
                raise InputError(f"{GRAPH} keeps data in other files", where=str(self.folder), remedy=REMEDY)
            self._session = onnxruntime.InferenceSession(
                str(self.folder / GRAPH), options, providers=["CPUExecutionProvider"]
            )
            self._tables = {name: np.ascontiguousarray(x) for name, x in load_file(self.folder / TABLES).items()}
            nodes = sorted(len(x) for name, x in self._tables.items() if name.startswith(f"{NODES}trie.parent_"))
            self._prefixes = max(nodes[:-1], default=1)  # the largest level is the items
            self.catalogue = Catalogue(read_items(self.folder / ITEMS), self.about)
            self._require_tables()
            k = min(self.about.k, len(self.catalogue), MAX_ITEMS)
            asked = [self.catalogue.request([], [], [], 0, k=k, log_probs=one) for one in (False, True)]
            if any(len(answer.items) < k for answer in self.recommend(asked)):
                what = f"{ABOUT} promises {k:,} items, and the graph returns fewer"
                raise InputError(what, where=str(self.folder), remedy=REMEDY)
            first = self.catalogue.request(self.catalogue.ids[:1], [0], [None], 0, k=k)
            [logit_N] = self.run([self.encode(first)], ["logits"])[0]
            if logit_N[0] != -np.inf or not np.isfinite(logit_N[1:]).all():
                what = f"by {TABLES} and {GRAPH} an item's score is not finite, or the padding item's is not -inf"
                raise InputError(what, where=str(self.folder), remedy=REMEDY)
            self._check_examples()
            ids = [*islice(cycle(self.catalogue.ids), self.about.max_length)]
            full = self.catalogue.request(ids, [0] * len(ids), [0.0] * len(ids), 0)
            self._seconds = [
                min(timeit.repeat(partial(self.recommend, one), timer=time.thread_time, number=1))
                for one in (asked[0], full)
            ]

    @overload
    def recommend(self, requests: Request | Mapping[str, Any], **settings: Any) -> Answer: ...
    @overload
    def recommend(self, requests: pl.DataFrame, **settings: Any) -> pl.DataFrame: ...
    @overload
    def recommend(self, requests: Sequence[Request | Mapping[str, Any]], **settings: Any) -> list[Answer]: ...
    def recommend(self, requests: Any, **settings: Any) -> Any:
        """The best items for one request or many.

        Args:
            requests: a `Request` or the same as a mapping; a list of them; or a frame of events (Polars or pandas) with
                the columns ``user``, ``item``, ``timestamp`` and, if rewards are read, ``reward``.
            **settings: fields to set in every request, such as ``k=5``.

        Returns:
            An `Answer`; a list of them; or a frame ``user, rank, item, title, score``.

        Raises:
            InputError: a request cannot be answered; says which, where in it, and a remedy.
        """
        if type(requests).__module__.partition(".")[0] == "pandas":
            requests = pl.DataFrame({name: requests[name].to_list() for name in requests}).fill_nan(None)  # NaN is null
        if isinstance(requests, pl.DataFrame):
            return self._recommend_frame(requests, settings)
        if isinstance(requests, Request | Mapping):
            return self.recommend([requests], **settings)[0]
        if isinstance(requests, str) or not isinstance(requests, Sequence):
            remedy = "give a request, a list of them, or a DataFrame of Polars or pandas"
            raise InputError(f"{type(requests).__name__} is not a request", where="requests", remedy=remedy)
        encoded = []
        for place, given in enumerate(requests):
            try:
                encoded.append(self.encode(given, **settings))
            except InputError as error:
                where = f"request {place}: {error.where}" if len(requests) > 1 else error.where
                raise InputError(error.what, where=where, remedy=error.remedy) from None
        return self.answers(encoded)

    def _recommend_frame(self, events: pl.DataFrame, settings: Mapping[str, Any]) -> pl.DataFrame:
        if lacking := [name for name in ("user", "item", "timestamp") if name not in events.columns]:
            remedy = "give the columns user, item, timestamp and, where rewards are read, reward"
            raise InputError(f"the frame has no column {lacking[0]!r}", where="requests", remedy=remedy)
        histories = events.group_by("user", maintain_order=True).agg(
            pl.exclude("user").sort_by("timestamp", maintain_order=True)
        )
        names = {"item": "items", "timestamp": "times", "reward": "rewards"}
        asked = histories.select(pl.col(name).alias(field) for name, field in names.items() if name in events.columns)
        answers = self.recommend([{**row, **settings} for row in asked.iter_rows(named=True)])
        users = (user for user, answer in zip(histories["user"], answers, strict=True) for _ in answer.items)
        shown = [item for answer in answers for item in answer.items]
        return pl.DataFrame(
            {
                "user": pl.Series([*users], dtype=events["user"].dtype),
                "rank": [rank for answer in answers for rank in range(1, len(answer.items) + 1)],
                "item": pl.Series([one.item for one in shown], dtype=self.catalogue.table["item"].dtype),
                "title": pl.Series([one.title for one in shown], dtype=pl.String),
                "score": pl.Series([one.score for one in shown], dtype=pl.Float64),
            }
        )

    def score(self, request: Request | Mapping[str, Any], items: Sequence[Id]) -> Scored:
        """Log-probabilities of given items after a history.

        Args:
            request: its ``k`` is ignored. Seen items get None, unless ``seen`` is include.
            items: raw ids.

        Raises:
            InputError: as in `recommend`.
        """
        return self.scores([self.encode_score(Score(Request.from_any(request), items))])[0]  # type: ignore[arg-type]

    def encode(self, request: Request | Mapping[str, Any], **settings: Any) -> Encoded:
        """Encode a request, for `answers`."""
        asked, most = Request.from_any(request, **settings), len(self.catalogue)
        if asked.k > most:
            what = f"{asked.k:,} items are asked for, and the catalogue has {most:,}"
            raise InputError(what, where="k", remedy=f"give 1 to {most:,}")
        return self.catalogue.encode(asked)

    def encode_score(self, score: Score) -> tuple[Encoded, np.ndarray]:
        """Encode a request and the items to score, 0 for unknown ids, for `scores`."""
        encoded, number = self.catalogue.encode(score.request), self.catalogue.numbers("items", score.items)
        unknown = [score.items[place] for place in np.flatnonzero(number == 0)]
        return replace(encoded, left_out=encoded.left_out.with_unknown(unknown)), number

    def cost(self, one: Encoded) -> int:
        """Cost of a request: its pairs of events, or of a code's prefix and an event."""
        return len(one.item_L) * max(len(one.item_L), self._prefixes)

    def seconds(self, one: Encoded) -> float:
        """Expected seconds to answer a request alone, from times measured for an empty and a full history."""
        return self._seconds[0] + self._seconds[1] * (len(one.item_L) / self.about.max_length) ** 2

    def answers(self, encoded: Sequence[Encoded]) -> list[Answer]:
        """Answer requests, batched by length."""
        found: dict[int, Answer] = {}
        for group in self.groups(encoded):
            found |= zip(group, self._answered([encoded[place] for place in group]), strict=True)
        return [found[place] for place in range(len(encoded))]

    def scores(self, asked: Sequence[tuple[Encoded, np.ndarray]]) -> list[Scored]:
        """Score items, given by number, for each request."""

        def scored(place: int, score_N: np.ndarray) -> Scored:
            encoded, number = asked[place]
            log_probs = [float(x) if np.isfinite(x) else None for x in log_softmax(score_N)[number]]
            return Scored(log_probs, encoded.left_out, self.version)

        return self.map_scores([encoded for encoded, _ in asked], scored)

    def map_scores(self, encoded: Sequence[Encoded], function: Callable[[int, np.ndarray], T]) -> list[T]:
        """Apply a function to each request's index and its filtered scores, and return the results."""
        found: dict[int, T] = {}
        for group in self.groups(encoded):
            logit_BN = self.run([encoded[place] for place in group], ["logits"])[0]
            found |= {n: function(n, self.left(encoded[n], x_N)) for n, x_N in zip(group, logit_BN, strict=True)}
        return [found[place] for place in range(len(encoded))]

    def groups(self, encoded: Sequence[Encoded]) -> Iterator[list[int]]:
        """Indices of requests to batch: of similar length, and either all or none answered by the graph's top k."""
        by_kind: dict[tuple[bool, int], list[int]] = {}
        for place, one in enumerate(encoded):
            events = len(one.item_L)
            length = next((padded for padded in LENGTHS if events <= padded), 1 << (events - 1).bit_length())
            by_kind.setdefault((one.graph_top_k_suffices(self.about.k), length), []).append(place)
        for (_, length), places in sorted(by_kind.items()):
            pairs = length * max(length, self._prefixes)
            rows = max(1, min(MAX_BATCH, MAX_BATCH_SCORES // len(self.catalogue), MAX_BATCH_PAIRS // pairs))
            yield from (places[first : first + rows] for first in range(0, len(places), rows))

    def table(self, name: str) -> np.ndarray | None:
        """A table of the graph; None if it has none of this name."""
        return self._tables.get(name)

    def run(
        self, group: Sequence[Encoded], outputs: list[str], changed: dict[str, np.ndarray] | None = None
    ) -> list[np.ndarray]:
        """The graph's outputs for some requests; ``changed`` tables replace the bundle's."""
        length = max(1, *(len(one.item_L) for one in group))
        hidden = max(1, *(len(one.hidden_S) for one in group))
        make: dict[str, Callable[[], np.ndarray]] = {
            "item": lambda: padded([one.item_L for one in group], length),
            "time": lambda: padded([one.time_L for one in group], length, last=True),
            "length": lambda: np.array([len(one.item_L) for one in group], np.int64),
            "hidden": lambda: padded([one.hidden_S for one in group], hidden),
            "reward": lambda: padded([one.reward_L for one in group], length, np.float32("nan")),
            "request_time": lambda: padded([one.request_time_L for one in group], length, last=True),
            "strength": lambda: np.array([one.strength for one in group], np.float32),
        }
        inputs = {name: make[name]() for name in self.about.inputs} | self._tables | (changed or {})
        return self._session.run(outputs, inputs)  # type: ignore[no-any-return]

    def left(self, one: Encoded, logit_N: np.ndarray) -> np.ndarray:
        """Boosted scores of the items that pass a request's filters; -inf elsewhere. Shape: (N,) -> (N,)."""
        score_N = logit_N.astype(np.float64)
        if one.request.boost:
            score_N += self.catalogue.boosts(one.request.boost)
        score_N[one.hidden_S] = -np.inf
        if one.allow_N is not None:
            score_N[~one.allow_N] = -np.inf
        return score_N

    def _answered(self, group: Sequence[Encoded]) -> list[Answer]:
        if group[0].graph_top_k_suffices(self.about.k):
            item_BK, score_BK = self.run(group, ["items", "scores"])
            ks = [one.request.k for one in group]
            best: list[Best] = [(item_BK[n, :k], score_BK[n, :k], None, None) for n, k in enumerate(ks)]
        else:
            logit_BN = self.run(group, ["logits"])[0]
            best = [best_of(one, self.left(one, logit_N)) for one, logit_N in zip(group, logit_BN, strict=True)]
        return [self._answer(one, found) for one, found in zip(group, best, strict=True)]

    def _answer(self, one: Encoded, best: Best) -> Answer:
        item_K, score_K, logp_K, explored = best
        ids, titles = self.catalogue.ids, self.catalogue.titles
        logps = [None] * len(item_K) if logp_K is None else logp_K.tolist()
        rows = zip(item_K.tolist(), score_K.tolist(), logps, strict=True)
        shown = [Shown(ids[item - 1], titles[item - 1], score, logp) for item, score, logp in rows if item > 0]
        return Answer(shown, one.left_out, self.version, explored)

    def _require_tables(self) -> None:
        """Refuse tables of wrong sizes or values, which might break answers to some histories only."""
        for name, x in self._tables.items():
            of_items, items = not name.startswith(NODES), len(self.catalogue)
            if of_items and len(x) != items + 1:
                what = f"{name} of {TABLES} has {len(x):,} rows; {items:,} items of {ITEMS} need {items + 1:,}"
                raise InputError(what, where=str(self.folder), remedy=REMEDY)
            least, most = (0, len(x) - 1) if "neighbour" in name else (-LARGEST, LARGEST)
            own = x[1:] if of_items else x  # the padding item's scores are -inf
            if own.size and not (least <= float(own.min()) and float(own.max()) <= most):
                what = f"{name} of {TABLES} holds {own.min()} to {own.max()}, outside {least:g} to {most:g}"
                raise InputError(what, where=str(self.folder), remedy=REMEDY)

    def _check_examples(self) -> None:
        """Compare answers to the bundle's example requests with those at export.

        Raises:
            InputError: an answer differs, and not by a tie.
        """
        for place, example in enumerate(read_json(self.folder / EXAMPLES)):
            now, then = self.recommend(example["request"]), example["answer"]["items"]
            same = len(now.items) == len(then) and all(
                one.item == other["item"] or abs(one.score - other["score"]) <= self.about.rounding
                for one, other in zip(now.items, then, strict=True)
            )
            if not same:
                what = f"example {place} of {EXAMPLES} gets another answer here than at export"
                remedy = f"use the onnxruntime version in bundle.json, or {REMEDY}"
                raise InputError(what, where=str(self.folder), remedy=remedy)


load_bundle = Bundle
"""Load what ``recalign export`` wrote: needs neither torch nor the log."""


def padded(rows: Sequence[np.ndarray], width: int, value: Any = 0, last: bool = False) -> np.ndarray:
    """Rows of different lengths as one array, padded with a value, or with each row's last value."""
    if len(rows) == 1 and len(rows[0]) == width:
        return rows[0][None]
    full = np.full((len(rows), width), value, rows[0].dtype)
    for own, row in zip(full, rows, strict=True):
        own[: len(row)] = row
        if last and len(row):
            own[len(row) :] = row[-1]
    return full


def best_of(one: Encoded, score_N: np.ndarray) -> Best:
    """The best or drawn items by the scores of `Bundle.left`, and what else the request asks for."""
    k = min(one.request.k, len(score_N) - 1)
    least = np.partition(score_N, -k)[-k]
    item_X = np.flatnonzero((score_N >= least) & np.isfinite(score_N))
    item_K = item_X[np.argsort(-score_N[item_X], kind="stable")[:k]]  # ties by item number, as in the graph
    item_K, explored = drawn(score_N, item_K, one.request.explore) if one.request.explore else (item_K, None)
    return item_K, score_N[item_K], log_softmax(score_N)[item_K] if one.request.log_probs else None, explored


def log_softmax(score_N: np.ndarray) -> np.ndarray:
    """Log-probabilities; -inf everywhere if no score is finite."""
    most = score_N.max()
    return score_N - most - np.log(np.exp(score_N - most).sum()) if np.isfinite(most) else score_N
