"""Co-occurrence embeddings of items: items that the same users choose get similar vectors.

They need no rewards. With A_ui = 1 where user u chose item i, d_u and d_i its row and column sums, and m and n their
means,

    L = (D_u + m I)^-1/2  A  (D_i + n I)^-1/2  =  U S V',        z_i = row i of V S,

a truncated SVD of the user-item matrix (regularised spectral clustering; Qin & Rohe 2013, arXiv 1309.4111). Adding the
means keeps small isolated groups of users from dominating the components. The first component, which is item
popularity, is dropped. An item with few choices has a short vector.

Suffixes: N choices, R rows (of items), K dimensions.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import svds

ROUNDING = 1e-6  # smaller singular values, as a share of the largest, are rounding errors
DENSE = 10**5  # matrix entries up to which the SVD is dense: near full rank ARPACK restarts at random


def cooccurrence_embedding(user_N: np.ndarray, item_N: np.ndarray, items: int, count: int) -> np.ndarray:
    """Compute co-occurrence embeddings.

    Args:
        user_N, item_N: integers from 0, the user and item of each choice; a repeated pair counts once.
        items: R; an item without choices gets a zero vector.
        count: K; dimensions beyond the rank of the data are 0.

    Returns:
        float64 (R, K). Over the choices, each column has mean 0, and the non-zero columns together have mean square 1.
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
    """The largest singular values and their right vectors, deterministic. Shape: (K,), (K, R)."""
    if matrix.shape[0] * matrix.shape[1] <= DENSE:
        _, value, vector = np.linalg.svd(matrix.toarray(), full_matrices=False)
        return value[:count], vector[:count]
    start = np.random.default_rng(0).normal(size=min(matrix.shape))
    _, value, vector = svds(matrix, k=count, v0=start, return_singular_vectors="vh")
    return value, vector


def _inverse_root(degree: np.ndarray) -> np.ndarray:
    """(degree + mean of the positive degrees)^-1/2."""
    return (degree + degree[degree > 0].mean()) ** -0.5
