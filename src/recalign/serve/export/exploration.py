"""What exploration costs, before it is switched on: lists drawn at some temperatures, on validation, as requests.

Drawn and ranked lists answer the same requests, so the loss is a paired difference and its error that of the
difference, each user's events together. Of a share of the requests it is that share of the loss: no more to measure.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from recalign.data.sequences import EventDataModule
from recalign.data.sequences.windows import Windows
from recalign.evaluation.judges import data_of_judges
from recalign.evaluation.value import mean_shown
from recalign.recommender.checkpoint import check_catalogue, load_net
from recalign.reward import RewardEnsemble
from recalign.run.stage.folder import RunFolder
from recalign.run.stage.opened import OpenedRun
from recalign.run.stage.record import final_checkpoint
from recalign.serve.export.cap import paired
from recalign.serve.export.verify import as_requests, windows_of
from recalign.serve.server.bundle import Bundle
from recalign.serve.server.request import Explore, Request

JUDGE = "judge_select"
"""Of a chain: the judges that choose settings, and never report."""


@dataclass(frozen=True)
class Cost:
    """What lists drawn at a temperature lose.

    Attributes:
        temperature: of the draw.
        ndcg: NDCG@10 on validation.
        lost, error: how much less than the ranked list, and one standard error of that, over users.
        value: mean reward that the judges for selection expect of the ten items, users A; None: there are no judges.
        value_lost, value_error: likewise.
    """

    temperature: float
    ndcg: float
    lost: float
    error: float
    value: float | None = None
    value_lost: float | None = None
    value_error: float | None = None


def costs(
    data: EventDataModule,
    bundle: Bundle,
    temperatures: Sequence[float],
    judge: tuple[RewardEnsemble, EventDataModule] | None = None,
    fixed: int = 0,
    seed: int = 0,
) -> list[Cost]:
    """What exploring at each temperature costs.

    Args:
        data, bundle: whose validation events are asked for, of whom.
        temperatures: of the draws.
        judge: values the items shown; with the data as it reads it.
        fixed: first positions that are not drawn.
        seed: of the first request; each has its own.

    Raises:
        InputError: there are no validation events, or a temperature is out of range.
    """
    windows = windows_of(data, "validation", "explore")
    gain_T, user_T, _, shown_TK = as_requests(windows, data, bundle)
    value_T = None if judge is None else values(windows, torch.from_numpy(shown_TK), *judge)
    found = []
    for temperature in temperatures:
        drawn = Explore(temperature, fixed=fixed)
        told = partial(_explored, explore=drawn, seeds=itertools.count(seed))
        drawn_T, _, _, shown_TK = as_requests(windows, data, bundle, told)
        lost, error = paired(gain_T - drawn_T, user_T)
        cost = Cost(temperature, float(drawn_T.mean()), lost, error)
        if judge is not None and value_T is not None:
            of_A = data.sequences.users_in("A")[user_T]
            worth_T = values(windows, torch.from_numpy(shown_TK), *judge)
            lost, error = paired((value_T - worth_T)[of_A], user_T[of_A])
            cost = replace(cost, value=float(worth_T[of_A].mean()), value_lost=lost, value_error=error)
        found.append(cost)
    return found


def _explored(request: Request, explore: Explore, seeds: Iterator[int]) -> Request:
    return replace(request, explore=replace(explore, seed=next(seeds)))


@torch.no_grad()
def values(windows: Windows, shown_TK: torch.Tensor, judge: RewardEnsemble, data: EventDataModule) -> np.ndarray:
    """The mean reward that judges expect of the items shown before each target. Shape: int64 (T, K) -> float64 (T,)."""
    place = {event: at for at, event in enumerate(windows.event.tolist())}
    value_T = np.zeros(len(place))
    for batch in data.loader(windows, seen=False):
        own = [place[event] for event in batch.event_T.tolist()]
        shown = shown_TK[own]
        value_T[own] = mean_shown(judge.predict(judge.states(batch), shown.clamp(min=1)), shown).numpy()
    return value_T


def judge_of(made: OpenedRun) -> tuple[RewardEnsemble, EventDataModule] | None:
    """The judges for selection of a run's chain, on the CPU, and the data as they read it; None: it has none.

    Raises:
        InputError: they are of another log.
    """
    path = final_checkpoint(RunFolder(made.chain / JUDGE / made.folder.name))
    if path is None:
        return None
    loaded = load_net(path, "reward")
    check_catalogue(loaded.catalogue, made.data.sequences.catalogue, str(path))
    return loaded.net.eval(), data_of_judges([loaded], made.data)[0]
