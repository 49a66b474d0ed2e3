"""Lists drawn at random without replacement, with the exact probability of each item.

Of items with scores s the first is drawn with probability softmax(s / temperature), the next from what is left, and so
on: the Plackett-Luce distribution (Luce 1959, Plackett 1975). The k largest of s / temperature + Gumbel noise are such
a draw (Yellott 1977; Kool, van Hoof & Welling 2019). Its probabilities need no sampling:

    log p_j = x_j - log(exp(x_j) + ... + exp(x_k) + sum over the items not shown),    x = s / temperature,

whose normalisers are one reverse cumulative logaddexp over the list, from the log-normaliser of the rest.

Shape suffixes: K items shown, N = V + 1 items with the padding item at 0.
"""

from __future__ import annotations

import secrets

import numpy as np

from recalign.serve.server.answer import Explored
from recalign.serve.server.request import SEEDS, Explore


def drawn(score_N: np.ndarray, ranked_K: np.ndarray, explore: Explore) -> tuple[np.ndarray, Explored]:
    """Draw a request's list with probability ``explore.share``, else return the ranked list.

    Args:
        score_N: boosted scores of the items that pass the filters; -inf elsewhere.
        ranked_K: the ranked list.
        explore: settings of the draw.

    Returns:
        The items of the list, as many as are ranked, and how the list was made. Shape: int64 (K,).
    """
    seed = secrets.randbelow(SEEDS) if explore.seed is None else explore.seed
    random = np.random.default_rng(seed)
    explored = bool(random.random() < explore.share)
    item_K, score_N = ranked_K, score_N / explore.temperature
    if explored:
        item_K = gumbel_top_k(score_N, ranked_K[: explore.fixed], len(ranked_K), random)
    return item_K, Explored(
        arm="explored" if explored else "ranked",
        chance=float(explore.share if explored else 1 - explore.share),
        temperature=float(explore.temperature),
        fixed=explore.fixed,
        seed=seed,
        ranked=int(np.cumprod(item_K == ranked_K).sum()),
        log_probs=log_chances(score_N, item_K, explore.fixed).tolist(),
    )


def gumbel_top_k(score_N: np.ndarray, first_M: np.ndarray, k: int, random: np.random.Generator) -> np.ndarray:
    """A list of k items, the first of them given, the others drawn without replacement. Shape: int64 (K,)."""
    key_N = score_N + random.gumbel(size=len(score_N))
    key_N[first_M] = -np.inf
    rest = k - len(first_M)
    if not rest:
        return first_M
    best_X = np.argpartition(-key_N, rest - 1)[:rest]
    return np.concatenate([first_M, best_X[np.argsort(-key_N[best_X], kind="stable")]])


def log_chances(score_N: np.ndarray, item_K: np.ndarray, fixed: int = 0) -> np.ndarray:
    """The log-probability of each item of a list given those before it; 0 for the fixed ones. Shape: float64 (K,).

    Args:
        score_N: divided by the temperature; -inf for items that the filters leave out.
        item_K: a list of different items with finite scores.
        fixed: number of first positions that are not drawn.
    """
    logp_K = np.zeros(len(item_K))
    own_K = score_N[item_K][fixed:]
    if len(own_K):
        rest_N = score_N.copy()
        rest_N[item_K] = -np.inf
        normaliser_K = np.logaddexp.accumulate(np.concatenate([[_logsumexp(rest_N)], own_K[::-1]]))[:0:-1]
        logp_K[fixed:] = own_K - normaliser_K
    return logp_K


def _logsumexp(score_N: np.ndarray) -> float:
    most = score_N.max()
    return float(most + np.log(np.exp(score_N - most).sum())) if np.isfinite(most) else -np.inf
