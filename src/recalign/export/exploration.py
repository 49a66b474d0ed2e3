"""What exploration costs, before it is switched on: lists drawn at some temperatures, on validation, as requests.

Drawn and ranked lists answer the same requests, so the loss is a paired difference and its error that of the
difference, each user's events together. Of a share of the requests it is that share of the loss: no more to measure.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from recalign.errors import InputError
from recalign.evaluation.value import mean_shown
from recalign.export.cap import paired
from recalign.export.verify import SHOWN, USERS, as_requests
from recalign.recommender.checkpoint import load_net
from recalign.reward import RewardEnsemble
from recalign.sequences import EventDataModule
from recalign.sequences.windows import Windows, evaluation_windows, sample_users
from recalign.serving.answer import Answer
from recalign.serving.bundle import Bundle
from recalign.serving.request import Explore, Request
from recalign.stage.folder import RunFolder
from recalign.stage.opened import OpenedRun
from recalign.stage.record import final_checkpoint

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
    judge: RewardEnsemble | None = None,
    fixed: int = 0,
    seed: int = 0,
) -> list[Cost]:
    """What exploring at each temperature costs.

    Args:
        data, bundle: whose validation events are asked for, of whom.
        temperatures: of the draws.
        judge: values the items shown.
        fixed: first positions that are not drawn.
        seed: of the first request; each has its own.

    Raises:
        InputError: there are no validation events, or a temperature is out of range.
    """
    sequences = data.sequences
    users = sample_users(sequences, np.ones(sequences.num_users, bool), USERS)
    windows = evaluation_windows(sequences, users, "validation", data.max_length)
    if not len(windows.target):
        raise InputError(
            "no validation events to explore on", where="explore", remedy="leave it out, or split otherwise"
        )
    ranked = _Asked(data, bundle, windows, judge, None)
    found = []
    for temperature in temperatures:
        drawn = _Asked(data, bundle, windows, judge, Explore(temperature, fixed=fixed), seed)
        lost, error = paired(ranked.gain_T - drawn.gain_T, ranked.user_T)
        cost = Cost(temperature, float(drawn.gain_T.mean()), lost, error)
        if ranked.value_T is not None and drawn.value_T is not None:
            of_A = sequences.users_in("A")[ranked.user_T]
            lost, error = paired((ranked.value_T - drawn.value_T)[of_A], ranked.user_T[of_A])
            cost = replace(cost, value=float(drawn.value_T[of_A].mean()), value_lost=lost, value_error=error)
        found.append(cost)
    return found


class _Asked:
    """Every validation event, asked for: gains, whose they are, and what the judges expect. Shape: (T,) each."""

    def __init__(
        self,
        data: EventDataModule,
        bundle: Bundle,
        windows: Windows,
        judge: RewardEnsemble | None,
        explore: Explore | None,
        seed: int = 0,
    ) -> None:
        seeds, shown = itertools.count(seed), list[list[int]]()
        number = bundle.catalogue.number

        def told(request: Request) -> Request:
            return replace(request, explore=replace(explore, seed=next(seeds))) if explore else request

        def heard(answers: Sequence[Answer]) -> None:
            for answer in answers:
                items = [number[one.item] for one in answer.items]
                shown.append(items + [0] * (SHOWN - len(items)))

        self.gain_T, self.user_T, _ = as_requests(windows, data, bundle, told, heard)
        self.value_T = None if judge is None else values(data, windows, torch.tensor(shown), judge)


@torch.no_grad()
def values(data: EventDataModule, windows: Windows, shown_TK: torch.Tensor, judge: RewardEnsemble) -> np.ndarray:
    """The mean reward that judges expect of the items shown before each target. Shape: int64 (T, K) -> float64 (T,)."""
    place = {event: at for at, event in enumerate(windows.event.tolist())}
    value_T = np.zeros(len(place))
    for batch in data.loader(windows, seen=False):
        own = [place[event] for event in batch.event_T.tolist()]
        shown = shown_TK[own]
        value_T[own] = mean_shown(judge.predict(judge.states(batch), shown.clamp(min=1)), shown).numpy()
    return value_T


def judge_of(made: OpenedRun) -> RewardEnsemble | None:
    """The judges for selection of a run's chain, on the CPU; None: it has none.

    Raises:
        InputError: they are of another log.
    """
    path = final_checkpoint(RunFolder(made.chain / JUDGE / made.folder.name))
    if path is None:
        return None
    loaded = load_net(path, "reward")
    loaded.check(made.data)
    return loaded.net.eval()
