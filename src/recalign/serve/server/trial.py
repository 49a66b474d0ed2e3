"""A page to try a bundle on: search for items, click a history together, and see the lists of one or two bundles."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import polars as pl
from fastapi import FastAPI, Query, Response
from fastapi.responses import HTMLResponse
from pydantic import Field, TypeAdapter

from recalign.serve.server.answer import Shown
from recalign.serve.server.bundle import MAX_BATCH_PAIRS, Bundle
from recalign.serve.server.catalogue import MICRO, Catalogue, Encoded
from recalign.serve.server.request import MAX_HISTORY, Explore, Id, Ids, Number, model
from recalign.serve.server.service import Batcher, Service
from recalign.serve.server.why import Explained, explain

PAGE, ITEMS, BUNDLE, TRY = "/", "/items", "/bundle", "/try"
MAX_FOUND, STEP = 100, 60 * MICRO
"""Maximum items that a search returns; microseconds between two clicked events."""
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'"
"""The page's Content-Security-Policy: it may load nothing but answers of this server."""


@dataclass(frozen=True)
class Item:
    """An item of the catalogue."""

    item: Id
    title: str


@dataclass(frozen=True)
class About:
    """The bundles that a server serves.

    Attributes:
        bundles: names of the bundles; the second, if any, is shown beside the first.
        version: of the first.
        items: size of the catalogue.
        ids: whether raw ids are texts or integers.
        max_length: number of newest events that are read.
        reward: the expression of a history's rewards, from the first bundle that reads rewards; null: none does.
        time_unit: unit of requests' times.
        ndcg: NDCG@10 of the first bundle's answers to requests, on its log's test events; null: not verified.
    """

    bundles: Sequence[str]
    version: str
    items: int
    ids: str
    max_length: int
    reward: str | None
    time_unit: str
    ndcg: float | None


@model
class Trial:
    """A history of items that were clicked a minute apart, the last of them now.

    Attributes:
        items: raw ids, oldest first.
        rewards: of each item, if the policy reads rewards; null: unknown.
        k: items to return; all of a smaller catalogue.
        explore: also draw lists at random; null: only the best items, ranked.
    """

    items: Ids = field(default_factory=list)
    rewards: Annotated[list[Number | None], Field(max_length=MAX_HISTORY)] | None = None
    k: Annotated[int, Field(strict=True, ge=1, le=100)] = 10
    explore: Explore | None = None


@dataclass(frozen=True)
class Tried:
    """The lists for a history, one per bundle, in the order of ``bundles`` (`About`).

    Attributes:
        lists: ranked, each item with why it stands there.
        drawn: lists drawn at random; ``log_prob`` is that of the item given those before it. Null: not requested.
    """

    lists: Sequence[Sequence[Explained]]
    drawn: Sequence[Sequence[Shown]] | None = None


def search(catalogue: Catalogue, query: str, k: int) -> list[Item]:
    """Items whose title or id contains the query, ignoring case; most training events first."""
    holds = [
        pl.col(name).cast(pl.String).str.to_lowercase().str.contains(query.lower(), literal=True)
        for name in ("item", "title")
    ]
    found = catalogue.table.filter(pl.any_horizontal(holds)).sort("count", descending=True, maintain_order=True)
    return [Item(item, title) for item, title in found.select("item", "title").head(k).iter_rows()]


def answer_trial(bundles: Sequence[Bundle], trial: Trial) -> Tried:
    """Each bundle's lists for a trial, with explanations."""
    now = time.time_ns() // 1000
    times = [now - STEP * back for back in reversed(range(len(trial.items)))]
    rewards = trial.rewards or [None] * len(trial.items)

    def asked(bundle: Bundle, explore: Explore | None = None) -> Encoded:
        k = min(trial.k, len(bundle.catalogue))
        return bundle.encode(bundle.catalogue.request(trial.items, times, rewards, now, k=k, explore=explore))

    encoded = [asked(bundle) for bundle in bundles]
    answers = [bundle.answers([one])[0] for bundle, one in zip(bundles, encoded, strict=True)]
    lists = explain(bundles, encoded, [[one.item for one in answer.items] for answer in answers])
    if trial.explore is None:
        return Tried(lists)
    drawn = [bundle.answers([asked(bundle, trial.explore)])[0] for bundle in bundles]
    chances = [(one.items, one.explored.log_probs) for one in drawn if one.explored is not None]
    return Tried(lists, [[replace(one, log_prob=p) for one, p in zip(*of, strict=True)] for of in chances])


def about(bundles: Sequence[Bundle]) -> About:
    """Describe the bundles to the page and other clients."""
    first, catalogue = bundles[0].about, bundles[0].catalogue
    ids = "text" if catalogue.has_texts else "integer"
    names = [bundle.about.name for bundle in bundles]
    reward = next((bundle.about.reward for bundle in bundles if bundle.about.reward is not None), None)
    ndcg = next(iter(first.verified.get("request", ())), None)
    return About(names, first.version, len(catalogue), ids, first.max_length, reward, first.time_unit, ndcg)


def add_page(app: FastAPI, services: Sequence[Service]) -> None:
    """Add the page and its routes to an application.

    Args:
        services: of the bundle that is served, and of the one to show beside it, if any.
    """
    trials = Batcher[Trial, Tried](  # one at a time, in a thread of its own
        lambda taken: [answer_trial([one.bundle for one in services], taken[0])],
        "trials",
        cost=lambda _: MAX_BATCH_PAIRS,
    )

    @app.get(PAGE, response_class=HTMLResponse, summary="A page to try it on")
    async def page() -> HTMLResponse:
        text = Path(__file__).with_name("trial.html").read_text(encoding="utf-8")
        return HTMLResponse(text, headers={"Content-Security-Policy": POLICY})

    @app.get(BUNDLE, summary="What is served")
    async def bundle() -> About:
        return about([service.bundle for service in services])

    @app.get(ITEMS, summary="Search for items by title or id")
    def items(  # in a thread: a search of a million titles takes a while
        query: Annotated[str, Query(max_length=200)] = "", k: Annotated[int, Query(ge=1, le=MAX_FOUND)] = 20
    ) -> list[Item]:
        return search(services[0].bundle.catalogue, query, k)

    @app.post(TRY, response_model=Tried, summary="The lists that a history leads to")
    async def tried(trial: Trial) -> Response:
        found = await trials.ask(trial)
        return Response(TypeAdapter(Tried).dump_json(found), media_type="application/json")
