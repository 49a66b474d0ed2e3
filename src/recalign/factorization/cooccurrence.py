"""Co-occurrence embeddings of items: items that the same users choose get similar vectors.

They are known before any reward, and where choices are many and rewards noisy they tell more of a user's preferences
than the rewards do. With A_ui = 1 where user u chose item i, d_u and d_i its row and column sums, and m and n their
means,

    L = (D_u + m I)^-1/2  A  (D_i + n I)^-1/2  =  U S V',        z_i = row i of V S,

a truncated singular value decomposition (regularised spectral clustering; Qin & Rohe 2013, arXiv 1309.4111). The means
keep a few users who share nothing with the others from filling it. The first component, which is how popular an item
is, is left out. An item with few choices has a short vector.

Suffixes: N choices, R rows (of items), K dimensions.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import svds

ROUNDING = 1e-6  # smaller singular values, as a share of the largest, are rounding errors
DENSE = 10**5  # entries up to which all vectors are worked out: near full rank ARPACK restarts at random


def cooccurrence_embedding(user_N: np.ndarray, item_N: np.ndarray, items: int, count: int) -> np.ndarray:
    """Embed items by who chose them.

    Args:
        user_N, item_N: integers from 0, who chose what; a repeated pair counts once.
        items: R; an item without a choice lies at 0.
        count: K; dimensions that the choices are too few for are 0.

    Returns:
        float64 (R, K). Each column has mean 0 over the choices, and the columns in use mean square 1 over all of them.
    """
    z_RK = np.zeros((items, count))
    user_N = np.unique(user_N, return_inverse=True)[1]
    chosen = csr_array((np.ones(len(user_N)), (user_N, item_N)), shape=(user_N.max(initial=-1) + 1, items))
    chosen.data[:] = 1
    dimensions = min(count, min(chosen.shape) - 2)
    if dimensions < 1:
        return z_RK
    degree_U, degree_R = chosen.sum(axis=1), chosen.sum(axis=0)
    scaled = diags_array(_inverse_root(degree_U)) @ chosen @ diags_array(_inverse_root(degree_R))
    value_K, vector_KR = _right_singular(scaled, dimensions + 1)
    order_K = np.argsort(-value_K)[1:]
    order_K = order_K[value_K[order_K] > ROUNDING * value_K.max()]
    if len(order_K) == 0:
        return z_RK
    found_RK = (value_K[order_K, None] * vector_KR[order_K]).T
    found_RK -= degree_R @ found_RK / degree_R.sum()
    found_RK[degree_R == 0] = 0
    square = degree_R @ np.square(found_RK).sum(axis=1) / degree_R.sum()
    z_RK[:, : len(order_K)] = found_RK * np.sqrt(len(order_K) / square)
    return z_RK


def _right_singular(matrix: csr_array, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest singular values and their right vectors, the same at every call. Shape: (K,), (K, R)."""
    if matrix.shape[0] * matrix.shape[1] <= DENSE:
        _, value, vector = np.linalg.svd(matrix.toarray(), full_matrices=False)
        return value[:count], vector[:count]
    start = np.random.default_rng(0).normal(size=min(matrix.shape))
    _, value, vector = svds(matrix, k=count, v0=start, return_singular_vectors="vh")
    return value, vector


def _inverse_root(degree: np.ndarray) -> np.ndarray:
    """One over the root of degrees, the mean of those above 0 added."""
    return (degree + degree[degree > 0].mean()) ** -0.5
