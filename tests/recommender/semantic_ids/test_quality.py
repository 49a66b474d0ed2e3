"""Figures of semantic ids, and the verdict on codebooks that collapsed in known ways."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recalign.recommender.semantic_ids.quality import figures
from recalign.recommender.semantic_ids.quantization import Quantized, quantize


def cloudy(items: int = 400) -> np.ndarray:
    random = np.random.default_rng(0)
    x_ND = 2 * random.normal(size=(20, 8))[random.integers(20, size=items)] + random.normal(size=(items, 8))
    return x_ND.astype(np.float32)


def said(x_ND: np.ndarray) -> dict:
    x_ND = x_ND - x_ND.mean(axis=0)
    return figures(x_ND, quantize(x_ND, (20, 26)))


def test_quality_of_separate_clusters_is_sound():
    found = said(cloudy())
    assert (found["verdict"], found["defects"]) == ("sound", [])


def test_quality_finds_collapse_behind_unique_ids():
    """All codes are in use and every id is unique; yet half of the items, or all, have one vector."""
    half = cloudy()
    half[::2] = 0
    found = said(half)
    assert all(level["used_share"] == 1 for level in found["levels"])
    assert found["verdict"] == "collapsed"
    assert any("one id is nearest to 20" in defect for defect in found["defects"])
    same = said(np.ones((400, 8), np.float32))
    assert same["reconstruction_error"] == 1
    assert same["nearest"]["distinct"] == 1
    assert len(same["defects"]) == 5


def test_quality_figures_values():
    """Four items on a line, two by two; the last two have one nearest id."""
    x_ND = np.array([[-3.0], [-1.0], [2.0], [2.0]], np.float32)
    centres = [np.array([[-2], [2]], np.float32), np.array([[-1], [1]], np.float32)]
    codes_NL = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    nearest_NL = np.array([[0, 0], [0, 1], [1, 0], [1, 0]])
    found = figures(x_ND, Quantized(codes_NL, (2, 2), centres, nearest_NL))
    assert found["reconstruction_error"] == pytest.approx(2 / 18)
    first, second = found["levels"]
    assert first["entropy_nats"] == second["entropy_nats"] == first["of_nats"] == pytest.approx(math.log(2))
    assert second["nearest_entropy_nats"] == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert (first["used_share"], first["largest"], first["size"]) == (1, 2, 2)
    near = found["nearest"]
    assert (near["distinct"], near["largest_bucket"], near["unique_share"]) == (3, 2, 0.5)
    assert near["distinct_if_random"] == pytest.approx(4 * (1 - 0.75**4))
    assert (found["items"], found["moved"], found["ids"], found["free"]) == (4, 1, 4, 0)
