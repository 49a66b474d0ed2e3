"""What popular items alone gain: the start tilted by the items' training counts, without rewards.

    log pi(v | s) + c log(n_v + 1/2),   c from `STRENGTHS`, up and down from the start at 0

A method is compared with the tilt that shows items as popular as its own, by interpolation between the two nearest
strengths: what others show need not be judged. This describes a method; nothing is chosen by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recalign.data.sequences import Batch, EventDataModule
from recalign.evaluation.baselines import ItemScores, Rerank, log_counts
from recalign.evaluation.value import SHOWN, mean_shown
from recalign.nn import top_k_from_scores
from recalign.recommender.policy import Policy, chunks, seen_within
from recalign.reward import RewardEnsemble

STRENGTHS = (-2.0, -1.5, -1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)


@dataclass(frozen=True)
class PopularityCurve:
    """What the tilted start shows at S strengths.

    Attributes:
        log_count_S: mean log(n + 1/2) of the ten items shown, on validation.
        value_S: mean reward that a judge gives to the ten items shown, on the test.
    """

    log_count_S: np.ndarray
    value_S: np.ndarray

    def value_at(self, log_count: float) -> float:
        """The value at a popularity, linear between two strengths; nan where it is nan, or beyond all that is known."""
        order = np.argsort(self.log_count_S)
        known, value = self.log_count_S[order], self.value_S[order]
        if np.isnan(log_count):  # which a single strength would answer
            return float("nan")
        return float(np.interp(log_count, known, value, left=np.nan, right=np.nan))


def popularity_curve(
    start: Policy,
    judge: RewardEnsemble,
    data: EventDataModule,
    device: torch.device,
    asked: Sequence[float],
    own_data: EventDataModule | None = None,
) -> PopularityCurve:
    """Measure the tilted start on the histories of users A.

    Args:
        start, judge, data, device: what is tilted, what judges, the log and where to work.
        asked: popularities at which `PopularityCurve.value_at` will be asked; the curve holds what that takes.
        own_data: as the judge reads it, if it has a reward of its own (`data_of_judges`).
    """
    tilt = ItemScores(log_counts(data.sequences))
    tilted = [Rerank(start, tilt, strength).eval().to(device) for strength in STRENGTHS]
    judge.eval().to(device)
    on_validation, on_test = (data.loader(data.windows(part, "A")) for part in ("validation", "test"))
    log_count_S = _means(tilted, tilt, ((batch, batch) for batch in on_validation), device)
    taken = _neighbours(log_count_S, asked)
    both: Iterable[tuple[Batch, Batch]] = ((batch, batch) for batch in on_test)
    if own_data is not None:
        both = zip(on_test, own_data.loader(data.windows("test", "A"), seen=False), strict=True)
    return PopularityCurve(log_count_S[taken], _means([tilted[place] for place in taken], judge, both, device))


def _neighbours(known_S: np.ndarray, asked: Sequence[float]) -> np.ndarray:
    """Places of the values next to each of those asked for, below and above; ends stand for what is beyond."""
    order = np.argsort(known_S)
    above = np.searchsorted(known_S[order], asked)
    return np.unique(order[np.concatenate([above - 1, above]).clip(0, len(order) - 1)])


@torch.no_grad()
def _means(
    tilted: Sequence[Rerank],
    scores: RewardEnsemble | ItemScores,
    batches: Iterable[tuple[Batch, Batch]],
    device: torch.device,
) -> np.ndarray:
    """Mean score of the items that each policy shows, over histories to which anything can be shown. Shape: (S,).

    Each batch as the policies read it, and as the scores do.
    """
    total_S, count = np.zeros(len(tilted)), 0
    for read, scored in batches:
        batch = read.to(device)
        states = scores.states(scored.to(device))
        for place, shown_TK in enumerate(_shown(tilted, batch)):
            total_S[place] += mean_shown(scores.predict(states, shown_TK.clamp(min=1)), shown_TK).sum().item()
        count += int((shown_TK > 0).any(dim=1).sum())
    return total_S / count


def _shown(tilted: Sequence[Rerank], batch: Batch) -> list[Tensor]:
    """The items that each policy shows before each target; they differ in strength alone. Shape: -> S of (T, K)."""
    state, parts = tilted[0].encode(batch), []
    assert batch.seen_N is not None
    for part in chunks(len(state), tilted[0].num_items):
        logp_TV, score_TV = tilted[0].scored(state[part])
        unseen_TV = logp_TV.index_put(seen_within(batch.seen_N, part), logp_TV.new_tensor(-torch.inf))  # once for all
        parts.append([top_k_from_scores(unseen_TV + each.strength * score_TV, SHOWN)[1] + 1 for each in tilted])
    return [torch.cat(shown) for shown in zip(*parts, strict=True)]
